"""Watched limits: levels against plain NumPy, boundaries, stops of runs and of accounts, what is reported."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import report_pages
import tiny
from tiny_run import STEPS_PER_ITERATION, command, shared_builds, write_config  # noqa: F401

from jaxppo import backtest, envs, masks
from jaxppo.config import validate_config
from jaxppo.config.monitor import MonitorConfig
from jaxppo.envs import simulators
from jaxppo.envs.trading.types import Outcome
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy.rollout import DATA_AXIS
from jaxppo.ppo.trading_task import trading_task
from jaxppo.report import monitor as monitored
from jaxppo.risk import monitor
from jaxppo.risk.monitor import Monitor
from jaxppo.run.transforms import make_monitor
from jaxppo.training import calls, loop

pytestmark = pytest.mark.usefixtures("shared_builds")

PERIODS, SPAN = 252.0, 9
LIMITS = {
    "drawdown": monitor.drawdown(0.05),
    "leverage": monitor.leverage(1.2, warning=0.9),
    "net": monitor.net(0.6),
    "concentration": monitor.concentration(0.55, warning=1.0),
    "turnover": monitor.turnover(0.8, warning=0.5),
    "loss": monitor.loss(0.015),
    "volatility": monitor.volatility(0.2, periods=PERIODS, span=SPAN, warning=0.7),
}
ALL = Monitor(tuple(LIMITS.values()))


def bar(**changes):
    fields = {field.name: jnp.zeros(()) for field in dataclasses.fields(Outcome)}
    return Outcome(**{**fields, **{name: jnp.float32(value) for name, value in changes.items()}})


def test_levels_by_hand():
    after = bar(
        log_growth=math.log(0.97), drawdown=0.3, leverage=1.5, net=-0.7, concentration=0.9, turnover=0.4, costs=0.01
    )
    levels, state = ALL.apply(ALL.init(), after)
    variance = 2 / (SPAN + 1) * math.log(0.97) ** 2
    expected = {"drawdown": 0.3, "leverage": 1.5, "net": 0.7, "concentration": 0.9, "turnover": 0.4, "loss": 0.03}
    expected["volatility"] = math.sqrt(PERIODS * variance)
    assert {name: float(level) for name, level in levels.items()} == pytest.approx(expected, rel=1e-5)
    assert float(ALL.apply(state, bar(log_growth=0.1))[0]["loss"]) == 0.0, "a gain is no loss"
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), ALL.init())


@pytest.mark.parametrize("of", [np.float32, jnp.float32, np.float64])
def test_a_level_at_its_limit_is_no_breach(of):
    limit = monitor.leverage(1.5, warning=0.8)
    cases = {1.5: (True, False), 1.5 * (1 + 5e-6): (True, False), 1.5002: (True, True), 1.2: (False, False)}
    cases |= {1.2002: (True, False), 0.0: (False, False), math.nan: (True, True), math.inf: (True, True)}
    for level, expected in cases.items():
        assert (bool(limit.warned(of(level))), bool(limit.breached(of(level)))) == expected, level
    strict = monitor.leverage(1.5, warning=1.0)
    assert bool(strict.warned(of(1.501))) is bool(strict.breached(of(1.501))) is True
    assert not strict.warned(of(1.5)), "a warning at the limit is the breach"


def test_what_cannot_be_watched_is_refused():
    for make, needle in (
        (lambda: monitor.drawdown(0.0), "limit is 0.0"),
        (lambda: monitor.net(1.0, warning=1.1), "warning is 1.1"),
        (lambda: monitor.volatility(0.1, periods=252.0, span=0), "span is 0"),
        (lambda: monitor.volatility(-0.1, periods=252.0), "limit is -0.1"),
        (lambda: Monitor((monitor.net(1.0), monitor.net(2.0))), "net is monitored twice"),
    ):
        with pytest.raises(ValueError, match=needle):
            make()


# Accounts that a rule trades.


def environment(**options):
    settings = {"levels": (-1.0, 0.0, 1.0), "window": 4, "groups": ("price",), "normalisation_window": 20}
    return envs.TradingEnv(n_assets=2, observation="index", **{**settings, **options})


@functools.cache
def market():
    return simulators.gbm(jax.random.key(3), 200, 2, volatility=0.015, half_spread=2e-4)


def run_rule(rule, inputs, env=None, prices=None, watched=ALL, n_bars=120, tables=(), limited=True, **costs):
    """The ledger of a rule `(portfolio, input) -> weights [2]` as NumPy arrays, and the first decision bar."""
    env = environment() if env is None else env
    prices = market() if prices is None else prices
    costs = envs.basic_costs(**{"max_leverage": 4.0, "maintenance_margin": 0.05, **costs})
    params = env.make_params(prices, costs, masks=tables)

    @jax.jit
    def run(params):
        def decide(portfolio, seen, own, constraint):
            return rule(portfolio, own), jnp.zeros(2, bool)

        return tiny.run_rule(
            decide, inputs, env, params, jnp.int32(env.first_decision), n_bars, limited=limited, monitor=watched
        )

    return jax.tree.map(np.asarray, run(params)), env.first_decision


@pytest.mark.parametrize("seed", [0, 1])
def test_levels_and_counts_against_plain_numpy(seed):
    """Everything watched, from equity and weights alone, in float64."""
    targets = np.random.default_rng(seed).uniform(-1.0, 1.0, (120, 2)).astype(np.float32)
    ledger, _ = run_rule(lambda portfolio, own: own, jnp.asarray(targets))
    equity, weights = ledger.equity.astype(np.float64), ledger.weights.astype(np.float64)
    growth = np.diff(np.log(equity))
    notional = np.abs(ledger.quantity.astype(np.float64)) * ledger.price
    expected = {
        "drawdown": (1 - equity / np.maximum.accumulate(equity))[1:],
        "leverage": np.abs(weights).sum(1),
        "net": np.abs(weights.sum(1)),
        "concentration": np.abs(weights).max(1),
        "turnover": notional.sum(1) / equity[:-1],
        "loss": np.maximum(1 - equity[1:] / equity[:-1], 0.0),
        "volatility": np.sqrt(
            PERIODS * pd.Series(np.r_[0.0, growth**2]).ewm(span=SPAN, adjust=False).mean().to_numpy()[1:]
        ),
    }
    assert set(ledger.monitored) == set(expected) == set(LIMITS)
    times = [f"close {i}" for i in range(120)]
    figures = monitored.monitored_figures(ALL, ledger.monitored, times)
    for name, limit in LIMITS.items():
        np.testing.assert_allclose(ledger.monitored[name], expected[name], rtol=2e-4, atol=2e-6)
        near = np.abs(expected[name] / limit.limit - 1) < 1e-4
        assert not near.any(), "no level so near to its limit that rounding decides"
        beyond, warned = expected[name] > limit.limit, expected[name] > limit.warning * limit.limit
        assert 0 < beyond.sum() < 120, f"the test can tell for {name}"
        found = figures[name]
        assert (found["breached"], found["warned"]) == (beyond.sum(), warned.sum())
        assert found["first_breach"] == times[int(np.argmax(beyond))]
        assert found["worst"] == pytest.approx(expected[name].max(), rel=2e-4)
        assert (found["limit"], found["warning"], found["stop"]) == (limit.limit, limit.warning, False)
    assert monitored.stopped_by(ALL, ledger.monitored, times) is None
    json.dumps(figures)


def stopping(**limits):
    return Monitor(tuple(getattr(monitor, name)(limit, stop=True) for name, limit in limits.items()))


FALL = 25
"""Bars from the first decision on that are calm."""


@functools.cache
def falling():
    """Both assets lose 2 % a bar from then on."""
    drop = jnp.where(jnp.arange(200)[:, None] > environment().first_decision + FALL, 0.98, 1.0)
    scale = jnp.cumprod(jnp.broadcast_to(drop, (200, 2)), axis=0)
    quiet = simulators.gbm(jax.random.key(4), 200, 2, volatility=1e-4, half_spread=1e-4)
    prices = {name: getattr(quiet, name) * scale for name in ("open", "high", "low", "close")}
    return quiet.replace(**prices)


LONG = {"rule": lambda portfolio, own: jnp.full(2, 0.5), "inputs": jnp.arange(120)}


@pytest.mark.parametrize("latency", [1, 3])
def test_an_account_that_breaches_is_closed_at_the_next_fill_and_stays_out(latency):
    env = environment(fill_rule=envs.FillRule(latency))
    watched = stopping(drawdown=0.1)
    ledger, _ = run_rule(**LONG, env=env, prices=falling(), watched=watched)
    free, _ = run_rule(**LONG, env=env, prices=falling(), watched=Monitor((monitor.drawdown(0.1),)))
    at = int(np.argmax(ledger.monitored["drawdown"] > 0.1))
    assert 20 < at < 100
    until = at + latency
    for name in ("equity", "weights", "quantity"):
        np.testing.assert_array_equal(getattr(ledger, name)[:until], getattr(free, name)[:until])
    assert (ledger.weights[until - 1] > 0.4).all(), "the order is on its way"
    assert (ledger.quantity[until] < 0).all()
    assert not ledger.weights[until:].any()
    assert not ledger.quantity[until + 1 :].any(), "it stays out"
    assert not ledger.liquidated
    assert len(set(ledger.equity[until + 1 :])) == 1
    assert free.weights[-1].sum() > 0.9, "without the stop it trades on"
    found = monitored.stopped_by(watched, ledger.monitored, list(range(120)))
    assert found == {"limit": "drawdown", "allowed": 0.1, "level": pytest.approx(0.11, abs=0.02), "at": at}


def test_a_close_takes_as_long_as_the_market_needs():
    """At 1 % of each bar's volume; an asset without bars keeps its position until it has one, and adds nothing."""
    prices = falling()
    last = environment().first_decision + FALL + 5
    halted = (jnp.arange(200)[:, None] > last) & (jnp.arange(200)[:, None] < last + 20)
    gone = jnp.concatenate([jnp.zeros_like(halted), halted], axis=1)
    held = prices.close[last]
    frozen = {name: jnp.where(gone, held, getattr(prices, name)) for name in ("open", "high", "low", "close")}
    prices = prices.replace(tradable=~gone, volume=jnp.full((200, 2), 2e5), **frozen)
    ledger, first = run_rule(**LONG, prices=prices, watched=stopping(drawdown=0.1), participation_limit=0.01)
    at = int(np.argmax(ledger.monitored["drawdown"] > 0.1))
    resumes = last + 20 - first - 1
    assert at < resumes
    after = ledger.quantity[at + 1 :]
    assert (after <= 0).all(), "it only sells"
    assert np.count_nonzero(after[:, 0]) > 1
    assert not ledger.quantity[at + 5 : resumes, 1].any()
    assert ledger.weights[resumes - 1, 1] > 0.1
    assert ledger.quantity[resumes + 1, 1] < 0
    assert not ledger.weights[-1].any()


