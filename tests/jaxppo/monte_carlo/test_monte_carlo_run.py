"""Monte Carlo of a trained agent: its replays are its backtests, and the script's exit codes and messages."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import tiny
from tiny_run import command, prices, tiny_config

import jaxppo
from jaxppo import backtest
from jaxppo.backtest import capacity, conditions_of, simulate
from jaxppo.cli.watching import Watched
from jaxppo.envs import load_market
from jaxppo.envs.market.market_data import slice_bars
from jaxppo.errors import ConfigError
from jaxppo.monte_carlo import Paths, Stress, draws_of, monte_carlo, run_paths
from jaxppo.monte_carlo.engine import history_of
from jaxppo.monte_carlo.identity import identity_of
from jaxppo.run.saved import load_run

N_BARS = 30


def prices_and_carry(seed=0):
    table = prices(seed=seed)
    return table.assign(carry=np.random.default_rng((seed, 9)).normal(0.0, 0.1, len(table)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with features of regimes and carry, a mask, and sizing; it has learned for one iteration."""
    folder = tmp_path_factory.mktemp("runs")
    prices_and_carry().to_csv(folder / "prices.csv", index=False)
    config = tiny_config(
        data={"path": str(folder / "prices.csv")},
        features={"groups": ["price", "carry", "regime"]},
        regimes={"kind": "hmm", "states": 2, "restarts": 1},
        masks=[{"volatility_cap": {"target": 0.3}}],
        sizing=[{"volatility_target": {"target": 0.2}}],
        training={"steps": 128},
    )
    jaxppo.train(config, output=folder / "tiny")
    return folder / "tiny"


@pytest.fixture(scope="module")
def run(folder):
    return load_run(folder)


@pytest.fixture(scope="module")
def paths(run):
    """Blocks that do not divide the bars, so that the last overlaps the one before."""
    agent, conditions = run.agent(), conditions_of(run)
    agent = agent._replace(encoding=agent.encoding._replace(block=7))
    generator = draws_of(run, "stationary_bootstrap", history_of(agent, conditions) + N_BARS + 1)
    return Paths(agent, conditions, generator, N_BARS, seed=5, batch_size=4, devices=jax.devices()[:1])


def test_a_replay_is_the_backtest_of_the_drawn_market(run, paths):
    job = monte_carlo(paths, 6, progress=False)
    replay = paths.replay(4)
    assert replay.figures["sharpe"] == job.table.column("sharpe")[4]
    assert np.abs(replay.ledger.ordered).sum() > 0
    params = paths.conditions.prepare(paths.conditions.costs, replay.market)
    first, decision = jnp.int32(replay.first), run.setup.config.evaluation.decision
    again = tiny.run_agent(run.network, run.setup.env, run.params, params, first, N_BARS, decision, run.setup.monitor)
    np.testing.assert_allclose(replay.ledger.equity, again.equity, rtol=1e-5)
    np.testing.assert_allclose(replay.ledger.weights, again.weights, atol=2e-3)


@pytest.mark.slow
def test_the_agent_on_its_own_market_is_its_backtest(run):
    setup = run.setup
    period = setup.periods["test"]
    n_bars, decision, first = period.n_bars, setup.config.evaluation.decision, jnp.int32(period.first)
    expected = tiny.run_agent(run.network, setup.env, run.params, setup.params, first, n_bars, decision, setup.monitor)
    market = slice_bars(setup.market, 0, period.last + 1)
    found = simulate(run, market, first=period.first, n_bars=n_bars)
    np.testing.assert_allclose(found.ledger.equity, expected.equity, rtol=1e-5)
    on_run = simulate(run)
    np.testing.assert_allclose(on_run.ledger.equity, expected.equity, rtol=1e-5)
    assert on_run.equity.index[0] == setup.market.info.timestamps[period.first]


def test_what_the_agent_decides_does_not_depend_on_what_comes(run):
    first, kept = conditions_of(run).warmup, 330
    table = prices_and_carry()
    other = prices_and_carry(seed=8)
    days = sorted(table.date.unique())
    ahead = table.date > days[kept]
    changed = table.copy()
    columns = ["open", "high", "low", "close", "volume", "carry"]
    # The prices before stay as they are; after them those of another history, scaled to go on from the same level.
    for symbol in ("AAA", "BBB"):
        own = (table.symbol == symbol).to_numpy()
        level = table.close[own & (table.date == days[kept]).to_numpy()].item()
        scale = level / other.close[own & (other.date == days[kept]).to_numpy()].item()
        rows = own & ahead.to_numpy()
        changed.loc[rows, columns] = other.loc[rows, columns].to_numpy() * ([scale] * 4 + [1.0, 1.0])
    one, two = (simulate(run, load_market(frame)).ledger for frame in (table, changed))
    decided = kept - first + 1
    np.testing.assert_allclose(one.ordered[:decided], two.ordered[:decided], rtol=1e-5, atol=1e-2)
    assert np.abs(np.asarray(one.equity[decided + 1 :]) - np.asarray(two.equity[decided + 1 :])).max() > 1.0


