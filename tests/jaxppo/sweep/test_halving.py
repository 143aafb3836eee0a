"""Successive halving: its rungs, who goes on, that states go on, and that an interruption changes nothing."""

import numpy as np
import pandas as pd
import pytest
from tiny_run import prices, tiny_config

from jaxppo import envs
from jaxppo.config.sweep import SweepConfig
from jaxppo.errors import ConfigError
from jaxppo.run import trials
from jaxppo.sweep import combinations, halving, member_config, sweep
from jaxppo.sweep.halving import DROPPED, make_rungs

KEYS = {"ppo.learning_rate": {"log": [1e-3, 3e-2]}, "method": "halving", "members": 4, "rungs": 2, "seeds": 1}


def config_of(**keys):
    return tiny_config(sweep={**KEYS, **keys}, training={"evaluate_every": 1})


@pytest.fixture(scope="module")
def market():
    return envs.load_market(prices())


@pytest.fixture(scope="module")
def halved(tmp_path_factory, market):
    folder = tmp_path_factory.mktemp("halving") / "sweep"
    return sweep(config_of(), output=folder, market=market, progress=False)


@pytest.mark.parametrize(
    ("keys", "n", "iterations", "every", "rungs"),
    [
        ({}, 16, 40, 5, [(10, 16), (20, 8), (40, 4)]),
        ({"rungs": 2, "keep": 0.25}, 9, 40, 5, [(10, 9), (40, 3)]),
        ({"rungs": 3, "keep": 0.5}, 2, 41, 5, [(10, 2), (20, 1), (41, 1)]),
    ],
)
def test_budgets_grow_as_fewer_go_on(keys, n, iterations, every, rungs):
    assert make_rungs(SweepConfig(method="halving", **keys), n, iterations, every) == rungs


def test_too_few_evaluations_are_named():
    with pytest.raises(ConfigError, match=r"sweep.rungs is 3 with sweep.keep 0.5, but training has 2 evaluation\(s\)"):
        make_rungs(SweepConfig(method="halving"), 8, 10, 5)
    with pytest.raises(ConfigError, match=r"sweep.rungs is 8 .*, but training has 6 evaluation"):
        sweep(config_of(rungs=8), output="nowhere")
    with pytest.raises(ConfigError, match=r"sweep.rungs is 3, which sweep.method grid does not read"):
        config_of(method="grid", members=None, rungs=3)


@pytest.mark.slow
def test_the_better_half_of_the_first_rung_is_trained_to_the_end(halved):
    table = halved.members
    assert table.iterations.tolist().count(3) == 2
    assert table.iterations.tolist().count(6) == 2
    dropped = table[table.stopped == DROPPED]
    assert (dropped.iterations == 3).all()
    assert halved.summary["sweep"]["diverged"] == 0
    known = [t for t in trials.read(halved.folder.parent / "trials.jsonl") if t.period == "validation"]
    assert len(known) == 4 * 3 + 2 * 3
    hashes = list(dict.fromkeys(trial.configuration_hash for trial in known))  # in the order of the agents
    first = [max(t.sharpe for t in known if t.configuration_hash == h and t.iteration <= 3) for h in hashes]
    assert sorted(np.argsort(first)[-2:]) == table.index[table.iterations == 6].tolist()


@pytest.mark.slow
def test_what_is_trained_to_the_end_is_the_sweep_without_rungs(halved, tmp_path, market):
    """The states of the first rung go on: the scores are those of agents that were never compared."""
    values = [combinations(config_of())[place] for place in halved.members.index[halved.members.iterations == 6]]
    rates = [of_agent["ppo.learning_rate"] for of_agent in values]
    keys = {"ppo.learning_rate": {"values": rates}}
    plain = tiny_config(sweep=keys, training={"evaluate_every": 1})
    assert member_config(plain, values[0], 7).ppo.learning_rate == rates[0]
    whole = sweep(plain, output=tmp_path / "plain" / "sweep", market=market, progress=False)
    survived = halved.members[halved.members.iterations == 6].reset_index(drop=True)
    shared = ["ppo.learning_rate", "validation_sharpe", "best_iteration", "evaluations", "chosen", "last_loss"]
    pd.testing.assert_frame_equal(survived[shared], whole.members[shared], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_an_interruption_in_the_second_rung_changes_nothing(halved, tmp_path, market, stops, monkeypatch):
    train = halving.train_agents

    def interrupted(job, programs, record, stop, progress, **options):
        stops.extend([2] if options["name"] == "rung-1" else [])
        return train(job, programs, record, stop, progress, **options)

    monkeypatch.setattr(halving, "train_agents", interrupted)
    folder = tmp_path / "interrupted" / "sweep"
    first = sweep(config_of(), output=folder, market=market, progress=False)
    assert (first.summary, first.signal) == (None, 2)
    monkeypatch.setattr(halving, "train_agents", train)
    stops.clear()
    second = sweep(config_of(), output=folder, market=market, resume=True, progress=False)
    pd.testing.assert_frame_equal(halved.members, second.members)