def test_masks_do_not_keep_an_account_in():
    """A stop closes also what a mask would let nobody trade that fast."""
    transform = masks.chain(
        masks.turnover(0.3, window=5), masks.holding_period(minimum=10), masks.risk_budget(gross=0.9)
    )
    env = environment(masks=transform)
    tables = transform.table(MarketView(falling(), PERIODS, env.position_limit))
    ledger, _ = run_rule(**LONG, env=env, prices=falling(), watched=stopping(drawdown=0.1), tables=tables)
    at = int(np.argmax(ledger.monitored["drawdown"] > 0.1))
    assert ledger.weights[at].sum() > 0.5
    assert not ledger.weights[at + 1 :].any()
    assert not ledger.quantity[at + 2 :].any()


def test_the_earliest_breach_stops_and_other_limits_only_count():
    watched = Monitor((monitor.drawdown(0.15, stop=True), monitor.loss(0.01), monitor.leverage(3.0, stop=True)))
    ledger, _ = run_rule(**LONG, prices=falling(), watched=watched)
    closes = list(range(120))
    figures = monitored.monitored_figures(watched, ledger.monitored, closes)
    found = monitored.stopped_by(watched, ledger.monitored, closes)
    assert found["limit"] == "drawdown"
    assert found["at"] > figures["loss"]["first_breach"], "a limit that does not stop was breached before"
    assert figures["leverage"]["breached"] == 0
    assert figures["drawdown"]["breached"] == 120 - found["at"], "an account that is out does not recover"
    sooner = Monitor((monitor.drawdown(0.15, stop=True), monitor.loss(0.01, stop=True)))
    ledger, _ = run_rule(**LONG, prices=falling(), watched=sooner)
    assert monitored.stopped_by(sooner, ledger.monitored, closes)["limit"] == "loss"