def test_settings_of_a_run_make_another_job(run, folder):
    one = identity_of(run.agent(), conditions_of(run))
    changed = ("--env.latency_bars", "3"), ("--env.initial_cash", "5000"), ("--evaluation.decision", "mode")
    found = []
    for given in changed:
        other = load_run(folder, overrides=given)
        found.append(identity_of(other.agent(), conditions_of(other)))
    assert len({one, *found}) == 1 + len(changed)
    same = load_run(folder, overrides=["--evaluation.bootstrap_resamples", "200", "--device", "cpu"])
    assert identity_of(same.agent(), conditions_of(same)) == one


@pytest.mark.slow
def test_the_script_runs_resumes_and_merges(folder, tmp_path, capsys):
    given = ("--run", folder, "--paths", 70, "--bars", 12, "--seed", 1, "--latency", 1, 2)
    for i in range(2):
        assert command("monte_carlo", *given, "--shard", f"{i}/2", "--output", tmp_path / f"s{i}") == 0
    assert command("monte_carlo", "--merge", tmp_path / "s0", tmp_path / "s1", "--output", tmp_path / "all") == 0
    assert "70 paths of 12 bars" in capsys.readouterr().out
    assert (tmp_path / "all" / "summary.json").exists()
    assert {Watched(tmp_path / name).look().state for name in ("s0", "s1", "all")} == {"finished"}
    assert "100%" in Watched(tmp_path / "s0").look().lines[1]
    assert command("monte_carlo", *given, "--output", tmp_path / "s0") == 2
    assert "folder of another job: its shard is [0, 2], not [0, 1]" in capsys.readouterr().err


