"""Sweeps: what is tried, what an agent learns, which one is chosen, what is recorded, interruptions, mistakes."""

import json
import math

import jax
import numpy as np
import pandas as pd
import pytest
from tiny_run import assert_trees_equal, command, prices, snapshot, tiny_config, write_config

import jaxppo
from jaxppo import envs
from jaxppo.cli.command import run
from jaxppo.cli.commands.sweep import main
from jaxppo.errors import ConfigError
from jaxppo.run import trials
from jaxppo.run.saved import load_run
from jaxppo.sweep import combinations, member_config, sweep
from jaxppo.sweep import training as sweeping
from jaxppo.sweep.results import choose, member_table
from jaxppo.sweep.section import section
from jaxppo.walk_forward import training
from jaxppo.walk_forward.job import Agent

RATES = (0.003, 0.01)
KEYS = {"ppo.learning_rate": {"values": list(RATES)}, "seeds": 2}
EVALUATIONS = 3


def of(**keys):
    return tiny_config(sweep=keys)


def market_of():
    return envs.load_market(prices())


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture(scope="module")
def whole(workplace):
    """Two learning rates with two seeds each."""
    return sweep(of(**KEYS), output=workplace / "whole" / "sweep", market=market_of(), progress=False)


# What is tried.


def test_a_grid_has_every_combination():
    given = {"ppo.gamma": {"values": [0.9, 0.99]}, "ppo.learning_rate": {"log": [1e-4, 1e-2], "n": 3}}
    found = combinations(of(**given))
    assert found == tuple(
        {"ppo.gamma": gamma, "ppo.learning_rate": rate} for gamma in (0.9, 0.99) for rate in (1e-4, 1e-3, 1e-2)
    )
    assert [values["ppo.clip"] for values in combinations(of(**{"ppo.clip": {"linear": [0.1, 0.4], "n": 4}}))] == [
        pytest.approx(x) for x in (0.1, 0.2, 0.3, 0.4)
    ]


def test_an_option_replaces_the_keys_of_the_file():
    written = {"training": {"steps": 1000}, "sweep": {"ppo.gamma": {"values": [0.9]}, "seeds": 2}}
    config = jaxppo.load_config(written, ["--sweep.parameters", "{ppo.clip: {values: [0.1, 0.2]}}"])
    assert combinations(config) == ({"ppo.clip": 0.1}, {"ppo.clip": 0.2})
    assert config.sweep.seeds == 2
    assert written["sweep"] == {"ppo.gamma": {"values": [0.9]}, "seeds": 2}
    assert combinations(jaxppo.load_config(written, ["--sweep.seeds", "3"])) == ({"ppo.gamma": 0.9},)


