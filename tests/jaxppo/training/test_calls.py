"""Several iterations in one call are the same iterations, and end where the host has to look."""

import json
import types

import jax
import numpy as np
import pytest
from tiny_run import STEPS_PER_ITERATION, shared_builds, tiny_config  # noqa: F401

import jaxppo
from jaxppo.envs import simulators
from jaxppo.training import Evaluator, calls, loop, run_state, trainer
from jaxppo.training.evaluator import backtest_evaluator

pytestmark = pytest.mark.usefixtures("shared_builds")


@pytest.fixture(scope="module")
def market():
    return simulators.gbm(jax.random.key(3), 420, 2)


def unreported(setup, network):
    evaluator: Evaluator = backtest_evaluator(setup, network)
    return evaluator._replace(finish=lambda *_: {}, describe=lambda summary: "")


def trained(market, folder, monkeypatch, about, **changed):
    """Parameters after training, its rows, and how many iterations each call had."""
    lengths = []

    def counted(spent):
        lengths.append(len(spent))
        return calls.arguments(spent)

    training = {"steps": 11 * STEPS_PER_ITERATION, "evaluate_every": 4, "checkpoint_every": 6}
    config = tiny_config(training=training, ppo={"schedule": "linear"}, **changed)
    with monkeypatch.context() as patch:
        patch.setattr(calls, "ABOUT", about)
        patch.setattr(loop, "arguments", counted)
        result = jaxppo.train(config, output=folder, market=market, progress=False, evaluator=unreported)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row.pop("steps_per_second") > 0 for row in rows] == [True] * len(rows)
    return jax.device_get(result.last_params), rows, lengths


@pytest.fixture(scope="module")
def one_at_a_time(market, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return trained(market, tmp_path_factory.mktemp("one") / "run", patch, 0.0)


def test_they_end_at_evaluations_checkpoints_and_the_budget_and_change_no_bit(
    one_at_a_time, market, tmp_path, monkeypatch
):
    params, rows, lengths = trained(market, tmp_path / "run", monkeypatch, 1e9)
    assert lengths == [1, 3, 2, 2, 3]
    assert one_at_a_time[2] == [1] * 11
    assert rows == one_at_a_time[1]
    rates = [row["learning_rate"] for row in rows]
    np.testing.assert_allclose(rates, 0.01 * (1.0 - np.arange(11) / 11), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, params, one_at_a_time[0])


def test_a_limit_that_stops_ends_a_call_after_its_iteration(market, tmp_path, monkeypatch):
    """The limit lies below what the third iteration is the first to reach."""
    watched = [{"drawdown": {"limit": 0.9}}]
    _, rows, _ = trained(market, tmp_path / "watched", monkeypatch, 1e9, monitor=watched)
    worst = [row["monitor_drawdown_worst"] for row in rows]
    first = next(number for number, level in enumerate(worst) if number > 1 and level > max(worst[:number]))
    limit = float(np.mean([worst[first], max(worst[:first])]))
    stops = [{"drawdown": {"limit": limit, "stop": True}}]
    each = [trained(market, tmp_path / str(about), monkeypatch, about, monitor=stops) for about in (0.0, 1e9)]
    (params, found, _), (others, also_found, lengths) = each
    assert len(found) == first + 1
    assert sum(lengths) > len(lengths), "a call of several iterations"
    assert found == also_found
    jax.tree.map(np.testing.assert_array_equal, params, others)


@pytest.mark.parametrize(("seconds", "expected"), [(None, 1), (10.0, 1), (0.3, 3), (0.1, 5), (1e-9, 5)])
def test_a_call_lasts_about_a_second_and_ends_where_something_is_due(seconds, expected):
    """After 13 iterations; the next evaluation is due after 20, the next checkpoint after 18."""
    training = types.SimpleNamespace(evaluate_every=20, checkpoint_every=6)
    experiment = types.SimpleNamespace(config=types.SimpleNamespace(training=training))
    run = types.SimpleNamespace(experiment=experiment, spent=lambda done, more=0, seconds=0.0: (13 + more) / 100)
    found = calls.next_call(run, types.SimpleNamespace(iteration=13), seconds)
    assert found == [(13 + more) / 100 for more in range(expected)]


def test_minutes_that_run_out_within_a_call_are_evaluated_once_at_its_end(market, tmp_path, monkeypatch):
    """On a clock of a second for the first iteration and 10 s for the others, of which half a minute foresees nine."""
    clock = types.SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    compile_ = loop._compile

    def compiled(*given):
        iterate = compile_(*given)

        def slower(state, params, progress, n):
            clock.now += 10.0 * n if clock.now else 1.0
            return iterate(state, params, progress, n)

        return slower

    for module in (trainer, loop, run_state):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(loop, "_compile", compiled)
    monkeypatch.setattr(calls, "ABOUT", 1e9)
    training = {"steps": None, "minutes": 0.5, "evaluate_every": 10, "checkpoint_every": 10}
    config = tiny_config(training=training, ppo={"schedule": "linear"})
    result = jaxppo.train(config, output=tmp_path / "run", market=market, progress=False, evaluator=unreported)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows if "validation_sharpe" in row] == [len(rows)] == [10]
    assert result.summary["validation"]["evaluations"] == 1
    jax.tree.map(np.testing.assert_array_equal, result.params, result.last_params)
