"""What the evaluation of a run with a gate trades is what it trades everywhere: paths, capacity, books, bases."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from tiny_run import STEPS_PER_ITERATION, assert_trees_equal, command, prices, tiny_config, write_config

from jaxppo import backtest, rules
from jaxppo.backtest import capacity, conditions_of, run_book, simulate
from jaxppo.backtest.evaluation import evaluate
from jaxppo.backtest.shipping import Ship, decided, ship_of
from jaxppo.book import AllocationRule
from jaxppo.config import load_config
from jaxppo.envs import load_market
from jaxppo.errors import ConfigError
from jaxppo.monte_carlo import Paths, monte_carlo, run_paths
from jaxppo.run.build import build, open_strategy
from jaxppo.run.saved import load_run

pytestmark = pytest.mark.slow

N_BARS = 12
ALONE = AllocationRule(parts=(), cut=1.0, readmit=0.0, cooldown=None)
ENV = {"actions": "continuous", "levels": [-1.0, 1.0]}
BASE = {"kind": "mlp", "base": {"buy_and_hold": {}}}
CLOSED, OPEN, PART = Ship(1.0, 0.0), Ship(30.0, 1.0), Ship(2.0, 0.75)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose gate says base: no luck opens it."""
    at = tmp_path_factory.mktemp("gated")
    gate = {"ship": "base_unless", "ship_t": 20.0}
    training = {"steps": 4 * STEPS_PER_ITERATION}
    config = write_config(at, env=ENV, policy=BASE, ppo={"learning_rate": 0.05}, training=training, evaluation=gate)
    assert command("train", "--config", config, "--output", at / "run") == 0
    return at / "run"


@pytest.fixture(scope="module")
def run(folder):
    return load_run(folder)


@pytest.fixture(scope="module")
def without_gate(folder):
    return load_run(folder, overrides=["--evaluation.ship", "always"])


@pytest.fixture
def recorded(folder):
    """Writes another decision into the summary of the run, until the test ends."""
    path = folder / "summary.json"
    kept = path.read_text()

    def write(ship):
        summary = json.loads(kept)
        del summary["out_of_sample"]["ship"]
        summary["out_of_sample"] |= {} if ship is None else {"ship": ship.figures}
        path.write_text(json.dumps(summary))

    yield write
    path.write_text(kept)


def drawn(paths):
    return monte_carlo(paths, 4, progress=False)


def columns(job):
    return {name: job.table.column(name) for name in job.table.names}


def of_run(run, **changes):
    one = jax.devices()[:1]
    return drawn(run_paths(dataclasses.replace(run, **changes), n_bars=N_BARS, seed=5, devices=one))


def of_policy(run, policy):
    """The same markets, traded by a policy."""
    like = run_paths(run, n_bars=N_BARS, seed=5)
    found = Paths(policy, conditions_of(run), like.generator, N_BARS, seed=5, devices=jax.devices()[:1])
    assert found.history == like.history
    return drawn(found)


def test_paths_of_a_closed_gate_are_those_of_the_base(run):
    found = of_run(run)
    assert_trees_equal(columns(found), columns(of_policy(run, rules.flat())))
    assert np.abs(found.table.column("turnover")).min() > 0.0, "the base trades"
    assert (found.table.column("total_return") != of_policy(run, run.agent()).table.column("total_return")).all()


@pytest.mark.slow
def test_paths_of_an_open_gate_or_of_none_are_those_of_the_agent(run, without_gate):
    agent = of_policy(run, run.agent())
    found, plain = of_run(run, ship=OPEN), of_run(without_gate)
    assert_trees_equal(columns(found), columns(agent))
    assert_trees_equal(columns(plain), columns(agent))
    assert "notes" not in plain.table.settings
    assert found.table.settings["notes"] == [OPEN.sentence(20.0)]


@pytest.mark.slow
def test_paths_of_a_part_lie_between(run):
    part, whole, base = (
        of_run(run, ship=ship).table.column("total_return").astype(np.float64) for ship in (PART, OPEN, CLOSED)
    )
    np.testing.assert_allclose(part - base, 0.75 * (whole - base), rtol=0.2, atol=2e-4)
    assert np.abs(whole - base).max() > 1e-3


@pytest.mark.parametrize("stress", [(), ("--latency", "1", "2")])
def test_the_script_says_what_trades(folder, tmp_path, capsys, stress):
    """The decision of the evaluation, also where the paths are opened with a longer latency."""
    given = ("--run", folder, "--paths", "4", "--bars", "5", "--output", tmp_path / "job", *stress)
    assert command("monte_carlo", *given) == 0
    said = json.loads((folder / "summary.json").read_text())["out_of_sample"]["notes"][0]
    assert said.startswith("The base is traded in place of the agent")
    assert said in capsys.readouterr().out
    assert json.loads((tmp_path / "job" / "summary.json").read_text())["settings"]["notes"] == [said]
    assert said in (tmp_path / "job" / "report.html").read_text()


