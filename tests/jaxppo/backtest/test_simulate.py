"""The simulator: blocks, baselines against independent arithmetic, no look-ahead, ruin."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import tiny
from tiny_run import load

from jaxppo import envs
from jaxppo.backtest.account import AccountRules
from jaxppo.backtest.baselines import run_baselines
from jaxppo.envs import simulators
from jaxppo.envs.market.features import group_slices
from jaxppo.envs.market.index import equal_weight_volatility
from jaxppo.envs.market.periods import periods_per_year
from jaxppo.policy.agent import agent
from jaxppo.policy.encoding import chunk_of, encode_bars, market_bars
from jaxppo.policy.networks.actor_critic import make_actor_critic
from jaxppo.policy.networks.config import EncoderConfig
from jaxppo.ppo.trading_task import action_config
from jaxppo.statistics import summarise

module = importlib.import_module("jaxppo.policy.encoding")
FREE = {"spread_multiplier": 0.0}
PAID = {"commission_bps": 2.0, "spread_multiplier": 1.0, "slippage": 0.05, "impact": 0.6, "participation_limit": 0.1}
GROUPS = ("price",)


def environment(n_assets=2, **options):
    chosen = {"levels": (-0.5, 0.0, 0.5, 1.0), "window": 4, "groups": GROUPS, "normalisation_window": 20, **options}
    return envs.TradingEnv(n_assets=n_assets, observation="index", **chosen)


@pytest.fixture(scope="module")
def env():
    return environment()


@pytest.fixture(scope="module")
def market():
    return simulators.gbm(jax.random.key(0), 180, 2, volatility=0.02)


@pytest.fixture(scope="module")
def params(env, market):
    return env.make_params(market, envs.basic_costs(**PAID))


@pytest.fixture(scope="module")
def trader(env):
    """A transformer that trades a lot: its output weights are not small."""
    sizes = tuple(columns.stop - columns.start for columns in group_slices(GROUPS).values())
    encoder = EncoderConfig("transformer", sizes, 16, 1, 2, 4, 2, True, jnp.dtype("float32"))
    action = action_config(env, 0.6)
    policy, net = make_actor_critic(encoder, action, jax.random.key(1))
    actor = {"kernel": 3 * jax.random.normal(jax.random.key(3), net["head"]["actor"]["kernel"].shape)}
    return policy, {**net, "head": {**net["head"], "actor": {**net["head"]["actor"], **actor}}}


def rows(ledger):
    """The ledger's columns by bar; the equity without the starting capital."""
    columns = {field.name: getattr(ledger, field.name) for field in dataclasses.fields(ledger)}
    columns["equity"] = columns["equity"][1:]
    del columns["liquidated"]
    return jax.tree.map(np.asarray, columns)


@pytest.mark.parametrize("n_bars", [5, 40])
def test_blocks_are_one_pass(n_bars, env, params, trader, monkeypatch):
    policy, net = trader
    first = jnp.int32(env.first_decision)
    monkeypatch.setattr(module, "BLOCK", 10**6)
    encoding = agent(policy, net, env).encoding
    prepare = [
        jax.jit(lambda net, params, first: encode_bars(encoding, net, market_bars(params), first, n_bars))
        for _ in range(2)
    ]
    whole = prepare[0](net, params, first)
    monkeypatch.setattr(module, "BLOCK", 16)
    blocked = prepare[1](net, params, first)
    assert blocked.shape == whole.shape == (n_bars, 2, 32)
    np.testing.assert_allclose(blocked, whole, rtol=1e-5, atol=1e-5)


def test_the_policy_decides_on_each_bar_from_what_it_saw_then(env, params, trader, monkeypatch):
    """The blocked, compiled run is the loop over bars in which every decision reads its own window."""
    policy, net = trader
    monkeypatch.setattr(module, "BLOCK", 16)
    first, n_bars = env.first_decision, 20
    ledger = tiny.run_agent(policy, env, net, params, jnp.int32(first), n_bars)
    start = envs.execution.portfolio.open_portfolio(params.market.close[first], 1e6, env.fill_rule)
    state = envs.EnvState(time=jnp.int32(0), bar=jnp.int32(first), portfolio=start)

    @jax.jit
    def step(state, bars):
        prepared = policy.encode(net, jax.tree.map(lambda x: x[None], bars))[0, 0]
        distribution, _ = policy.act(net, prepared, env.observe(None, state, None, params))
        return env.step_env(None, state, distribution.mode(), params)[1]

    equity = [1e6]
    for bar in range(first, first + n_bars):
        state = step(state, chunk_of(market_bars(params), jnp.int32(bar), policy.context, 1))
        equity.append(float(state.portfolio.equity))
    np.testing.assert_allclose(ledger.equity, equity, rtol=1e-6)
    assert np.abs(rows(ledger)["quantity"]).sum() > 0


def all_ledgers(trader, env, params, n_bars):
    policy, net = trader
    first = jnp.int32(env.first_decision)
    baselines = run_baselines(AccountRules(env, 252.0), params, first, n_bars, 0.1)
    return {"agent": tiny.run_agent(policy, env, net, params, first, n_bars), **baselines}


