"""Where the time goes: parts of an iteration by name, and how often operations run."""

import json

import jax
import jax.numpy as jnp
import pytest

from jaxppo.run.profile import SKIPPED, TRACED, part_of, profiled, profiling
from jaxppo.run.progress import announce

TRIPS = 7


@pytest.mark.parametrize(
    ("scope", "part"),
    [
        ("jit(run)/rollout/encoder/dot_general", "rollout: encoder"),
        ("jit(run)/rollout/while/body/add", "rollout: bars"),
        ("jit(run)/targets/mul", "targets"),
        ("jit(run)/update/while/body/transpose(jvp(encoder))/dot_general", "update: encoder, backward"),
        ("jit(run)/update/while/body/transpose(jvp(head))/dot_general", "update: heads and losses, backward"),
        ("jit(run)/update/while/body/optimiser/mul", "update: optimiser"),
        ("jit(run)/update/jvp()/reduce_sum", "update: heads and losses"),
        ("jit(run)/my_encoder_x/add", "other"),
        ("", "other"),
    ],
)
def test_parts_are_called_by_the_scopes_they_lie_in(scope, part):
    assert part_of(scope) == part


def iteration(x, weights):
    with jax.named_scope("rollout"):
        x = jax.lax.scan(lambda x, _: (jnp.tanh(x @ weights), None), x, length=TRIPS)[0]
    with jax.named_scope("update"):
        return jnp.exp(x) @ weights.T


def profile_of(tmp_path, n_calls):
    compiled = jax.jit(iteration).lower(x := jnp.ones((200, 300)), weights := jnp.full((300, 300), 0.01)).compile()
    with profiling() as profile:
        iterate = profiled(compiled, tmp_path)
        announce("training")
        for _ in range(n_calls):
            out = iterate(x, weights)
        announce("evaluating")
    assert (out == compiled(x, weights)).all()
    return profile


@pytest.mark.slow
def test_operations_count_with_their_trips_and_shares_add_up(tmp_path):
    profile = profile_of(tmp_path, SKIPPED + TRACED + 2)
    assert set(profile.phases) == {"setting up", "training", "evaluating"}
    assert profile.parts.keys() >= {"rollout: bars", "update: heads and losses"}
    assert sum(profile.parts.values()) == pytest.approx(1.0)
    assert all(0 <= share <= 1 for share in profile.parts.values())
    assert profile.parts["rollout: bars"] > profile.parts["update: heads and losses"], "seven products to one"
    assert TRIPS in {count for _, part, _, count in profile.operations if part == "rollout: bars"}
    assert 0 < profile.seconds < sum(profile.phases.values())
    assert list(tmp_path.glob("profile/**/*.xplane.pb"))
    assert json.loads((tmp_path / "profile" / "profile.json").read_text())["parts"] == profile.parts


def test_a_trace_ends_with_the_block_however_few_iterations_there_were(tmp_path):
    counted = {name: count for name, _, _, count in profile_of(tmp_path, SKIPPED + 1).operations}
    assert TRIPS in counted.values()
    few = profile_of(tmp_path / "few", SKIPPED)
    assert few.folder is None
    assert "no iteration was traced" in few.describe()


def test_without_a_profile_the_iteration_is_as_it_was(tmp_path):
    assert profiled(iteration, tmp_path) is iteration