@pytest.mark.slow
def test_costs_and_capital_are_of_what_ships(run, without_gate):
    evaluated = evaluate(run.setup, run.network, run.params).summary
    closed, whole, plain = (
        capacity.cost_levels(one, (0.0, 1.0)) for one in (run, dataclasses.replace(run, ship=OPEN), without_gate)
    )
    for name in ("sharpe", "total_return", "max_drawdown", "costs"):
        np.testing.assert_allclose(closed[name][1], evaluated[name], rtol=1e-3, atol=1e-6, err_msg=name)
    pd.testing.assert_frame_equal(whole, plain)
    assert abs(closed["total_return"][1] - plain["total_return"][1]) > 1e-3


def test_the_script_says_whose_costs_and_capital_they_are(folder, tmp_path, capsys):
    assert command("backtest", "--run", folder, "--output", tmp_path / "out", "--capacity") == 0
    assert "The base is traded in place of the agent" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "summary.json").read_text())["out_of_sample"]["capacity"]
    assert found["traded"] == "base"
    assert "The base is that of the run" in (tmp_path / "out" / "report.html").read_text()


def test_one_call_trades_what_ships(run, without_gate):
    found = simulate(run)
    assert_trees_equal(found.ledger.equity, evaluate(run.setup, run.network, run.params).ledgers["agent"].equity)
    assert found.warnings[0].startswith("The base is traded in place of the agent")
    assert found.name == "run"
    whole, plain = simulate(dataclasses.replace(run, ship=OPEN)), simulate(without_gate)
    assert_trees_equal(whole.ledger, plain.ledger)
    assert plain.warnings == whole.warnings[1:]


def booked(run, strategy):
    """The account of a book of one strategy."""
    setup, free = run.setup, build(tiny_config(data={"path": run.setup.config.data.path}), run.setup.market)
    where = setup.periods["test"]
    params = free.params.replace(masks=(), sizing=())
    return run_book([strategy], free.env, params, where.first, where.n_bars, ALONE)


def test_a_strategy_is_what_ships(run, folder, without_gate, recorded):
    setup = run.setup
    item = load_config(overrides=["--policy.base", f"{{run: {folder}}}"]).policy.base.values
    closed, by_config = booked(run, run.strategy("x")), booked(run, open_strategy(item, setup.market))
    hold = booked(run, rules.buy_and_hold())
    np.testing.assert_allclose(closed.ledger.equity, hold.ledger.equity, rtol=1e-5)
    assert np.abs(closed.ledger.quantity).sum() > 0.0
    assert_trees_equal(by_config.ledger, closed.ledger)
    agent = booked(run, without_gate.strategy("x"))
    assert np.abs(closed.ledger.equity / agent.ledger.equity - 1.0).max() > 1e-3
    recorded(OPEN)
    for strategy in (run.strategy("x"), open_strategy(item, setup.market)):
        assert_trees_equal(booked(run, strategy).ledger, agent.ledger)
    recorded(PART)
    assert_trees_equal(booked(run, run.strategy("x")).ledger, closed.ledger)
    shrunk = load_run(folder, overrides=["--evaluation.ship_t", "1.65", "--evaluation.shrink", "true"])
    part = booked(run, shrunk.strategy("x")).ledger.equity
    low, high = sorted([closed.ledger.equity[-1], agent.ledger.equity[-1]])
    assert low < part[-1] < high
    recorded(None)
    with pytest.raises(ConfigError, match="does not say what the evidence was"):
        open_strategy(item, setup.market)


def test_summaries_say_what_trades_of_the_runs_that_they_name(folder, tmp_path):
    evaluation = {"baselines": ["flat", {"run": str(folder)}]}
    training = {"steps": STEPS_PER_ITERATION}
    config = write_config(tmp_path, env=ENV, policy=BASE, training=training, evaluation=evaluation)
    assert command("train", "--config", config, "--output", tmp_path / "other") == 0
    notes = json.loads((tmp_path / "other" / "summary.json").read_text())["out_of_sample"]["notes"]
    (said,) = [note for note in notes if note.startswith("evaluation.baselines[1].run")]
    assert "The base is traded in place of the agent" in said


def test_nothing_of_the_test_decides(run, tmp_path):
    """Other prices from the first bar of the test on: the same decision."""
    setup, table = run.setup, prices()
    days = sorted(table.date.unique())
    later = table.date > days[setup.periods["test"].first]
    assert later.any()
    table.loc[later, ["open", "high", "low", "close"]] *= np.linspace(1.0, 1.5, int(later.sum()))[:, None]
    table.to_csv(tmp_path / "changed.csv", index=False)
    market = load_market(tmp_path / "changed.csv", max_log_jump=10.0)
    changed = dataclasses.replace(run, setup=build(setup.config, market))
    found = decided(changed).ship
    assert found == decided(run).ship == ship_of(setup, run.network, run.params)
    assert found.t == json.loads((run.folder / "summary.json").read_text())["out_of_sample"]["ship"]["t"]
    assert not jnp.array_equal(market.close, setup.market.close)
    assert decided(decided(run)) is not run
    assert backtest.run(run.folder)["ship"]["t"] == found.t