MISTAKES = [
    (("--generator", "dice"), "--generator is 'dice'; it must be one of stationary_bootstrap"),
    (("--generator", "garch"), "--generator is 'garch', which draws no carry, and features.groups of the run names it"),
    (("--shard", "2/2"), "--shard is 2/2; the first number must be from 0 to 1"),
    (("--shard", "one"), "--shard is 'one'; it must be I/N"),
    (("--bars", "0"), "--bars is 0; with 2 assets it must be from 1 to"),
    (("--bars", "99999999"), "--bars is 99999999; with 2 assets it must be from 1 to"),
    (("--paths", "0"), "--paths is 0; it must be at least 1"),
    (("--paths", str(2**32 + 1)), "--paths is 4294967297; it must be at least 1 and at most 4294967296"),
    (("--seed", "-1"), "--seed is -1; it must be from 0 to 4294967295"),
    (("--seed", str(2**32)), "--seed is 4294967296; it must be from 0 to 4294967295"),
    (("--batch", "0"), "--batch is 0; it must be at least 1"),
    (("--missed-fills", "1"), "--missed-fills is 1; it must be in [0, 1)"),
    (("--scale-costs", "2", "1"), "--scale-costs is 2 1; it must be two factors, 0 < LOW <= HIGH"),
    (("--delay", "-1"), "--delay is -1; it must be >= 0 bars"),
    (("--latency", "0", "2"), "--latency is 0 2; it must be two numbers of bars, 1 <= LOW <= HIGH"),
    (("--latency", "1", "300"), "env.latency_bars is 300"),
    (("--policy.width", "32"), "an evaluation cannot change"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda x: str(x)[:20])
def test_mistakes_are_one_line(arguments, message, folder, tmp_path, capsys):
    assert command("monte_carlo", "--run", folder, "--output", tmp_path / "job", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "job").exists()


def test_not_a_run(tmp_path, capsys):
    assert command("monte_carlo", "--run", tmp_path) == 2
    assert "not a run folder" in capsys.readouterr().err
    for option in (("--seed", "1"), ("--paths", "10000"), ("--shard", "0/1"), ("--costs.impact", "1.0")):
        assert command("monte_carlo", "--merge", tmp_path, "--output", tmp_path / "all", *option) == 2
        error = capsys.readouterr().err
        assert f"--merge takes no {option[0]}" in error
        assert error.count("\n") == 1
    assert command("monte_carlo", "--merge", tmp_path) == 2
    assert "not the folder of a Monte Carlo job" in capsys.readouterr().err


def test_paths_of_a_run_have_its_names(run, folder, monkeypatch):
    found = run_paths(run, n_bars=N_BARS)
    assert found.symbols == ("AAA", "BBB")
    assert {device.platform for device in found.devices} == {run.setup.devices[0].platform}
    monkeypatch.chdir(folder)
    assert load_run(".").agent().name == "tiny"


def test_masks_that_need_times_are_refused(run):
    conditions = conditions_of(run)

    def without_times(costs, market):
        raise ValueError("trading hours need a market with times")

    with pytest.MonkeyPatch.context() as patch:
        changed = conditions._replace(prepare=without_times)
        patch.setattr("jaxppo.monte_carlo.from_run.conditions_of", lambda run: changed)
        with pytest.raises(ConfigError, match="cannot be run on drawn markets: trading hours need a market with times"):
            run_paths(run, n_bars=N_BARS)


def test_costs_and_capital_of_a_run(run, folder):
    """At its own costs and capital a run is what it was evaluated to be; without costs it pays none."""
    evaluated = backtest.run(folder)
    levels = capacity.cost_levels(run, (0.0, 1.0, 4.0))
    for name in ("sharpe", "total_return", "max_drawdown", "costs"):
        np.testing.assert_allclose(levels[name][1], evaluated[name], rtol=1e-3, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(levels.loc[1, ["sharpe_low", "sharpe_high"]], evaluated["sharpe_ci"], rtol=1e-2)
    assert levels["costs"][0] == 0.0
    assert 0.0 < levels["costs"][1] < levels["costs"][2]
    curve = capacity.capacity_curve(run, [1e4, 1e6, 1e12])
    np.testing.assert_allclose(curve["total_return"][1], evaluated["total_return"], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(curve["gain"], curve["capital"] * curve["total_return"])
    assert curve["turnover"][2] < 0.1 * curve["turnover"][0], "volume bounds what a large account can trade"
    with pytest.raises(ValueError, match=r"levels is -1\.0; it must be finite and >= 0"):
        capacity.cost_levels(run, (-1.0,))
    with pytest.raises(ValueError, match="capitals is empty"):
        capacity.capacity_curve(run, ())


@pytest.mark.slow
def test_the_script_shows_costs_and_capital(run, folder, tmp_path, capsys):
    assert command("backtest", "--run", folder, "--output", tmp_path, "--capacity") == 0
    assert "costs: return" in capsys.readouterr().out
    found = json.loads((tmp_path / "summary.json").read_text())["out_of_sample"]["capacity"]
    levels, curve = capacity.cost_levels(run), capacity.capacity_curve(run)
    for rows, frame in ((found["levels"], levels), (found["capitals"], curve)):
        pd.testing.assert_frame_equal(pd.DataFrame(rows).astype(frame.dtypes), frame, rtol=1e-6)
    expected = capacity.break_even(run)
    assert found["break_even"] == (pytest.approx(expected) if np.isfinite(expected) else None)
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<div id="cost_levels"' in report
    assert '<div id="capacity"' in report


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        (lambda level: 0.1 - 0.02 * level, 5.0),
        (lambda level: 0.1 - 0.02 * level**2, 5.0**0.5),
        (lambda level: -0.01 - level, 0.0),
        (lambda level: 0.1 + 0.0 * level, np.inf),
    ],
)
def test_costs_that_eat_the_return(run, monkeypatch, returns, expected):
    monkeypatch.setattr(capacity, "_figures", lambda run, levels, _: {"total_return": returns(np.asarray(levels))})
    np.testing.assert_allclose(capacity.break_even(run), expected, rtol=1e-2)


@pytest.mark.slow
def test_a_stressed_job(run):
    """Dearer, with missed fills and later starts, on the same markets; nothing asked for is nothing changed."""
    devices = jax.devices()[:1]
    plain, same, hard = (
        monte_carlo(run_paths(run, n_bars=N_BARS, seed=5, stress=stress, devices=devices), 8, progress=False)
        for stress in (Stress(), Stress(scale_costs=(1.0, 1.0)), Stress(scale_costs=(20.0, 20.0), missed_fills=0.5))
    )
    for name in ("total_return", "costs", "trades"):
        np.testing.assert_array_equal(plain.table.column(name), same.table.column(name))
    assert (hard.table.column("trades") < plain.table.column("trades")).all()
    paid = (x.table.column("commission") / np.maximum(x.table.column("turnover"), 1e-9) for x in (hard, plain))
    np.testing.assert_allclose(next(paid) / next(paid), 20.0, rtol=0.05)
    late = run_paths(run, n_bars=N_BARS, seed=5, stress=Stress(delay=9), devices=devices)
    firsts = {late.replay(path).first - late.history for path in range(8)}
    assert len(firsts) > 2
    assert firsts <= set(range(10))


def test_a_drawn_history_is_as_long_as_what_is_read_of_it(run):
    """The regimes of this run look at 504 bars, its features at fewer."""
    conditions = conditions_of(run)
    assert conditions.history == 504 + run.setup.env.window > conditions.warmup
    rules = run.setup.config.model_copy(
        update={"regimes": run.setup.config.regimes.model_copy(update={"kind": "none"})}
    )
    plain = dataclasses.replace(run, setup=dataclasses.replace(run.setup, config=rules))
    assert conditions_of(plain).history == conditions.warmup


@pytest.mark.slow
def test_the_number_of_devices_does_not_show_in_what_users_run(run):
    """With the optimisations that the other tests go without: a program over a mesh would round differently."""
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        one, two = (
            monte_carlo(run_paths(run, n_bars=N_BARS, seed=5, devices=jax.devices()[:n]), 128, progress=False)
            for n in (1, 2)
        )
    finally:
        jax.config.update("jax_disable_most_optimizations", True)  # as tests/conftest.py has it
    for name, values in one.table.frame().items():
        np.testing.assert_array_equal(values.to_numpy(), two.table.column(name), err_msg=name)
