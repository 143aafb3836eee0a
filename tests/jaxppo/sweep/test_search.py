"""Sweeps over keys that change the program, drawn by Optuna: values, choice, interruptions, what cannot be run."""

import json
import math
import sys

import numpy as np
import pytest
from tiny_run import assert_trees_equal, prices, tiny_config

from jaxppo import envs
from jaxppo.errors import ConfigError
from jaxppo.run import trials
from jaxppo.run.saved import load_run
from jaxppo.sweep import search, sweep
from jaxppo.sweep import training as sweeping
from jaxppo.sweep.members import member_config

KEYS = {
    "method": "optuna", "members": 3, "seeds": 2, "ppo.learning_rate": {"log": [0.003, 0.03]},
    "policy.width": {"values": [8, 15]}, "ppo.value_loss": {"values": ["huber", "squared"]},
}  # fmt: skip
"""A width of 15 cannot be split over two heads."""


def of(**keys):
    training = {"steps": 2 * 128, "evaluate_every": 1, "checkpoint_every": 1}
    return tiny_config(seed=8, sweep={**KEYS, **keys}, training=training)


@pytest.fixture(scope="module")
def market():
    return envs.load_market(prices())


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("searches")


@pytest.fixture(scope="module")
def whole(workplace, market):
    return sweep(of(), output=workplace / "whole" / "sweep", market=market, progress=False)


@pytest.mark.slow
def test_what_was_drawn_is_trained_and_the_best_mean_is_chosen(whole):
    table = whole.members
    assert whole.summary["sweep"]["method"] == "optuna"
    assert whole.summary["sweep"]["combinations"] >= len(table) / 2 > 1
    assert set(table["policy.width"]) == {8}
    assert table["ppo.learning_rate"].between(0.003, 0.03).all()
    drawn = list(KEYS)[3:]
    assert all(sorted(rows.seed) == [of().seed, of().seed + 1] for _, rows in table.groupby(drawn))
    mean = table.groupby(drawn).validation_sharpe.mean()
    best = table[table.chosen].iloc[0]
    assert mean.loc[tuple(best[key] for key in drawn)] == pytest.approx(mean.max())
    assert whole.summary["sweep"]["values"] == {key: best[key] for key in drawn}


@pytest.mark.slow
def test_the_folder_is_the_run_of_the_chosen_agent_and_every_evaluation_a_trial(whole, market):
    run = load_run(whole.folder, market=market)
    values = whole.summary["sweep"]["values"]
    assert run.setup.config.policy.width == values["policy.width"]
    assert run.setup.config.ppo.value_loss == values["ppo.value_loss"]
    recorded = trials.read(whole.folder.parent / "trials.jsonl")
    assert len(recorded) == 2 * len(whole.members) + 1
    page = (whole.folder / "report.html").read_text()
    assert "sweep_ppo_value_loss" in page
    assert {path.name for path in (whole.folder / "checkpoints").iterdir()} == {"best"}


@pytest.mark.slow
def test_values_that_cannot_be_run_are_passed_over(whole):
    kept = [json.loads(path.read_text()) for path in sorted(whole.folder.glob("search/*.json"))]
    assert len(kept) == KEYS["members"]
    for one in kept:
        assert bool(one["problem"]) == (one["values"]["policy.width"] == 15) == (one["agents"] == [])


@pytest.mark.slow
def test_agents_are_those_of_a_sweep_of_seeds_with_their_values(whole, workplace, market):
    best = whole.members[whole.members.chosen].iloc[0]
    alone = member_config(of(), whole.summary["sweep"]["values"], of().seed)
    alone = alone.model_copy(update={"sweep": tiny_config(sweep={"seeds": 2}).sweep})
    found = sweep(alone, output=workplace / "alone" / "sweep", market=market, progress=False)
    np.testing.assert_allclose(found.members.validation_sharpe.max(), best.validation_sharpe, rtol=1e-6)
    assert_trees_equal(*(load_run(one.folder, market=market).params for one in (found, whole)))