@pytest.mark.parametrize("kept", [1, 20, 59])
def test_nothing_looks_ahead(kept, env, market, params, trader):
    """New prices after a bar: the ledger up to that bar is the same to the last bit, for policy and baselines."""
    n_bars, first = 60, env.first_decision
    scramble = load("tests/causality.py").randomise_after
    other = env.make_params(scramble(market, first + kept, jax.random.key(5)), params.costs)
    before, after = all_ledgers(trader, env, params, n_bars), all_ledgers(trader, env, other, n_bars)
    for name in before:
        one, two = rows(before[name]), rows(after[name])
        for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            np.testing.assert_array_equal(left[:kept], right[:kept], err_msg=name)
        if name != "flat":
            assert (one["equity"][kept:] != two["equity"][kept:]).any(), f"{name} has not seen the change"


def test_a_planted_leak_is_caught(env, market, params):
    """The same check on a rule that reads the next close: the row before the change moves."""
    scramble = load("tests/causality.py").randomise_after
    first, n_bars, kept = env.first_decision, 30, 12

    def ledger(prices):
        own = env.make_params(prices, params.costs)
        tomorrow = jax.lax.dynamic_slice_in_dim(prices.close, first + 1, n_bars)
        today = jax.lax.dynamic_slice_in_dim(prices.close, first, n_bars)
        leak = lambda portfolio, seen, up, _: (0.5 * up, jnp.zeros(2, bool))  # noqa: E731
        return rows(tiny.run_rule(leak, jnp.sign(tomorrow - today), env, own, jnp.int32(first), n_bars))

    one, two = ledger(market), ledger(scramble(market, first + kept - 1, jax.random.key(5)))
    np.testing.assert_array_equal(one["quantity"][: kept - 1], two["quantity"][: kept - 1])
    assert (one["quantity"][kept - 1 : kept + 1] != two["quantity"][kept - 1 : kept + 1]).any()


def test_flat_costs_nothing(env, params):
    ledger = run_baselines(AccountRules(env, 252.0), params, jnp.int32(env.first_decision), 60, 0.1)["flat"]
    assert (np.asarray(ledger.equity) == 1e6).all()
    assert not any(
        np.asarray(leaf).any() for leaf in jax.tree.leaves((ledger.costs, ledger.financing, ledger.turnover))
    )
    assert summarise(ledger.returns, periods=252.0, key=jax.random.key(0), n_resamples=100)["sharpe"] is None


@pytest.fixture(scope="module")
def shipped():
    """Five stocks, their environment, and the bars of the last two years or so."""
    prices = envs.load_market("us5_1d")
    own = environment(n_assets=5)
    return prices, own, 2700, prices.n_bars - 1 - 2700


def test_buy_and_hold_is_what_a_spreadsheet_says(shipped):
    """Bought at the next open with equal parts of the capital, by the adjusted prices in the file itself."""
    prices, own, first, n_bars = shipped
    params = own.make_params(prices, envs.basic_costs(**FREE))
    ledger = run_baselines(AccountRules(own, 252.0), params, jnp.int32(first), n_bars, 0.1)["buy_and_hold"]
    table = pd.read_csv(envs.datasets.path("us5_1d"))
    table["open"] = table["Open"] * table["Adj Close"] / table["Close"]
    opens = table.pivot(index="Date", columns="Ticker", values="open")
    closes = table.pivot(index="Date", columns="Ticker", values="Adj Close")
    held = closes.columns[closes.iloc[first].notna()]
    assert list(held) == ["AAPL", "GOOG", "IBM", "MSFT"], "FB is not listed yet"
    shares = 1e6 / len(held) / closes.iloc[first][held]
    cash = 1e6 - (shares * opens.iloc[first + 1][held]).sum()
    expected = cash + (closes.iloc[first + 1 :][held] * shares).sum(axis=1)
    np.testing.assert_allclose(ledger.equity[1:], expected, rtol=1e-5)
    assert np.count_nonzero(np.asarray(ledger.quantity).any(axis=1)) == 1, "never touched again"


def test_baselines_pay_the_same_costs(shipped):
    prices, own, first, n_bars = shipped
    runs = [
        run_baselines(
            AccountRules(own, 252.0),
            own.make_params(prices, envs.basic_costs(**costs)),
            jnp.int32(first),
            n_bars,
            0.1,
        )
        for costs in (FREE, PAID)
    ]
    for name in ("buy_and_hold", "volatility_target"):
        free, paid = (run[name] for run in runs)
        assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(free.costs))
        for kind in ("commission", "spread", "slippage", "impact"):
            assert np.asarray(getattr(paid.costs, kind)).sum() > 0, kind
        assert paid.equity[-1] < free.equity[-1]
    commission = np.asarray(runs[1]["buy_and_hold"].costs.commission).sum()
    traded = (np.abs(rows(runs[1]["buy_and_hold"])["quantity"]) * rows(runs[1]["buy_and_hold"])["price"]).sum()
    assert commission == pytest.approx(2e-4 * traded, rel=1e-5)


