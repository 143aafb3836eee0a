"""Limit orders from the configuration to the tables of a backtest, the orders of the morning and drawn markets."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import STEPS_PER_ITERATION, command, prices, tiny_config, write_config

import jaxppo
from jaxppo import envs, masks
from jaxppo.backtest import load_run, plain_conditions, simulate
from jaxppo.backtest.account import AccountRules
from jaxppo.backtest.agent_account import rules_of
from jaxppo.backtest.baselines import configured_baselines
from jaxppo.backtest.frames import ledger_frame
from jaxppo.backtest.performance import contributions
from jaxppo.backtest.simulate import simulate_account
from jaxppo.deploy.decision import Decision
from jaxppo.deploy.streams import check_streams
from jaxppo.envs import simulators
from jaxppo.envs.execution.costs import TradeCosts
from jaxppo.envs.execution.limit_orders import as_ordered
from jaxppo.envs.execution.portfolio import open_portfolio
from jaxppo.errors import ConfigError
from jaxppo.policy.arrays import from_array
from jaxppo.risk.monitor import Monitor, drawdown
from jaxppo.run.build import build

N_BARS, N_ASSETS, OFFSET = 250, 2, 0.01
RULE = envs.FillRule(limit_orders=True)
COSTS = envs.basic_costs(commission_bps=1.0, max_leverage=1.0).replace(
    limit_orders=envs.make_limit_orders(offset=OFFSET)
)


@pytest.fixture(scope="module")
def market():
    return simulators.gbm(jax.random.key(3), N_BARS, N_ASSETS, volatility=0.4)


@pytest.fixture(scope="module")
def targets():
    return jnp.asarray(0.5 * np.random.default_rng(0).random((N_BARS, N_ASSETS)), jnp.float32)


def traded(market, targets):
    return jaxppo.simulate(targets, market, costs=COSTS, fill_rule=RULE, initial_cash=1e6)


@pytest.fixture(scope="module")
def result(market, targets):
    return traded(market, targets)


def test_tables_have_the_prices_of_fills(result, market):
    """Every decision replaces what rests, so that the limit of a fill is that of the close before."""
    rows = ledger_frame(result.ledger, market, result.first)
    filled = rows[rows["filled"] != 0]
    close, opened = (np.asarray(x)[rows["bar"].to_numpy(), np.tile(range(N_ASSETS), len(rows) // N_ASSETS)]
                     for x in (np.roll(market.close, 1, axis=0), market.open))  # fmt: skip
    side = np.sign(filled["filled"].to_numpy())
    limit, at_open = close[filled.index] * (1 - side * OFFSET), opened[filled.index]
    better = np.where(side > 0, np.minimum(limit, at_open), np.maximum(limit, at_open))
    np.testing.assert_allclose(filled["price"], better, rtol=1e-6)
    assert 50 < len(filled) < 0.9 * len(rows)
    _, _, other = contributions(result.ledger, ("A", "B"))
    assert abs(other) < 1e-5 * 1e6


def test_later_prices_change_nothing_before(result, market, targets):
    """All fields of later bars are drawn anew: neither orders nor fills of earlier ones move."""
    cut, other = 120, simulators.gbm(jax.random.key(9), N_BARS, N_ASSETS, volatility=0.4)
    mixed = {
        name: jnp.concatenate([getattr(market, name)[:cut], getattr(other, name)[cut:]])
        for name in ("open", "high", "low", "close", "volume", "half_spread")
    }
    one, two = result.ledger, traded(market.replace(**mixed), targets).ledger
    for name in ("ordered", "quantity", "price", "shares", "paid", "equity"):
        np.testing.assert_array_equal(getattr(one, name)[: cut - 1], getattr(two, name)[: cut - 1])
    assert not np.array_equal(one.equity, two.equity)


def test_the_gradient_through_limit_orders_is_finite(market):
    conditions = plain_conditions(N_ASSETS, periods=252.0, costs=COSTS, fill_rule=RULE, initial_cash=1e6)
    params = conditions.prepare(conditions.costs, market)

    def final(weight: jax.Array) -> jax.Array:
        policy = from_array(jnp.broadcast_to(weight, (N_BARS, N_ASSETS)))
        return simulate_account(policy, conditions.rules, params, jnp.int32(0), N_BARS - 1).equity[-1] / 1e6

    found = jax.grad(final)(jnp.asarray([0.4, 0.0]))
    assert np.isfinite(found).all()
    assert (np.abs(found) > 0).all()


def held_account(market, limits=None, monitor=None):
    """Ledger of an account that wants to hold half of each asset for ever, by orders far from the close."""
    costs = COSTS.replace(limit_orders=envs.make_limit_orders(offset=0.001))
    env = envs.TradingEnv(
        n_assets=N_ASSETS, observation="index", position_limit=1.0, window=1, fill_rule=RULE, groups=("calendar",),
        normalisation_window=2, masks=limits,
    )  # fmt: skip
    rules = AccountRules(env, 252.0, *([] if monitor is None else [monitor]))
    policy = from_array(jnp.full((N_BARS, N_ASSETS), 0.45))
    return simulate_account(policy, rules, env.make_params(market, costs), jnp.int32(0), N_BARS - 1)


def test_what_a_limit_forces_is_sold_at_the_open(market):
    """What prices have carried beyond it; other sales wait for their limits."""
    forced = held_account(market, masks.risk_budget(asset=0.3, force=1.0))
    weights, quantity, price = (np.asarray(x) for x in (forced.weights, forced.quantity, forced.price))
    beyond, opened = weights[:-1] > 0.3 * (1 + 1e-4), np.asarray(market.open)[2:]
    assert beyond.sum() > 20
    assert (quantity[1:][beyond] < 0).all()
    np.testing.assert_allclose(price[1:][beyond], opened[beyond], rtol=1e-6)
    assert (np.abs(price[1:] / opened - 1)[(quantity[1:] != 0) & ~beyond] > 1e-6).sum() > 5


def test_what_a_monitored_limit_stops_is_sold_at_the_open(market):
    stopped = held_account(market, monitor=Monitor((drawdown(0.05, stop=True),)))
    quantity = np.asarray(stopped.quantity)
    last = np.flatnonzero((quantity != 0).any(axis=1))[-1]
    assert last < N_BARS - 10
    np.testing.assert_allclose(np.asarray(stopped.price)[last], np.asarray(market.open)[last + 1], rtol=1e-6)
    assert (quantity[last] < 0).all()
    assert (np.asarray(stopped.shares)[last:] == 0).all()


def test_a_live_policy_refuses_them():
    setup = build(tiny_config(limit_orders={"offset": 0.004}), envs.load_market(prices()))
    with pytest.raises(
        ConfigError, match=r"^limit_orders\.offset is 0\.004, and a live policy sends orders at the market"
    ):
        check_streams(setup)


def test_a_decision_says_its_limits():
    """And what orders are expected to cost there: the commission alone."""
    portfolio = open_portfolio(jnp.full(3, 100.0), 1e6, RULE)
    portfolio = portfolio.replace(resting=portfolio.resting.replace(urgent=jnp.asarray([False, False, True])))
    orders, paid = jnp.asarray([10.0, -10.0, -10.0]), TradeCosts(*(jnp.full(3, x) for x in (1.0, 2.0, 3.0, 4.0)))
    cost, limit = as_ordered(orders, portfolio, paid, COSTS.limit_orders)
    np.testing.assert_allclose(limit, [99.0, 101.0, np.nan], rtol=1e-6)
    np.testing.assert_allclose(cost.total(), [1.0, 1.0, 10.0], rtol=1e-6)
    values = {"ordered": np.asarray(orders), "limit": np.asarray(limit), "cost": np.asarray(cost.total())}
    values |= dict.fromkeys(("weights", "decided", "sized", "targets"), np.zeros(3))
    values |= {"bound": np.zeros((0, 3), bool), "tradable": np.ones(3, bool), "equity": np.asarray(1e6)}
    values |= {name: np.zeros(3, bool) for name in ("levered", "cut")} | {"stopped": np.False_, "liquidated": np.False_}
    decision = Decision("2020-01-01", ("A", "B", "C"), np.full(3, 100.0), np.zeros(3), values)
    assert list(decision.orders["limit"][:2]) == pytest.approx([99.0, 101.0])
    assert [row["limit"] for row in decision.as_dict()["assets"]][2] is None
    shown = str(decision)
    assert "buy 10 at 99" in shown
    assert "sell 10 at the market" in shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that has learned with limit orders for two iterations, through the command."""
    at = tmp_path_factory.mktemp("limits")
    training = {"steps": 2 * STEPS_PER_ITERATION, "evaluate_every": 1, "checkpoint_every": 1}
    path = write_config(at, training=training, limit_orders={"offset": 0.004})
    assert command("train", "--config", path, "--output", at / "run") == 0
    return at / "run"


