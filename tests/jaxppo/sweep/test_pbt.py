"""Population based training: who is replaced, what the others keep, and that it is the same every time."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from tiny_run import prices, tiny_config

from jaxppo import envs
from jaxppo.config.sweep import RangeConfig, SweepConfig
from jaxppo.errors import ConfigError
from jaxppo.run import trials
from jaxppo.run.saved import load_run
from jaxppo.sweep import combinations, pbt, sweep
from jaxppo.sweep.pbt import even_rungs, exchange, moved

KEYS = {"ppo.learning_rate": {"log": [1e-3, 3e-2]}, "method": "pbt", "members": 4, "rungs": 2}


def config_of(**keys):
    return tiny_config(sweep={**KEYS, **keys}, training={"evaluate_every": 1})


@pytest.fixture(scope="module")
def market():
    return envs.load_market(prices())


@pytest.fixture(scope="module")
def trained(tmp_path_factory, market):
    folder = tmp_path_factory.mktemp("pbt") / "sweep"
    return sweep(config_of(), output=folder, market=market, progress=False)


def test_rungs_lie_at_equal_distances():
    assert even_rungs(SweepConfig(method="pbt", rungs=4), 40, 5) == [10, 20, 30, 40]
    assert even_rungs(SweepConfig(method="pbt", rungs=2), 41, 5) == [25, 41]
    with pytest.raises(ConfigError, match=r"sweep.rungs is 3, but training has 2 evaluation\(s\)"):
        even_rungs(SweepConfig(method="pbt"), 10, 5)
    with pytest.raises(ConfigError, match=r"sweep.rungs is 7, but training has 6 evaluation\(s\)"):
        sweep(config_of(rungs=7), output="nowhere")


def test_the_ends_of_a_range_are_checked_before_anything_is_read():
    with pytest.raises(ConfigError, match=r"sweep: ppo.gamma is 1.5; allowed: number in \[0.001, 1\]"):
        sweep(config_of(**{"ppo.gamma": {"linear": [0.9, 1.5]}}), output="nowhere")


@pytest.mark.parametrize(
    ("of_key", "value", "up", "after"),
    [
        ({"log": (0.01, 1.0)}, 0.1, True, 0.125),
        ({"log": (0.01, 1.0)}, 0.1, False, 0.08),
        ({"log": (0.01, 1.0)}, 0.9, True, 1.0),
        ({"linear": (-1.0, 1.0)}, 0.0, True, 0.2),
        ({"linear": (-1.0, 1.0)}, -0.9, False, -1.0),
        ({"values": (0.3, 0.1, 0.2)}, 0.2, True, 0.3),
        ({"values": (0.3, 0.1, 0.2)}, 0.1, False, 0.1),
    ],
)
def test_values_move_within_their_range(of_key, value, up, after):
    assert moved(RangeConfig(**of_key), value, up) == pytest.approx(after)


def test_the_worst_are_replaced_by_the_best_and_the_lost_by_anybody_good():
    scores = [0.1, 0.9, -0.5, 0.8, 0.3, 0.2, 0.4, 0.0]
    found = [exchange(scores, 0.75, np.random.default_rng(seed)) for seed in range(40)]
    assert {tuple(sorted(replaced)) for replaced in found} == {(2, 7)}
    assert {source for replaced in found for source in replaced.values()} == {1, 3}
    lost = [-math.inf, 0.9, -math.inf, -math.inf]
    assert exchange(lost, 0.75, np.random.default_rng(0)) == {0: 1, 2: 1, 3: 1}
    assert exchange([-math.inf] * 3, 0.75, np.random.default_rng(0)) == {}
    assert list(exchange([2.0, 1.0], 0.9, np.random.default_rng(0)).items()) == [(1, 0)]


@pytest.mark.slow
def test_a_replaced_agent_goes_on_from_the_state_of_another(trained):
    listed = json.loads((trained.folder / "sweep.json").read_text())
    first, second = listed["rungs"]
    assert (first["until"], second["until"]) == (3, 6)
    assert first["values"] == list(combinations(config_of()))
    ((replaced, source),) = first["replaced"].items()
    replaced = int(replaced)
    before, after = first["values"][source]["ppo.learning_rate"], second["values"][replaced]["ppo.learning_rate"]
    assert after == pytest.approx(before * 1.25, rel=1e-5) or after == pytest.approx(before / 1.25, rel=1e-5)
    others = [place for place in range(4) if place != replaced]
    assert [first["values"][place] for place in others] == [second["values"][place] for place in others]
    scores = {(t.configuration_hash, t.iteration): t.sharpe for t in _validations(trained)}
    at_rung = [next(s for (h, i), s in scores.items() if i == 3 and h == content) for content in _hashes(trained)]
    assert replaced == int(np.argmin(at_rung))
    assert source == int(np.argmax(at_rung))
    assert len(_validations(trained)) == 4 * 6
    assert trained.members.iterations.tolist() == [6] * 4


def _validations(result):
    return [t for t in trials.read(result.folder.parent / "trials.jsonl") if t.period == "validation"]


def _hashes(result):
    """Of the agents in their order, before anything was replaced."""
    return list(dict.fromkeys(t.configuration_hash for t in _validations(result) if t.iteration <= 3))


@pytest.mark.slow
def test_the_chosen_agent_is_a_run_with_the_values_of_its_best_checkpoint(trained, market):
    row = trained.members[trained.members.chosen].iloc[0]
    assert row.validation_sharpe == trained.members.validation_sharpe.max()
    listed = json.loads((trained.folder / "sweep.json").read_text())
    rung = next(rung for rung in listed["rungs"] if row.best_iteration <= rung["until"])
    assert row["ppo.learning_rate"] == rung["values"][int(row.member)]["ppo.learning_rate"]
    assert load_run(trained.folder, market=market).setup.config.ppo.learning_rate == row["ppo.learning_rate"]


@pytest.mark.slow
def test_it_is_the_same_again_and_after_an_interruption(trained, tmp_path, market, stops, monkeypatch):
    train = pbt.train_agents

    def interrupted(job, programs, record, stop, progress, **options):
        stops.extend([2] if options["name"] == "rung-1" else [])
        return train(job, programs, record, stop, progress, **options)

    monkeypatch.setattr(pbt, "train_agents", interrupted)
    folder = tmp_path / "interrupted" / "sweep"
    assert sweep(config_of(), output=folder, market=market, progress=False).signal == 2
    monkeypatch.setattr(pbt, "train_agents", train)
    stops.clear()
    second = sweep(config_of(), output=folder, market=market, resume=True, progress=False)
    pd.testing.assert_frame_equal(trained.members, second.members)
    files = [json.loads((result.folder / "sweep.json").read_text()) for result in (trained, second)]
    assert files[0] == files[1]
