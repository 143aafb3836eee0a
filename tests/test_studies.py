"""What the benchmarks score is what was trained, and the distance of bands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.studies import STUDIES, band_errors, learnable
from jaxppo.envs import reference
from jaxppo.envs.trading.types import EnvState


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("Merton", lambda: reference.Merton(n_bars=96)),
        ("DavisNorman", lambda: reference.DavisNorman(n_bars=96, horizon=60)),
        ("GrossmanZhou", lambda: reference.GrossmanZhou(n_bars=96, horizon=60)),
    ],
)
def test_the_agent_that_is_scored_decides_as_in_its_rollouts(name, build):
    """Features, position and drawdown included: the actor's weights are large, so that every input shows."""
    study = STUDIES[name]
    problem, config = build(), study.ppo.model_copy(update={"paths": 4, "minibatches": 1, "chunk": 8})
    task, first_net, params, _, agent, _ = learnable(type(study)(lambda: problem, config), config)
    net = first_net(jax.random.key(0))
    actor = jax.random.normal(jax.random.key(1), net["head"]["actor"]["kernel"].shape)
    net["head"]["actor"]["kernel"] = actor
    states = task.start(params, jax.random.split(jax.random.key(2), 4))
    _, rollout = jax.jit(task.collect)(net, params, states, jax.random.split(jax.random.key(3), 4), jnp.float32(0))
    behaviour = jax.tree.map(lambda x: x[:, 0, 0], rollout.behaviour)
    expected = np.asarray(behaviour.squash(behaviour.mode()))

    def act(bar, portfolio):
        seen = problem.env.observe_portfolio(bar, portfolio, params.market.tradable[bar])
        return agent(net, problem)(seen, EnvState(time=jnp.int32(0), bar=bar, portfolio=portfolio))

    first = jax.tree.map(lambda x: x[:, 0], states.portfolio)
    ours = np.asarray(jax.vmap(act)(states.bar, first)).reshape(4, -1)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 1e-3


def test_stable_baselines3s_actor_is_scored_as_it_decides():
    pytest.importorskip("stable_baselines3", reason="the bench extra is not installed: pip install 'jaxppo[bench]'")
    from stable_baselines3 import PPO

    from benchmarks.against_sb3 import Environments, actor_layers, torch_agent

    problem = reference.GarleanuPedersen()
    model = PPO("MlpPolicy", Environments(problem, 2, 0), seed=1, device="cpu", n_steps=8, batch_size=16)
    model.policy.action_net.weight.data.mul_(1e3)  # so that actions differ, and some leave their box
    observation = np.random.default_rng(0).normal(size=(64, *model.observation_space.shape)).astype(np.float32)
    expected, _ = model.predict(observation, deterministic=True)
    ours = jax.vmap(lambda seen: torch_agent(problem, actor_layers(model))(seen, None))(observation)
    space = problem.env.action_space(problem.params)
    np.testing.assert_allclose(ours, space.low + (space.high - space.low) * (expected + 1) / 2, rtol=1e-4, atol=1e-5)
    assert 0 < np.mean(np.abs(expected) == 1.0) < 1


def test_the_distance_of_bands():
    weight = np.linspace(0.0, 1.0, 101)
    constant = np.broadcast_to([0.7, 0.3], (2, 101, 2))
    np.testing.assert_allclose(band_errors(weight, constant, (0.2, 0.6)), [[0.25, 0.25]] * 2, atol=0.03)
    never = np.stack([np.clip(weight + 0.1, 0, 2)] * 2, axis=-1)
    np.testing.assert_allclose(band_errors(weight, never, (0.6, 1.6)), [0.0, 1.0], atol=0.01)