@pytest.mark.slow
def test_a_run_learns_with_them_and_its_ledger_has_their_prices(folder):
    run = load_run(folder)
    assert run.setup.env.fill_rule.limit_orders
    result = simulate(run)
    market = result.market
    rows = ledger_frame(result.ledger, market, result.first)
    bar, asset = rows["bar"].to_numpy(), rows["symbol"].map(market.info.symbols.index).to_numpy()
    side, opened = np.sign(rows["filled"].to_numpy()), np.asarray(market.open)[bar, asset]
    inside = (side != 0) & (np.abs(rows["price"] / opened - 1) > 1e-6)
    assert inside.sum() > 5
    extreme = np.where(side > 0, np.asarray(market.low)[bar, asset], np.asarray(market.high)[bar, asset])
    assert (side * (extreme - rows["price"]) < 0)[inside].all()
    assert (side * (rows["price"] - opened) < 0)[inside].all()
    assert ((rows["ordered"] != 0) & (side == 0)).sum() > 5


@pytest.mark.slow
def test_the_orders_of_the_morning_have_limits_and_what_cannot_send_them_is_refused(folder, tmp_path, capsys):
    assert command("trade", "--run", folder, "--cash", "1e6", "--orders", tmp_path / "orders.json") == 0
    assert " at " in capsys.readouterr().out
    rows = [row for row in json.loads((tmp_path / "orders.json").read_text())["assets"] if row["quantity"] > 0]
    assert rows
    for row in rows:
        way = -1 if row["side"] == "buy" else 1
        assert row["limit"] == pytest.approx(row["price"] * (1 + way * 0.004), rel=1e-6)
        assert row["cost"] == pytest.approx(row["notional"] * 1e-4, rel=1e-3)  # the commission alone
    assert command("export", "--run", folder, "--output", tmp_path / "shipped") == 2
    said = capsys.readouterr().err
    assert "limit_orders.offset is 0.004, and a live policy sends orders at the market alone" in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_drawn_markets_know_them(folder, tmp_path):
    """With orders that arrive late, costs that vary and fills that are missed."""
    stress = ("--missed-fills", "0.1", "--latency", "1", "2", "--env.latency_bars", "2")
    arguments = ("--run", folder, "--output", tmp_path / "mc", "--paths", "8", "--bars", "20", *stress)
    assert command("monte_carlo", *arguments) == 0