@pytest.mark.parametrize(("volatility", "target"), [(0.03, 0.10), (0.03, 0.20), (0.01, 0.05)])
def test_volatility_target_hits_its_target(volatility, target, shipped):
    ledger = volatility_targeted(shipped, volatility, target)
    assert ledger.returns.std() * 252**0.5 == pytest.approx(target, rel=0.1)
    assert np.abs(rows(ledger)["weights"]).sum(axis=1).max() < 1.1


def test_volatility_target_stays_within_the_leverage_limit(shipped):
    gross = np.abs(rows(volatility_targeted(shipped, 0.001, 0.5))["weights"]).sum(axis=1)
    assert gross.max() < 1.02
    assert gross[1:].min() > 0.85


def volatility_targeted(shipped, volatility, target):
    """Five independent assets without costs, in the shape of the shipped data."""
    prices, own, first, n_bars = shipped
    simulated = simulators.gbm(jax.random.key(7), prices.n_bars, 5, volatility=volatility)
    params = own.make_params(simulated, envs.basic_costs(**FREE))
    return run_baselines(AccountRules(own, 252.0), params, jnp.int32(first), n_bars, target)["volatility_target"]


def test_buy_and_hold_waits_for_something_to_buy(env, market):
    first = env.first_decision
    silent = market.replace(tradable=market.tradable.at[first : first + 3].set(False))
    params = env.make_params(silent, envs.basic_costs(**FREE))
    ledger = run_baselines(AccountRules(env, 252.0), params, jnp.int32(first), 60, 0.1)["buy_and_hold"]
    traded = np.flatnonzero(np.asarray(ledger.quantity).any(axis=1))
    assert list(traded) == [3], "decided at the close of the first bar with trades, filled at the next open"


def crash(market, bar, factor):
    """All prices from a bar on multiplied by a factor."""
    scale = jnp.where(jnp.arange(market.n_bars) >= bar, factor, 1.0)[:, None]
    prices = {name: getattr(market, name) * scale for name in ("open", "high", "low", "close")}
    return market.replace(**prices)


@pytest.mark.parametrize("factor", [0.52, 0.3])
def test_a_liquidated_account_stays_out(factor, market):
    """At 1.9 times its equity a fall to 0.52 leaves a little and one to 0.3 a debt; nothing is traded after either."""
    own = environment(levels=(0.0, 1.0), position_limit=0.95)
    first, n_bars, at = own.first_decision, 60, 20
    costs = envs.basic_costs(commission_bps=5.0, max_leverage=1.9, maintenance_margin=0.25, margin_rate=0.05)
    params = own.make_params(crash(market, first + at + 1, factor), costs)
    always = lambda portfolio, seen, now, _: (jnp.full(2, 0.95), jnp.zeros(2, bool))  # noqa: E731
    ledger = tiny.run_rule(always, jnp.arange(n_bars), own, params, jnp.int32(first), n_bars)
    lines = rows(ledger)
    assert bool(ledger.liquidated)
    assert (lines["equity"][at] > 0) == (factor > 0.5)
    assert not lines["quantity"][at + 1 :].any()
    assert not lines["weights"][at:].any()
    returns = ledger.returns
    assert np.isfinite(returns).all()
    assert not returns[at + 1 :].any(), "a debt earns nothing"
    assert (returns[at] < -1) == (factor < 0.5)
    assert np.prod(1 + returns) == pytest.approx(lines["equity"][at] / 1e6, rel=1e-6)
    flows = -np.sum(lines["quantity"] * lines["price"] + lines["paid"]) - lines["financing"][: at + 1].sum()
    assert lines["equity"][at] == pytest.approx(1e6 + flows, abs=20.0), "nothing is held any more"
    assert lines["paid"].sum() == pytest.approx(sum(kind.sum() for kind in vars(lines["costs"]).values()))
    figures = summarise(returns, periods=periods_per_year(market), key=jax.random.key(0), n_resamples=100)
    assert figures["total_return"] == pytest.approx(max(lines["equity"][at] / 1e6, 0.0) - 1, rel=1e-4)


def test_the_forecast_of_the_equal_weight_portfolio_counts_assets_while_they_trade():
    """After three of four delist, the volatility is that of the fourth alone."""
    full = simulators.gbm(jax.random.key(8), 800, 4, volatility=0.01)
    gone = jnp.arange(800)[:, None] >= jnp.array([[400, 400, 400, 10_000]])
    frozen = {
        name: jnp.where(gone, getattr(full, name)[399:400], getattr(full, name))
        for name in ("open", "high", "low", "close")
    }
    forecast = np.asarray(equal_weight_volatility(full.replace(tradable=~gone, **frozen)))
    assert forecast[390] == pytest.approx(0.005, rel=0.3)
    assert forecast[-1] == pytest.approx(0.01, rel=0.3)