def test_baselines_are_watched_and_trade_on():
    ledger, _ = run_rule(**LONG, prices=falling(), watched=stopping(drawdown=0.1), limited=False)
    assert (ledger.monitored["drawdown"] > 0.1).sum() > 50
    assert ledger.weights[-1].sum() > 0.9


# Training accounts.


@functools.cache
def watched_rollouts():
    """Two chunks in a row of accounts that often end, as NumPy arrays, and the metrics of the last over two devices."""
    task = trading_task(tiny.policy()[0], tiny.env(), tiny.PPO, monitor=ALL)
    params = tiny.env().make_params(
        tiny.market(volatility=0.03),
        envs.basic_costs(),
        episode_bars=2 * tiny.PPO.chunk,
        drawdown_limit=0.05,
    )

    @jax.jit
    def run(key):
        key_start, *key_act = jax.random.split(key, 3)
        states = task.start(params, jax.random.split(key_start, tiny.PPO.paths))
        rollouts = []
        for each in key_act:
            keys = jax.random.split(each, tiny.PPO.paths)
            states, rollout = task.collect(tiny.policy()[1], params, states, keys, jnp.float32(0))
            rollouts.append(rollout)
        halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), rollouts[-1])
        return rollouts, states.monitor, jax.vmap(task.metrics, axis_name=DATA_AXIS)(halves)

    return jax.tree.map(np.asarray, run(jax.random.key(0)))