def test_drawn_values_are_those_of_the_seed_and_fill_their_range():
    given = {"ppo.learning_rate": {"log": [1e-4, 1e-2]}, "ppo.gamma": {"linear": [0.9, 1.0]}, "method": "random"}
    given |= {"ppo.clip": {"values": [0.1, 0.3]}, "members": 400}
    found = pd.DataFrame(combinations(of(**given)))
    assert combinations(of(**given)) == tuple(found.to_dict("records"))
    assert found["ppo.learning_rate"].between(1e-4, 1e-2).all()
    # Half of log-uniform draws lie below the geometric mean, of uniform ones below the mean: within 4 deviations.
    for key, middle in (("ppo.learning_rate", 1e-3), ("ppo.gamma", 0.95), ("ppo.clip", 0.2)):
        assert abs((found[key] < middle).mean() - 0.5) < 4 * math.sqrt(0.25 / 400), key
    other = tiny_config(seed=8, sweep=given)
    assert combinations(other)[0] != combinations(of(**given))[0]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"ppo.width": {"values": [1, 2]}}, "sweep.parameters names ppo.width; allowed: ppo.learning_rate"),
        ({"ppo.gamma": {"log": [0.9, 0.5]}}, r"parameters.ppo.gamma: log is \[0.9, 0.5\]; allowed: \[low, high\]"),
        ({"ppo.gamma": {"log": [0.0, 0.5]}}, r"log is \[0.0, 0.5\]; allowed: \[low, high\], low < high, low > 0"),
        ({"ppo.gamma": {"values": [0.5, 0.5]}}, r"values are \[0.5, 0.5\]; allowed: distinct numbers"),
        ({"ppo.gamma": {}}, "exactly one of log: .* is needed"),
        ({"ppo.gamma": {"linear": [0.5, 1.0], "valuess": [1]}}, "unknown key 'valuess'; allowed: log, linear"),
        ({"ppo.gamma": {"values": ["a"]}}, r"ppo.gamma.values are \['a'\]; with sweep.method grid allowed: numbers"),
        ({"ppo.gamma": 0.9}, r"sweep.parameters is \{\"ppo.gamma\": 0.9\}; allowed: mapping of names"),
        ({"rewards.turnover_penalty.weight": {"values": [1.0]}}, "but rewards does not name turnover_penalty once"),
        ({"ppo.kl_target": {"values": [1.0]}}, "names ppo.kl_target, which ppo.kl_penalty none does not read"),
        ({"members": 3}, "sweep.members is 3, which sweep.method grid does not read"),
        ({"method": "random", "ppo.gamma": {"linear": [0.5, 1.0], "n": 3}}, "n is 3, which only sweep.method grid"),
        ({"seedss": 3}, "unknown key 'sweep.seedss'; did you mean sweep.seeds?"),
    ],
)  # fmt: skip
def test_mistakes_are_named_when_the_configuration_is_read(keys, line):
    with pytest.raises(ConfigError, match=line):
        of(**keys)


@pytest.mark.parametrize(
    ("keys", "others", "line"),
    [
        ({}, {}, "sweep has nothing to try"),
        ({"method": "random", "seeds": 2}, {}, "sweep.method is random, but sweep.parameters names no key"),
        ({"ppo.gamma": {"values": [0.9, 1.5]}}, {}, r"sweep: ppo.gamma is 1.5; allowed: number in \[0.001, 1\]"),
        ({"ppo.gamma": {"linear": [0.5, 1.0], "n": 4096}, "seeds": 2}, {}, "8192 agents; at most 4096"),
        (KEYS, {"training": {"minutes": 1.0}}, "training.minutes is 1; agents that are trained together"),
        (KEYS, {"seed": 2**31 - 1}, "sweep.seeds is 2; seed 2147483647 leaves room for fewer"),
    ],
)
def test_mistakes_are_named_before_anything_is_read(keys, others, line):
    with pytest.raises(ConfigError, match=line):
        sweep(tiny_config(sweep=keys, **others), output="nowhere")


def test_agents_of_other_environments_are_refused():
    with pytest.raises(ConfigError, match=r"sweep is given, but env.name is 'CartPole-v1'"):
        jaxppo.load_config("configs/cartpole.yaml", ["--sweep.seeds", "2"])


# What an agent learns.


