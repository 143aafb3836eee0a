"""Books of rules: tables that look back only, shadow accounts that are real ones, the account that follows them."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from causality import assert_causal, randomise_after
from slowly import slow_after

from jaxppo import envs
from jaxppo.backtest import run_book
from jaxppo.backtest.account import AccountRules
from jaxppo.backtest.baselines import run_baselines
from jaxppo.backtest.simulate import simulate_account
from jaxppo.book import AGENT, AllocationRule, book
from jaxppo.envs import simulators
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy.protocol import Policy, Targets
from jaxppo.policy.rules import buy_and_hold, inverse_volatility, mean_reversion, rule, trend
from jaxppo.risk.sizing import projection, volatility_target

PAID = {"commission_bps": 2.0, "slippage": 0.05, "impact": 0.6, "participation_limit": 0.1, "borrow_rate": 0.02}
ALONE = AllocationRule(parts=(), cut=1.0, readmit=0.0, cooldown=None)
N_BARS, FIRST, LENGTH, PERIODS = 240, 40, 190, 252.0
SHORT = {"span": 20}
ROUNDING = 1e-6
"""Relative difference of the same float32 accounting in two compiled programs."""


def strategies():
    return (
        buy_and_hold(),
        trend(lookback=30, **SHORT),
        mean_reversion(window=10, **SHORT),
        inverse_volatility(**SHORT),
    )


@functools.cache
def environment(n_assets=2):
    return envs.TradingEnv(n_assets=n_assets, observation="index", window=4, groups=("price",), normalisation_window=20)


@functools.cache
def prices(n_assets=2, seed=0):
    """With missing bars."""
    market = simulators.gbm(jax.random.key(seed), N_BARS, n_assets, volatility=0.02)
    return market.replace(tradable=jax.random.uniform(jax.random.key(seed + 1), market.close.shape) < 0.95)


@functools.cache
def tables(n_assets=2, **costs):
    return environment(n_assets).make_params(prices(n_assets), envs.basic_costs(**(costs or PAID)))


def always(name, weights, **keys):
    """The same targets at every bar."""
    return rule(name, lambda view: jnp.broadcast_to(jnp.asarray(weights), view.market.close.shape), **keys)


def own_backtest(strategy, n_assets=2, params=None):
    """What `simulate_account` makes of a strategy by itself."""
    params = tables(n_assets) if params is None else params
    return simulate_account(strategy, AccountRules(environment(n_assets), PERIODS), params, jnp.int32(FIRST), LENGTH)


@functools.cache
def whole(**keys):
    return run_book(strategies(), environment(), tables(), FIRST, LENGTH, AllocationRule(**keys), periods=PERIODS)


@pytest.mark.parametrize("number", slow_after(2, range(4)))
def test_strategies_do_not_look_ahead(number):
    strategy = strategies()[number]
    for t in (20, 150):
        assert_causal(lambda m: strategy.table((), MarketView(m, PERIODS, 0.5)), prices(), t, jax.random.key(t))


def ramp(steps):
    """A market of one asset whose log price changes by these steps."""
    close = jnp.exp(jnp.cumsum(jnp.asarray(steps, jnp.float32)))[:, None]
    market = simulators.gbm(jax.random.key(0), len(steps), 1)
    return market.replace(open=close, high=close * 1.001, low=close / 1.001, close=close)


def test_trend_follows_the_sign_and_scales_by_volatility():
    steps = [0.01] * 30 + [-0.01] * 30
    weights = trend(lookback=10, volatility=0.1, span=5).table((), MarketView(ramp(steps), 252.0, 1.0))["weights"][:, 0]
    size = 0.1 / (0.01 * 252**0.5)
    assert (weights[:10] == 0).all(), "not formed"
    np.testing.assert_allclose(weights[25:34], size, rtol=2e-2)
    np.testing.assert_allclose(weights[45:], -size, rtol=1e-2)
    flat = trend(lookback=10, volatility=0.1, span=5, short=False).table((), MarketView(ramp(steps), 252.0, 1.0))
    assert (flat["weights"][45:] == 0).all()


def test_mean_reversion_opens_far_away_and_closes_nearby():
    """A loop over bars in numpy."""
    close = np.log(np.asarray(prices(1).replace(tradable=prices(1).tradable | True).close[:, 0], np.float64))
    market = prices(1).replace(tradable=jnp.ones((N_BARS, 1), bool))
    weights = mean_reversion(window=10, span=20).table((), MarketView(market, PERIODS, 1.0))["weights"][:, 0]
    side, expected = 0, []
    for t in range(N_BARS):
        z = 0.0
        if t >= 9:
            past = close[t - 9 : t + 1]
            z = (close[t] - past.mean()) / past.std(ddof=1)
        if z < -1.25:
            side = 1
        elif z > 1.25:
            side = -1
        elif (side > 0 and z > -0.5) or (side < 0 and z < 0.5):
            side = 0
        expected.append(side)
    np.testing.assert_array_equal(np.sign(weights), expected)
    assert {-1, 0, 1} == set(expected)


def test_inverse_volatility_is_that_and_gross_is_kept():
    market = prices(3)
    weights = inverse_volatility(span=20, gross=0.8).table((), MarketView(market, PERIODS, 1.0))["weights"]
    sigma = np.asarray(envs.features.ewma_volatility(market, 20), np.float64)
    part = np.asarray(market.tradable) / sigma
    listed = part.sum(axis=1) > 0
    np.testing.assert_allclose(weights[listed], 0.8 * (part / part.sum(axis=1, keepdims=True))[listed], rtol=1e-4)
    loud = rule("loud", lambda view: 3.0 * jnp.ones(view.market.close.shape), gross=1.5)
    np.testing.assert_allclose(loud.table((), MarketView(market, PERIODS, 1.0))["weights"], 0.5, rtol=1e-6)


@pytest.mark.parametrize("number", slow_after(2, range(4)))
def test_a_shadow_account_is_a_backtest(number):
    """Whether its strategy has allocation, is cut, or neither."""
    expected = own_backtest(strategies()[number])
    for run in (whole(), whole(parts=(), cut=0.05, readmit=0.01, cooldown=10)):
        np.testing.assert_allclose(run.equity[:, number], expected.equity[:-1], rtol=ROUNDING)
    assert np.abs(expected.quantity).sum() > 0


@pytest.mark.parametrize("number", range(4))
def test_a_book_of_one_is_its_strategy(number):
    strategy = strategies()[number]
    expected = own_backtest(strategy)
    run = run_book((strategy,), environment(), tables(), FIRST, LENGTH, ALONE, periods=PERIODS)
    np.testing.assert_allclose(run.ledger.equity, expected.equity, rtol=ROUNDING)
    np.testing.assert_array_equal(run.ledger.quantity != 0, np.asarray(expected.quantity) != 0)
    np.testing.assert_array_equal(run.allocation, 1.0)


def test_margins_by_volatility_are_those_of_the_decision():
    """The paper account of a strategy that always aims too high is its backtest, and a book of it trades the same."""
    market = prices().replace(futures=jnp.asarray([True, False]))
    costs = envs.basic_costs(**PAID, margin_volatility=8.0, maintenance_margin=0.1, cash_rate=0.03)
    params = environment().make_params(market, costs)
    greedy = always("greedy", [4.0, 0.4])
    expected = own_backtest(greedy, params=params)
    run = run_book((greedy,), environment(), params, FIRST, LENGTH, ALONE, periods=PERIODS)
    np.testing.assert_allclose(run.equity[:, 0], expected.equity[:-1], rtol=ROUNDING)
    np.testing.assert_allclose(run.ledger.equity, expected.equity, rtol=ROUNDING)
    ordered = np.asarray(expected.weights)[1:, 0]
    assert 0.5 < ordered.mean() < 4.0, "the margin binds, and not the notional"
    later = environment().make_params(randomise_after(market, FIRST + 60, jax.random.key(3)), costs)
    other = run_book((greedy,), environment(), later, FIRST, LENGTH, ALONE, periods=PERIODS)
    for name in ("quantity", "weights", "financing"):
        np.testing.assert_array_equal(getattr(run.ledger, name)[:60], getattr(other.ledger, name)[:60], err_msg=name)
    assert (run.ledger.equity[62:] != other.ledger.equity[62:]).any()


def test_the_baseline_is_the_same_rule():
    baseline = run_baselines(AccountRules(environment(), PERIODS), tables(), jnp.int32(FIRST), LENGTH, 0.1)
    np.testing.assert_allclose(whole().equity[:, 0], baseline["buy_and_hold"].equity[:-1], rtol=ROUNDING)


def test_separate_accounts_are_the_same_money():
    """Half in each of two rules that hold, without costs: the account ends with the mean of theirs, and trades once."""
    params = tables(spread_multiplier=0.0)
    first = rule(
        "first", lambda view: jnp.broadcast_to(jnp.asarray([1.0, 0.0]), view.market.close.shape), tolerance=0.99
    )
    second = rule(
        "second", lambda view: jnp.broadcast_to(jnp.asarray([0.0, 0.6]), view.market.close.shape), tolerance=0.99
    )
    patient = AllocationRule(parts=(), cut=1.0, readmit=0.0, cooldown=None, rebalance=0.9)
    run = run_book((first, second), environment(), params, FIRST, LENGTH, patient)
    np.testing.assert_allclose(run.ledger.equity[1:-1], run.equity[1:].mean(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(np.count_nonzero(run.ledger.quantity, axis=0), [1, 1])


@pytest.mark.parametrize("most", [0.5, 1.0])
def test_exposure_is_within_that_of_the_strategies(most):
    run = whole(max_total=most, rebalance=0.0, parts=("inverse_risk",))
    own = [np.abs(own_backtest(strategy).weights).sum(axis=1) for strategy in strategies()]
    gross = np.abs(run.ledger.weights).sum(axis=1)
    largest = np.max(own, axis=0)
    assert (gross <= most * np.maximum(largest, 1.0) * 1.02).all()
    assert gross.max() > 0.3 * most


def test_nobody_who_is_cut_holds_capital_and_cuts_are_counted():
    run = whole(parts=(), cut=0.05, readmit=0.01, cooldown=10)
    assert (run.allocation[~run.active] == 0.0).all()
    falls = (run.active[:-1] & ~run.active[1:]).sum(axis=0)
    np.testing.assert_array_equal(run.cuts, falls)
    assert run.cuts.sum() > 2
    summary = run.summary()
    assert summary["book"]["cuts"] == run.cuts.sum()
    assert list(summary) == ["book", *run.names]


def reckless():
    """All on one asset, borrowed."""
    return always("reckless", [4.0, 0.0], gross=9.0)


def test_a_liquidated_strategy_is_out_for_good():
    market = prices()
    crash = market.close.at[FIRST + 50 :, 0].multiply(0.7)
    market = market.replace(
        close=crash, open=market.open.at[FIRST + 50 :, 0].multiply(0.7), low=jnp.minimum(market.low, crash),
        tradable=jnp.ones_like(market.tradable),
    )  # fmt: skip
    params = environment().make_params(market, envs.basic_costs(max_leverage=4.0, maintenance_margin=0.2))
    both = (reckless(), buy_and_hold())
    run = run_book(both, environment(), params, FIRST, LENGTH, AllocationRule(parts=("inverse_risk",), cooldown=5))
    alone = own_backtest(reckless(), params=params)
    assert bool(alone.liquidated)
    np.testing.assert_allclose(run.equity[:, 0], alone.equity[:-1], rtol=ROUNDING)
    assert (run.equity[60:, 0] == run.equity[60, 0]).all()
    assert not run.active[52:, 0].any()
    assert (run.allocation[52:, 0] == 0.0).all()
    assert all(
        np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves((run.ledger, run.allocation, run.equity))
    )


def test_one_asset():
    env = environment(1)
    run = run_book(strategies(), env, tables(1), FIRST, LENGTH, AllocationRule(warmup=20))
    assert all(
        np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves((run.ledger, run.allocation, run.equity))
    )
    assert run.ledger.quantity.any()


@pytest.mark.parametrize("kept", [1, 60, 150])
def test_a_book_does_not_look_ahead(kept):
    market = randomise_after(prices(), FIRST + kept, jax.random.key(3))
    params = environment().make_params(market, tables().costs)
    one, two = whole(warmup=20), run_book(
        strategies(), environment(), params, FIRST, LENGTH, AllocationRule(warmup=20), periods=PERIODS
    )  # fmt: skip
    for name in ("quantity", "weights", "turnover"):
        np.testing.assert_array_equal(getattr(one.ledger, name)[:kept], getattr(two.ledger, name)[:kept], err_msg=name)
    np.testing.assert_array_equal(one.allocation[: kept + 1], two.allocation[: kept + 1])
    assert (one.ledger.equity[kept + 1 :] != two.ledger.equity[kept + 1 :]).any()


def sized_run(sizing, decide, market=None):
    """`simulate` of a decision under a sizing."""
    market = prices() if market is None else market
    env = copy.copy(environment())
    env.sizing = sizing
    params = environment().make_params(market, tables().costs, sizing=sizing.table(MarketView(market, PERIODS, 0.5)))
    return jax.jit(
        lambda p: tiny.run_rule(
            decide, None, env, p, jnp.int32(FIRST), LENGTH, record=lambda s: s.account.sizing.allocation.allocation
        )
    )(params)


def follower(portfolio, seen, _, __):
    """Trades by the day, holds at times."""
    day = seen.bar % 7
    return jnp.asarray([0.3, -0.2]) * (day - 3) / 3.0, jnp.asarray([day == 1, day >= 4])


def test_a_book_of_the_agent_alone_changes_nothing():
    plain = jax.jit(lambda p: tiny.run_rule(follower, None, environment(), p, jnp.int32(FIRST), LENGTH))(tables())
    sized = sized_run(book([AGENT], ALONE, env=environment(), costs=tables().costs), follower)
    np.testing.assert_allclose(sized.equity, plain.equity, rtol=2e-6)
    np.testing.assert_allclose(sized.weights, plain.weights, atol=2e-6)
    np.testing.assert_array_equal(sized.recorded, 1.0)


def test_what_the_agent_holds_is_its_own():
    """An agent that always holds is flat in its own account, whatever the others hold in the common one."""

    def nothing(portfolio, seen, _, __):
        return jnp.ones(2), jnp.ones(2, bool)

    sized = sized_run(book([AGENT, buy_and_hold()], ALONE, env=environment(), costs=tables().costs), nothing)
    half = own_backtest(buy_and_hold())
    np.testing.assert_allclose(sized.weights[5].sum(), 0.5 * half.weights[5].sum(), rtol=0.02)


def test_transforms_before_size_the_agent_and_those_after_the_account():
    """Without halts, in which what was to be sold may stay while something else is bought."""
    open_ = prices().replace(tradable=jnp.ones((N_BARS, 2), bool))
    cap = projection(leverage=0.2)
    sized = sized_run(
        book([AGENT, buy_and_hold()], ALONE, env=environment(), costs=tables().costs, after=[cap]), follower, open_
    )
    assert 0.19 < np.abs(sized.weights).sum(axis=1).max() < 0.22
    small = volatility_target(0.01, span=20)
    before = sized_run(book([AGENT], ALONE, env=environment(), costs=tables().costs, before=[small]), follower)
    assert 0 < np.abs(before.weights).sum(axis=1).max() < 0.1
    with pytest.raises(ValueError, match="no agent"):
        book([buy_and_hold()], ALONE, env=environment(), costs=tables().costs, before=[small])


def test_a_strategy_observes_its_own_account():
    """Position, drawdown and action mask, as in a backtest of its own."""

    def cautious(params, state, seen):
        drawdown, allowed = seen.observation.account[2], seen.observation.mask.any(axis=-1)
        weights = jnp.where(allowed, jnp.where(drawdown > 0.01, 0.1, 0.4), 0.0) - 0.2 * seen.observation.asset[:, 0]
        return Targets(weights, jnp.zeros(2, bool)), state

    strategy = Policy("cautious", cautious)
    run = run_book((strategy, buy_and_hold()), environment(), tables(), FIRST, LENGTH, ALONE, periods=PERIODS)
    own = own_backtest(strategy)
    np.testing.assert_allclose(run.equity[:, 0], own.equity[:-1], rtol=ROUNDING)
    assert len(np.unique(np.round(own.weights.sum(axis=1), 1))) > 2


def test_mistakes_are_named():
    for refused, named in (
        (Policy("x", None, in_shares=True), "x decides on shares"),
        (Policy("x", None, encoding=()), "block"),
    ):
        with pytest.raises(ValueError, match=named):
            book([refused], ALONE, env=environment(), costs=tables().costs)
    with pytest.raises(ValueError, match="different names"):
        book([trend(), trend()], ALONE, env=environment(), costs=tables().costs)
    with pytest.raises(ValueError, match="no policy decides"):
        run_book([AGENT], environment(), tables(), FIRST, LENGTH, ALONE)
    with pytest.raises(ValueError, match="must be in the market"):
        run_book([trend()], environment(), tables(), FIRST, N_BARS, ALONE)
    for mistake in ({"lookback": 0}, {"volatility": 0.0}, {"gross": 0.0}, {"tolerance": -1.0}):
        with pytest.raises(ValueError, match=next(iter(mistake))):
            trend(**mistake)
    with pytest.raises(ValueError, match="entry"):
        mean_reversion(entry=0.5, leave=0.5)


def test_a_book_needs_the_history_of_all_that_is_in_it():
    costs = tables().costs
    long = mean_reversion(window=3000, span=20)
    assert book([AGENT, long, buy_and_hold()], ALONE, env=environment(), costs=costs).warmup == 3000
    assert book([AGENT, trend(lookback=400)], ALONE, env=environment(), costs=costs).warmup == 400
    assert book([AGENT], ALONE, env=environment(), costs=costs).warmup == 0
    sized = volatility_target(0.1, span=77)
    assert (
        book([AGENT, buy_and_hold()], ALONE, env=environment(), costs=costs, before=[sized]).warmup
        == sized.warmup
        >= 77
    )