def test_training_accounts_are_watched_in_every_step_and_begin_anew():
    """Levels from the outcomes; a moving estimate goes on between chunks and ends with its account."""
    rollouts, state, _ = watched_rollouts()
    info = {
        name: np.concatenate([r.info[name] for r in rollouts], axis=1).astype(np.float64) for name in rollouts[0].info
    }
    ended = np.concatenate([r.terminated for r in rollouts], axis=1)
    assert ended[:, :-1].sum() > 10
    np.testing.assert_allclose(info["monitor_drawdown"], info["drawdown"], rtol=1e-6)
    np.testing.assert_allclose(info["monitor_net"], np.abs(info["net"]), rtol=1e-6)
    np.testing.assert_allclose(info["monitor_loss"], np.maximum(-np.expm1(info["log_growth"]), 0), rtol=1e-4, atol=1e-7)
    variance = np.zeros(ended[:, 0].shape)
    for t in range(2 * tiny.PPO.chunk):
        variance += 2 / (SPAN + 1) * (info["log_growth"][:, t] ** 2 - variance)
        np.testing.assert_allclose(info["monitor_volatility"][:, t], np.sqrt(PERIODS * variance), rtol=1e-4)
        variance = np.where(ended[:, t], 0.0, variance)
    assert not np.any(state[-1]), "the episode of every path has ended"


def test_metrics_of_training_count_over_all_devices():
    rollouts, _, metrics = watched_rollouts()
    for name, limit in LIMITS.items():
        level = rollouts[-1].info[f"monitor_{name}"]
        expected = {"warned": (level > limit.warning * limit.limit * 1.00001).sum(), "worst": level.max()}
        expected["breached"] = (level > limit.limit * 1.00001).sum()
        for what, value in expected.items():
            np.testing.assert_array_equal(metrics[f"monitor_{name}_{what}"], [value, value], f"{name} {what}")
    assert metrics["monitor_loss_breached"][0] > 0


# Runs.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("watched")


WATCHED = [{"drawdown": {"limit": 0.9}}, {"leverage": {"limit": 0.4, "warning": 0.5}}, {"volatility": {"limit": 5.0}}]
STOPS = [WATCHED[0], {"leverage": {"limit": 0.4, "warning": 0.5, "stop": True}}, WATCHED[2]]