def test_baselines_are_bought_at_the_open():
    """Also where a policy has a base, which trades by limits of its own."""
    market, env = envs.load_market(prices()), {"actions": "continuous", "levels": [-1.0, 1.0]}
    of_base = {"limit_orders": {"offset": 0.05}, "exits": {"stop_loss": 0.01}, "policy": {"base": "buy_and_hold"}}
    plain, limited = (build(tiny_config(env=env, **sections), market) for sections in ({}, of_base))
    where = plain.periods["test"]
    found = [configured_baselines(setup, rules_of(setup), where) for setup in (plain, limited)]
    np.testing.assert_array_equal(found[0]["buy_and_hold"].equity, found[1]["buy_and_hold"].equity)
    assert not np.array_equal(found[1]["base"].equity, found[1]["buy_and_hold"].equity)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"limit_orders": {"offset": {"NONE": 0.01}}}, r"limit_orders\.offset has a value for NONE; the market has"),
        ({"limit_orders": {"touch": True}}, r"limit_orders\.touch is True, but there is no offset"),
        ({"limit_orders": {"offset": 0.01}, "env": {"fill_price": "decision_close"}}, "allows no limit orders"),
        ({"limit_orders": {"offset": 0.01}, "costs": {"transient_impact": 0.1}}, "allow no limit orders"),
        ({"limit_orders": {"offset": 0.01}, "env": {"latency_bars": 2, "unfilled": "drop"}}, "allows no limit orders"),
        (
            {"limit_orders": {"offset": 0.01}, "sizing": [{"drawdown_control": {"limit": 0.1, "move": 0.05}}]},
            r"limit_orders\.offset is 0\.01; sizing\[0\]\.drawdown_control needs",
        ),
        ({"limit_orders": {"offset": 0.9}}, r"limit_orders\.offset"),
    ],
)
def test_mistakes_are_named(sections, said):
    with pytest.raises(ConfigError, match=said):
        build(tiny_config(**sections), envs.load_market(prices()))


def test_keys_reach_the_account():
    market = envs.load_market(prices())
    symbol = market.info.symbols[0]
    setup = build(tiny_config(limit_orders={"offset": {symbol: 0.01}, "touch": True}), market)
    limits = setup.params.costs.limit_orders
    np.testing.assert_allclose(limits.offset, [0.01, 0.0])
    np.testing.assert_array_equal(limits.named, [1.0, 0.0])
    assert limits.touch