@pytest.mark.slow
def test_an_interrupted_search_goes_on_to_the_same_values(whole, workplace, market, stops, monkeypatch):
    folder = workplace / "interrupted" / "sweep"

    class Stopping(search.Search):
        def _ask(self, number):
            if number == 1:
                stops.append(2)
            return super()._ask(number)

    monkeypatch.setattr(sweeping, "Search", Stopping)
    first = sweep(of(), output=folder, market=market, progress=False)
    assert (first.summary, first.signal) == (None, 2)
    stops.clear()
    monkeypatch.setattr(sweeping, "Search", search.Search)
    again = sweep(of(), output=folder, market=market, resume=True, progress=False)
    np.testing.assert_array_equal(again.members, whole.members)
    assert_trees_equal(*(load_run(one.folder, market=market).params for one in (again, whole)))


@pytest.mark.slow
def test_what_is_kept_of_a_search_is_checked(whole, tmp_path):
    place = tmp_path / "0.json"
    content = json.loads((whole.folder / "search" / "0.json").read_text())
    place.write_text(json.dumps(content))
    assert search._read(place, content["values"]).score == pytest.approx(
        -math.inf if content["problem"] else np.mean([agent["best_score"] for agent in content["agents"]])
    )
    with pytest.raises(ConfigError, match=r"0.json is damaged, or of another sweep"):
        search._read(place, {**content["values"], "policy.width": 32})
    place.write_text(json.dumps({**content, "agents": [{"seed": -1}]}))
    with pytest.raises(ConfigError, match="damaged"):
        search._read(place, content["values"])
    place.write_text("{")
    with pytest.raises(ConfigError, match=r"0.json is damaged"):
        search._read(place, content["values"])


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"policy.widht": {"values": [8]}}, "sweep.parameters names policy.widht; did you mean policy.width?"),
        ({"costs.commission": {"linear": [0, 1]}}, "allowed: keys of features, policy, ppo, pathwise"),
        ({"policy.positions": {"values": ["rotary", "spiral"]}}, r"policy.positions has 'spiral'; allowed: one of rot"),
        ({"policy.width": {"linear": [-3, 16]}}, r"policy.width has -3.0; allowed: whole number in"),
        ({"ppo.gamma": {"log": [0.5, 1.5]}}, r"ppo.gamma has 1.5; allowed: number in \[0.001, 1\]"),
        ({"policy.layers": {"linear": [1.2, 1.8]}}, r"policy.layers is \[1.2, 1.8\]; allowed: a range with two whole"),
        ({"policy.positions": {"linear": [0, 1]}}, "policy.positions is a range; allowed: values, each one of"),
        ({"policy.asset_attention": {"linear": [0, 1]}}, "policy.asset_attention is a range; allowed: values"),
        ({"rungs": 3}, "sweep.rungs is 3, which sweep.method optuna does not read"),
        ({"method": "random"}, "sweep.parameters names policy.width; allowed: .*; sweep.method optuna for others"),
    ],
)  # fmt: skip
def test_mistakes_are_named_before_anything_is_read(keys, line, tmp_path):
    with pytest.raises(ConfigError, match=line):
        sweep(of(**keys), output=tmp_path / "sweep", progress=False)
    assert not (tmp_path / "sweep").exists()


def test_words_are_for_optuna_alone():
    with pytest.raises(ConfigError, match=r"ppo.gamma.values are \['high'\]; with sweep.method grid allowed: numbers"):
        tiny_config(sweep={"ppo.gamma": {"values": ["high"]}})


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"sweep.method is optuna, which needs: pip install 'jaxppo\[optuna\]'"):
        sweep(of(), output=tmp_path / "sweep", progress=False)
    assert not (tmp_path / "sweep").exists()


def test_a_search_in_which_nothing_can_be_run_says_why(market, tmp_path):
    with pytest.raises(ConfigError, match=r"none of the 2 combinations that were drawn can be run: .*15"):
        sweep(of(members=2, **{"policy.width": {"values": [15]}}), output=tmp_path / "s", market=market, progress=False)
    kept = [json.loads((tmp_path / "s" / "search" / f"{number}.json").read_text()) for number in range(2)]
    assert all("must be a multiple" in one["problem"] and one["agents"] == [] for one in kept)