def train(folder, limits, *options, name="run", steps=4):
    config = write_config(folder, monitor=limits, training={"steps": steps * STEPS_PER_ITERATION, "evaluate_every": 2})
    return command("train", "--config", config, "--output", folder / name, *options)


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def summary_of(run):
    return json.loads((run / "summary.json").read_text())


@pytest.fixture(scope="module")
def stopped(folder):
    """A run whose first iteration breaches a limit that says stop, and what it printed."""
    assert train(folder, STOPS, name="stopped") == 0
    return folder / "stopped"


@pytest.fixture(scope="module")
def watched(folder):
    """The run of the same limits without a stop."""
    assert train(folder, WATCHED, name="watched") == 0
    return folder / "watched"


def test_a_run_ends_after_the_iteration_that_breached_and_is_evaluated(stopped):
    assert [row["iteration"] for row in rows_of(stopped)] == [1]
    (row,) = rows_of(stopped)
    assert row["monitor_leverage_breached"] > 0
    assert "validation_sharpe" in row, "there is a checkpoint to evaluate"
    summary = summary_of(stopped)
    assert summary["train"]["stopped"] == {
        "limit": "leverage", "allowed": 0.4, "level": row["monitor_leverage_worst"], "iteration": 1
    }  # fmt: skip
    assert summary["validation"] == {
        "best_iteration": 1, "best_sharpe": row["validation_sharpe"], "evaluations": 1
    }  # fmt: skip
    assert (stopped / "report.html").exists()
    assert (stopped / "checkpoints" / "last" / "1").exists()


@pytest.mark.slow
def test_resuming_a_stopped_run_evaluates_again_unless_the_limit_no_longer_stops_it(stopped, watched, folder, capfd):
    before = summary_of(stopped)
    assert command("train", "--resume", "--output", stopped, "--training.steps", 10 * STEPS_PER_ITERATION) == 0
    assert summary_of(stopped)["out_of_sample"] == before["out_of_sample"]
    assert summary_of(stopped)["train"]["stopped"] == before["train"]["stopped"]
    line = next(x for x in capfd.readouterr().err.splitlines() if "stopped by the monitor" in x)
    assert "after iteration 1: leverage reached" in line
    assert "where at most 0.4 is allowed; evaluating iteration 1" in line
    higher = json.dumps([STOPS[0], {"leverage": {"limit": 0.401, "stop": True}}, STOPS[2]])
    assert command("train", "--resume", "--output", stopped, "--monitor", higher) == 0
    assert summary_of(stopped)["train"]["iterations"] == 1, "the level of then is beyond this one too"
    config = ["--monitor", json.dumps(WATCHED), "--training.steps", 4 * STEPS_PER_ITERATION]
    assert command("train", "--resume", "--output", stopped, *config) == 0
    assert "stopped" not in summary_of(stopped)["train"]
    assert "breached=leverage" in capfd.readouterr().err
    rows, expected = rows_of(stopped), rows_of(watched)
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4]
    for name in ("loss", "reward", "monitor_leverage_breached"):
        assert [row[name] for row in rows] == [row[name] for row in expected], "the run that was never stopped"


@pytest.mark.slow
def test_the_best_policy_so_far_is_evaluated(folder, monkeypatch):
    """A breach in the third iteration, one after a look at validation."""
    rows = []

    def third(limits, row):
        rows.append(row)
        return {"limit": "leverage", "allowed": 0.4, "level": 0.5} if len(rows) == 3 else None

    monkeypatch.setattr(loop, "stop_in", third)
    monkeypatch.setattr(calls, "ABOUT", 0.0)
    assert train(folder, WATCHED, name="third", steps=9) == 0
    summary = summary_of(folder / "third")
    assert (summary["train"]["iterations"], summary["validation"]["best_iteration"]) == (3, 2)
    assert summary["validation"]["evaluations"] == 1
    assert summary["train"]["stopped"]["iteration"] == 3


def test_levels_of_an_iteration_are_logged(watched):
    rows = rows_of(watched)
    assert len(rows) == 4
    for row in rows:
        assert row["monitor_leverage_warned"] >= row["monitor_leverage_breached"] > 0
        assert row["monitor_leverage_worst"] > 0.4
        assert row["monitor_drawdown_breached"] == row["monitor_volatility_breached"] == 0