def test_an_agent_is_the_run_with_its_values(whole, workplace):
    """The same figures on validation at every evaluation, the same choice of a checkpoint, the same parameters."""
    row = whole.members[whole.members.chosen].iloc[0]
    config = member_config(of(**KEYS), {"ppo.learning_rate": row["ppo.learning_rate"]}, int(row.seed))
    alone = jaxppo.train(config, output=workplace / "alone" / "run", market=market_of(), progress=False)
    assert alone.summary["validation"]["best_iteration"] == row.best_iteration
    assert alone.summary["validation"]["best_sharpe"] == pytest.approx(row.validation_sharpe, abs=1e-3)
    assert alone.summary["out_of_sample"]["sharpe"] == pytest.approx(whole.summary["out_of_sample"]["sharpe"], abs=1e-3)
    for mine, its in zip(jax.tree.leaves(_opened(whole).params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(mine, its, atol=1e-4)
    last = json.loads((alone.folder / "metrics.jsonl").read_text().splitlines()[-1])
    for name in ("entropy", "loss", "kl", "learning_rate", "reward"):
        assert row[f"last_{name}"] == pytest.approx(last[name], abs=1e-4), name


def _opened(result):
    return load_run(result.folder, market=market_of())


def test_agents_with_other_values_or_seeds_learn_something_else(whole):
    assert whole.members.last_loss.nunique() == len(whole.members) == 4
    np.testing.assert_allclose(whole.members.last_learning_rate, whole.members["ppo.learning_rate"], rtol=1e-6)
    assert sorted(set(whole.members.seed)) == [7, 8]


# Which one is chosen.


def agent(score, seed=0, **values):
    stopped = None if score is not None else {"limit": "loss is nan", "iteration": 3}
    return Agent(0, seed, best_score=score, values=values, stopped=stopped)


def test_values_are_chosen_by_their_mean_and_then_the_best_seed():
    agents = [agent(3.0, 0, a=1.0), agent(-1.0, 1, a=1.0), agent(1.5, 0, a=2.0), agent(2.0, 1, a=2.0)]
    assert choose(agents) == (3, {"a": 2.0}, 1.75)


def test_values_that_lost_an_agent_come_last():
    agents = [agent(9.0, 0, a=1.0), agent(None, 1, a=1.0), agent(-1.0, 0, a=2.0), agent(-2.0, 1, a=2.0)]
    assert choose(agents) == (2, {"a": 2.0}, -1.5)
    assert choose(agents[:2])[:2] == (0, {"a": 1.0})
    assert choose(agents[:2]).mean_score == -math.inf
    with pytest.raises(
        ConfigError, match="diverged for every agent of the sweep, the first in iteration 3: loss is nan"
    ):
        choose([agent(None), agent(None, 1)])


def test_the_table_and_the_section_show_agents_without_a_score():
    agents = [agent(None, 0, **{"ppo.gamma": 0.5}), agent(1.0, 0, **{"ppo.gamma": 0.9})]
    table = member_table(agents, choose(agents))
    assert table.chosen.tolist() == [False, True]
    assert table.stopped.tolist() == ["loss is nan", ""]
    found = {"agents": 2, "combinations": 2, "seeds": [0], "keys": ["ppo.gamma"], "values": {"ppo.gamma": 0.9}}
    html = section(table, {**found, "seed": 0, "mean_validation_sharpe": 1.0, "diverged": 1})
    assert "1 agents without a score are not drawn" in html
    assert "1 (chosen)" in html
    assert "0 (loss is nan)" in html


def test_an_agent_that_diverges_does_not_end_the_sweep(workplace, monkeypatch):
    """The first figures that are looked at are those of agent 0 after its first iteration."""
    check, seen = training.check_iteration, []

    def lost(iteration, row, skipped, ppo):
        seen.append(iteration)
        check(iteration, {**row, "loss": math.nan} if len(seen) == 1 else row, skipped, ppo)

    monkeypatch.setattr(training, "check_iteration", lost)
    monkeypatch.setattr(sweeping, "_finish", lambda outcome, *rest: outcome.agents)
    agents = sweep(of(**KEYS), output=workplace / "lost" / "sweep", market=market_of(), progress=False)
    assert agents[0].stopped == {"limit": "loss is nan", "iteration": 1}
    assert [agent.evaluations for agent in agents] == [0, EVALUATIONS, EVALUATIONS, EVALUATIONS]
    assert choose(agents).values == {"ppo.learning_rate": RATES[1]}
    known = trials.read(workplace / "lost" / "trials.jsonl")
    assert len(known) == 3 * EVALUATIONS


# What is written.


def test_every_evaluation_of_every_agent_is_a_trial(whole):
    known = trials.read(whole.folder.parent / "trials.jsonl")
    assert [trial.period for trial in known] == ["validation"] * 4 * EVALUATIONS + ["test"]
    assert len({(trial.configuration_hash, trial.seed) for trial in known}) == 4
    selection, chosen = whole.summary["selection"], known[-1]
    assert selection["validation"]["trials"] == 4 * EVALUATIONS
    assert selection["out_of_sample"]["trials"] == 1
    best = whole.members[whole.members.chosen].iloc[0]
    assert selection["validation"]["sharpe"] == pytest.approx(best.validation_sharpe, rel=1e-6)
    same = [t for t in known if t.configuration_hash == chosen.configuration_hash and t.iteration == chosen.iteration]
    assert [trial.period for trial in same] == ["validation", "test"], "the hash is that of the run that is left"


def test_the_folder_is_a_run_of_the_chosen_agent(whole):
    opened = jaxppo.load_run(whole.folder, market=market_of())
    row = whole.members[whole.members.chosen].iloc[0]
    assert opened.setup.config.ppo.learning_rate == row["ppo.learning_rate"]
    assert opened.setup.config.seed == row.seed
    again = jaxppo.simulate(opened)
    assert again.summary()["sharpe"] == pytest.approx(whole.summary["out_of_sample"]["sharpe"], rel=1e-5)
    assert {path.name for path in whole.folder.iterdir()} >= {"report.html", "sweep.csv", "sweep.json", "config.yaml"}
    assert [path.name for path in (whole.folder / "checkpoints").iterdir()] == ["best"]
    listed = json.loads((whole.folder / "sweep.json").read_text())
    assert len(listed["members"]) == 4
    pd.testing.assert_frame_equal(
        pd.read_csv(whole.folder / "sweep.csv", keep_default_na=False), _as_read(whole.members)
    )
    report = (whole.folder / "report.html").read_text()
    assert "<h2" in report
    assert "sweep_ppo_learning_rate" in report
    assert "4 agents, 2 combination(s) of values with 2 seed(s) each." in report
    assert "4 agents" in repr(whole)


def _as_read(table):
    return table.astype({"last_learning_rate": float})


def test_a_finished_sweep_is_not_trained_on(whole):
    before = snapshot(whole.folder)
    with pytest.raises(ConfigError, match="is the best agent of a sweep, which is not trained on"):
        jaxppo.train(of(**KEYS), output=whole.folder, market=market_of(), resume=True, progress=False)
    with pytest.raises(ConfigError, match="the folder of a run; give that of an unfinished sweep"):
        sweep(of(**KEYS), output=whole.folder, market=market_of(), resume=True, progress=False)
    assert snapshot(whole.folder) == before


# Interruptions and the command.


def test_an_interrupted_sweep_goes_on_to_the_same_numbers(whole, workplace, stops, monkeypatch):
    folder = workplace / "interrupted" / "sweep"

    class Stopping(training._Batch):
        def save_if_due(self, iteration, stopping):
            if iteration == 4:
                stops.append(2)
            super().save_if_due(iteration, bool(stops))

    monkeypatch.setattr(training, "_Batch", Stopping)
    first = sweep(of(**KEYS), output=folder, market=market_of(), progress=False)
    assert (first.summary, first.signal) == (None, 2)
    monkeypatch.setattr(training, "_Batch", Stopping.__base__)
    stops.clear()
    with pytest.raises(ConfigError, match=r"the folder of a sweep; finish it with jaxppo sweep --resume --output"):
        load_run(folder, market=market_of())
    with pytest.raises(ConfigError, match=r"sweep.seeds is 3 but the sweep was started with 2"):
        sweep(of(**{**KEYS, "seeds": 3}), output=folder, market=market_of(), resume=True, progress=False)
    second = sweep(of(**KEYS), output=folder, market=market_of(), resume=True, progress=False)
    pd.testing.assert_frame_equal(whole.members, second.members)
    assert_trees_equal(_opened(whole).params, _opened(second).params)
    assert len(trials.read(folder.parent / "trials.jsonl")) == 4 * EVALUATIONS + 1


def test_the_command_says_what_is_wrong_in_one_line(workplace, capsys):
    config = write_config(workplace, sweep={"ppo.epochs": {"values": [1.0, 2.0]}})
    assert command_of("--config", config) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "sweep.parameters names ppo.epochs; allowed: ppo.learning_rate" in said
    config = write_config(workplace)
    assert command_of("--config", config, "--output", workplace / "nothing") == 2
    assert "sweep has nothing to try" in capsys.readouterr().err
    assert not (workplace / "nothing").exists()
    assert command("sweep", "--config", "missing.yaml") == 2


def command_of(*arguments):
    return run(main, [str(argument) for argument in arguments])