def test_the_summary_the_text_and_the_report_say_it(watched, tmp_path, capfd):
    capfd.readouterr()
    limits = "[{leverage: {limit: 0.01, stop: true}}, {drawdown: {limit: 0.5}}]"
    assert command("backtest", "--run", watched, "--monitor", limits, "--output", tmp_path / "out") == 0
    out = summary_of(tmp_path / "out")["out_of_sample"]
    leverage, drawdown = out["monitor"]["leverage"], out["monitor"]["drawdown"]
    assert leverage["breached"] >= 1
    assert leverage["worst"] > 0.01 == leverage["limit"]
    assert out["stopped"]["limit"] == "leverage"
    assert out["stopped"]["at"] == leverage["first_breach"]
    assert out["first_bar"] < leverage["first_breach"] <= out["last_bar"]
    assert drawdown["breached"] == 0
    assert drawdown["first_breach"] is None
    holding = out["baseline"]["buy_and_hold"]["monitor"]["leverage"]
    assert holding["breached"] > 0.9 * out["n_bars"], "baselines are watched, and never stopped"
    assert out["turnover"] < summary_of(watched)["out_of_sample"]["turnover"]
    printed = capfd.readouterr().out
    assert f"stopped by leverage at {leverage['first_breach']}" in printed
    text = (tmp_path / "out" / "report.html").read_text()
    assert "The agent was stopped at" in text
    assert "Beyond a monitored limit: leverage" in text
    assert backtest.describe(out).splitlines()[-1].startswith("monitored limits: leverage")


def test_a_run_without_limits_has_none_of_it(watched):
    out = backtest.run(watched, overrides=["--monitor", "[]"])
    assert not {"monitor", "stopped"} & set(out)
    assert "watched" not in backtest.describe(out)
    expected = summary_of(watched)["out_of_sample"]
    assert out["sharpe"] == expected["sharpe"], "watching changes nothing"


def test_the_section_of_the_report():
    figures = {
        "limit": 0.2,
        "warning": 0.8,
        "stop": True,
        "worst": 0.3,
        "warned": 7,
        "breached": 3,
        "first_breach": "2020",
    }
    calm = {**figures, "stop": False, "worst": 0.01, "warned": 0, "breached": 0, "first_breach": None}
    watched = {"agent": {"drawdown": figures, "loss": calm}, "flat": {"drawdown": calm, "loss": calm}}
    training = [{"iteration": i, "env_steps": i, "monitor_drawdown_breached": 5.0} for i in range(3)]
    stopped = {"limit": "drawdown", "allowed": 0.2, "level": 0.25, "at": "2020"}
    page = report_pages.page_of(report_pages.example(monitored=watched, stopped=stopped, training=training))
    expected = ["20.00 %", "16.00 %", "30.00 %", "7", "3", "2020", "15", "1.00 %"]
    assert report_pages.row(page, "drawdown (stops)", 8) == expected
    assert report_pages.row(page, "loss", 8) == ["20.00 %", "16.00 %", "1.00 %", "0", "0", "-", "0", "1.00 %"]
    assert page.classes.count("breached") == 1
    assert "The agent was stopped at 2020: drawdown reached 25.00 %, where at most 20.00 % is allowed." in page.visible
    assert "Monitored limits" not in report_pages.page_of(report_pages.example()).visible


def test_every_kind_can_be_configured():
    given = [{name: {"limit": 0.5}} for name in MonitorConfig.model_fields]
    given[-1]["volatility"]["span"] = 5
    config = validate_config({"monitor": given, "training": {"steps": 1}})
    made = make_monitor(config.monitor, PERIODS)
    assert [limit.name for limit in made.limits] == [*MonitorConfig.model_fields] == [*LIMITS]
    assert {(limit.limit, limit.warning, limit.stop) for limit in made.limits} == {(0.5, 0.8, False)}
    levels, _ = made.apply(made.init(), bar(log_growth=0.01))
    assert float(levels["volatility"]) == pytest.approx(math.sqrt(PERIODS / 3) * 0.01, rel=1e-4)
