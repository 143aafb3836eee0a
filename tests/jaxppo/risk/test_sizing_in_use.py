"""Sizing in the environment: the drawdown floor, every kind of action, masks, and the same sizes wherever it runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import drawdown_control as benchmark
from jaxppo import masks
from jaxppo.backtest.account import AccountRules
from jaxppo.backtest.mask_attribution import mask_effects
from jaxppo.envs import simulators
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.portfolio import expected_weights, open_portfolio, weights_of
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvState
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy.agent import agent
from jaxppo.policy.networks.actor_critic import make_actor_critic
from jaxppo.ppo.trading_task import action_config, trading_task
from jaxppo.risk import sizing
from jaxppo.risk.sizing.drawdown import RollingPeak, _seen

A, PERIODS, N = 2, 252.0, 60
LIMIT, MOVE, COST = 0.08, 0.05, 0.003
WINDOW = 12


@functools.cache
def wild(n_paths=64, window=None):
    """`(seed, extremity) -> audits and equity` of three agents on markets without gaps."""
    env = TradingEnv(
        n_assets=A,
        actions="continuous",
        position_limit=1.5,
        levels=(-1.0, 1.0),
        observation="index",
        sizing=sizing.chain(sizing.drawdown_control(LIMIT, move=MOVE, cost=COST, window=window)),
    )
    costs = basic_costs(commission_bps=5.0, margin_rate=0.05, borrow_rate=0.05, max_leverage=3.0)

    def market(key, extremity):
        """Moves of up to MOVE, most of them as large, with halts; never a gap."""
        keys = jax.random.split(key, 5)
        base = simulators.gbm(keys[0], N, A, half_spread=1e-3)
        there = jax.random.bernoulli(keys[1], 0.9, (N, A))

        def move(key):
            u = jax.random.uniform(key, (N, A), minval=-1.0, maxval=1.0)
            return 0.999 * MOVE * jnp.sign(u) * jnp.abs(u) ** extremity

        def bar(carry, xs):
            opened, closed = carry
            to_close, to_open, now = xs
            low = jnp.maximum(opened, closed) * (1 - 0.999 * MOVE)
            high = jnp.minimum(opened, closed) * (1 + 0.999 * MOVE)
            new_open = jnp.clip(closed * (1.0 + to_open), low, high)
            new_close = new_open * (1.0 + to_close)
            opened, closed = jnp.where(now, new_open, opened), jnp.where(now, new_close, closed)
            return (opened, closed), (jnp.where(now, opened, closed), closed)

        first = base.close[0]
        _, (opened, closed) = jax.lax.scan(bar, (first, first), (move(keys[2]), move(keys[3]), there))
        high, low = jnp.maximum(opened, closed), jnp.minimum(opened, closed)
        return base.replace(open=opened, close=closed, high=high, low=low, tradable=there)

    def one(key, extremity):
        key_market, key_agent = jax.random.split(key)
        prices = market(key_market, extremity)
        survived = jnp.full(prices.close.shape, MOVE)
        found = {}
        for name, make in benchmark.AGENTS.items():
            targets, hold = make(key_agent, prices, env.position_limit)
            run = benchmark.follow(env, prices, targets, hold, costs, COST)
            found[name] = {**benchmark.audit(run, prices, survived), "equity": run["equity"]}
        return found

    many = jax.jit(jax.vmap(one, in_axes=(0, None)))
    return lambda seed, extremity: many(jax.random.split(jax.random.key(seed), n_paths), extremity)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), extremity=st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]))
def test_without_gaps_no_close_is_below_the_floor(seed, extremity):
    """Halts included, for agents at random, always long, and always wrong; at moves of exactly the largest size too."""
    for name, found in jax.device_get(wild()(seed, extremity)).items():
        assert found["gap_loss"].max() == 0.0, "no gaps were drawn"
        assert not found["missed"].any()
        assert found["excess"].max() <= 1e-6, name
        assert found["exposure"].mean() > 0.005, "it trades"
        if extremity < 1.0 and name == "always wrong":
            assert found["max_drawdown"].max() > 0.06, "close to the floor"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), extremity=st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]))
def test_without_gaps_no_close_is_below_the_floor_of_a_rolling_peak(seed, extremity):
    """The peak of the last `WINDOW` closes, the present one among them."""
    for name, found in jax.device_get(wild(window=WINDOW)(seed, extremity)).items():
        equity = np.asarray(found["equity"], np.float64)
        equity = pd.DataFrame(np.concatenate([np.full((len(equity), 1), benchmark.CASH), equity], axis=1).T)
        floor = (1.0 - LIMIT) * equity.rolling(WINDOW, min_periods=1).max()
        assert ((floor - equity) / equity).to_numpy().max() <= 1e-6, name
        assert found["exposure"].mean() > 0.005, "it trades"
        if extremity < 1.0 and name == "always wrong":
            assert found["max_drawdown"].max() > 1.5 * LIMIT, "it forgets peaks, and loses again"


@pytest.mark.parametrize("window", [None, 30])
def test_an_account_at_its_floor_comes_back_once_the_peak_is_forgotten(window):
    """A crash takes it to the floor; after that the market rises for ever."""
    n_bars = 150
    moves = np.full(n_bars, 0.004)
    moves[10:30] = -0.03
    close = 100.0 * np.cumprod(1.0 + moves)
    prices = simulators.gbm(jax.random.key(0), n_bars, 1, half_spread=0.0)
    opened = np.concatenate([close[:1], close[:-1]])
    columns = {"open": opened, "close": close, "high": np.maximum(opened, close), "low": np.minimum(opened, close)}
    prices = prices.replace(**{name: jnp.asarray(x, jnp.float32)[:, None] for name, x in columns.items()})
    control = sizing.chain(sizing.drawdown_control(0.1, move=0.05, cost=0.001, window=window))
    env = TradingEnv(actions="continuous", levels=(-1.0, 1.0), position_limit=1.0, observation="index", sizing=control)
    free = basic_costs(spread_multiplier=0.0, max_leverage=2.0)
    held = jnp.zeros((n_bars, 1), bool)
    run = benchmark.follow(env, prices, jnp.ones((n_bars, 1)), held, free, 0.0)
    weight = np.asarray(run["shares"][:, 0] * prices.close[1:, 0] / run["equity"])
    assert weight[:9].min() > 0.5
    assert weight[29] < 0.05, "at its floor"
    if window is None:
        assert weight[29:].max() < 0.3, "what it earns is a little more cushion"
    else:
        assert weight[30 + window * 8 // 7 + 1 :].min() > 0.5, "the peak of before the crash is forgotten"
        assert run["equity"][-1] > 1.05 * run["equity"][29]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), window=st.integers(1, 40))
def test_the_peak_is_of_at_least_the_window_and_of_at_most_a_part_more(seed, window):
    equity = np.random.default_rng(seed).uniform(0.5, 1.5, 120).astype(np.float32)
    length = -(-window // 7)

    def step(state, now):
        state = _seen(state, now, window)
        return state, state.peaks.max()

    found = np.asarray(jax.lax.scan(step, RollingPeak.empty(), jnp.asarray(equity))[1])
    least, most = (pd.Series(equity).rolling(n, min_periods=1).max() for n in (window, 8 * length))
    assert (found >= least).all()
    assert (found <= most).all()


def test_with_gaps_the_excess_is_at_most_exposure_times_gap():
    audits = jax.device_get(
        benchmark.batch(
            lambda key, _: simulators.stochastic_volatility_jumps(
                key, 60, A, jump_rate=0.05, jump_mean=-0.15, jump_deviation=0.1
            ),
            True,
            A,
            0.002,
        )(jax.random.split(jax.random.key(0), 512), None)
    )
    breaches = 0
    for found in audits.values():
        breach = found["excess"] > benchmark.BREACH
        breaches += int(breach.sum())
        assert np.all(found["excess"][breach] <= 1.001 * (found["gap_loss"] + found["overpaid"])[breach])
    assert breaches > 50


@pytest.mark.parametrize(("when", "rise"), [("to_close", 0.0), ("to_open", 0.0), ("to_close", 0.03)])
@pytest.mark.parametrize(("limit", "move"), [(0.08, 0.05), (0.05, 0.2), (0.3, 0.1)])
def test_the_largest_move_without_a_gap_ends_at_the_floor(when, rise, limit, move):
    """Nothing is left over and nothing is missing: without costs, a fall by `move` right after the fill costs `limit`.

    The fill is `rise` above the close of the decision.
    """
    fallen = 100.0 * (1.0 + rise) * (1.0 - move)
    opened = np.asarray([100.0, 100.0 * (1.0 + rise), fallen, fallen])
    closed = np.asarray([100.0, opened[1] if when == "to_open" else fallen, fallen, fallen])
    opened[0] = 100.0 * (1.0 + rise) / (1.0 + move)  # so that `rise` is the largest move that is left to the opening
    prices = simulators.gbm(jax.random.key(0), 4, 1, half_spread=0.0)
    high, low = np.maximum(opened, closed), np.minimum(opened, closed)
    columns = {"open": opened, "close": closed, "high": high, "low": low}
    prices = prices.replace(**{name: jnp.asarray(x, jnp.float32)[:, None] for name, x in columns.items()})
    control = sizing.chain(sizing.drawdown_control(limit, move=move, cost=0.0, proportional=False, tolerance=0.0))
    env = TradingEnv(actions="continuous", levels=(-1.0, 1.0), position_limit=10.0, observation="index", sizing=control)
    costs = basic_costs(spread_multiplier=0.0, max_leverage=10.0, maintenance_margin=0.0)
    run = benchmark.follow(env, prices, jnp.full((4, 1), 10.0), jnp.zeros((4, 1), bool), costs, 0.0)
    drawdown = 1.0 - np.asarray(run["equity"] / run["peak"], np.float64)
    # Beyond the limit, the reckoning keeps `move - limit` of every fall for a floor that a new peak would lift.
    np.testing.assert_allclose(drawdown.max(), limit / (1.0 + max(move - limit, 0.0)), rtol=1e-4)


def test_what_is_left_of_a_move_counts_from_the_last_bar_of_the_asset():
    """Through a halt the last own open stands, not the price that is repeated."""
    prices = simulators.gbm(jax.random.key(3), 6, 2, half_spread=0.0)
    there = jnp.ones((6, 2), bool).at[3:5, 0].set(False)
    still = {
        name: getattr(prices, name).at[3:5, 0].set(prices.close[2, 0]) for name in ("open", "high", "low", "close")
    }
    table = sizing.drawdown_control(LIMIT, move=MOVE).table(
        MarketView(prices.replace(tradable=there, **still), PERIODS, 1.0)
    )
    own = np.asarray(prices.open / prices.close)
    np.testing.assert_allclose(table["open"][:, 1], own[:, 1], rtol=1e-6)
    np.testing.assert_allclose(table["open"][:, 0], own[[0, 1, 2, 2, 2, 5], 0], rtol=1e-6)


def account(weights, *, drawdown=0.0, price=100.0):
    prices = jnp.full(len(weights), price)
    empty = open_portfolio(prices, 1e6, FillRule())
    return empty.replace(shares=jnp.asarray(weights) * 1e6 / prices, peak_equity=jnp.float32(1e6 / (1.0 - drawdown)))


def controlled(targets, portfolio, last=0.0, opened=1.0, **options):
    transform = sizing.drawdown_control(**{"limit": 0.08, "move": 0.05, "cost": 0.0, **options})
    there = jnp.ones(len(targets), bool)
    moves = jnp.full(len(targets), options.get("move", 0.05))
    row = {"move": moves, "before": moves, "open": jnp.full(len(targets), opened), "there": there}
    sizes, factor = transform.apply(jnp.float32(last), row, portfolio, jnp.asarray(targets))
    return np.asarray(sizes, np.float64), float(factor)


def test_grossman_zhou_in_proportion():
    """1 at the peak, 0 at the limit, and the formula in between; the hard floor is far away for a small target."""
    for drawdown in (0.0, 0.02, 0.05, 0.08, 0.2):
        expected = max((1 - (1 - 0.08) / (1 - drawdown)) / 0.08, 0.0)
        sizes, factor = controlled([0.1, -0.2], account([0.0, 0.0], drawdown=drawdown))
        np.testing.assert_allclose(sizes, expected * np.asarray([0.1, -0.2]), atol=1e-6)
        assert factor == pytest.approx(expected, abs=1e-5)
        sizes, _ = controlled([0.1, -0.2], account([0.0, 0.0], drawdown=drawdown), proportional=False)
        if drawdown in (0.0, 0.02):
            np.testing.assert_allclose(sizes, [0.1, -0.2], rtol=1e-6)
        if drawdown >= 0.08:
            np.testing.assert_allclose(sizes, [0.0, 0.0], atol=1e-5)


def test_the_hard_floor_by_hand():
    """A cushion of 0.08, moves of 0.05: 0.08 / (0.05 x 1.05) from no position; with one, less what it can lose."""
    sizes, _ = controlled([5.0], account([0.0]))
    assert sizes[0] == pytest.approx(0.08 / (0.05 * 1.05), rel=1e-5)
    # Half of the largest move of the last bar is over: from 102.5 to 100, which leaves 2.5 % of 102.5.
    sizes, _ = controlled([5.0], account([1.0]), opened=1.025)
    fall = 1 - 1.025 * 0.95
    assert sizes[0] == pytest.approx((0.08 - fall) / (0.05 * (1 + min(1.025 * 1.05 - 1, 0.05))), rel=1e-5)
    sizes, _ = controlled([0.0, 5.0], account([1.6, 0.0]))
    assert sizes[1] == pytest.approx(0.0, abs=1e-6), "all of the cushion is taken until the fill"
    sizes, _ = controlled([1.5], account([0.0]), cost=0.004)
    assert sizes[0] == pytest.approx(0.08 / ((0.05 + 0.004 + 0.004 * 1.05) * 1.05), rel=1e-5)
    # An unchanged factor that the floor allows stays; one that it forbids does not.
    assert controlled([0.5], account([0.5], drawdown=0.004), last=1.0)[1] == 1.0
    assert controlled([0.5], account([0.5], drawdown=0.02), last=1.0)[1] == pytest.approx(0.7653, abs=1e-3)
    assert controlled([0.8], account([0.8], drawdown=0.002), last=1.0)[1] < 0.98


def test_a_forecast_widens_the_move():
    prices = simulators.gbm(jax.random.key(0), 80, A, volatility=jnp.asarray([0.002, 0.03]))
    found = sizing.drawdown_control(0.1, move=0.02, deviations=4.0, span=20).table(MarketView(prices, PERIODS, 1.0))
    moves = np.asarray(found["move"])
    np.testing.assert_allclose(moves[:, 0], 0.02)
    assert 0.06 < moves[40:, 1].mean() < 0.2
    np.testing.assert_array_equal(np.asarray(found["before"])[1:], moves[:-1])


def test_control_refuses_orders_that_take_longer():
    transform = sizing.chain(sizing.drawdown_control(0.1, move=0.05))
    late = open_portfolio(jnp.ones(A), 1e6, FillRule(latency_bars=2))
    row = jax.tree.map(lambda x: x[0], transform.table(MarketView(tiny.market(), PERIODS, 1.0)))
    with pytest.raises(ValueError, match="latency_bars 1"):
        transform.apply(transform.init(A), row, late, jnp.zeros(A), jnp.zeros(A, bool))


CHAIN = (
    sizing.volatility_target(0.2, span=20, max_leverage=2.0),
    sizing.projection(leverage=1.5),
    sizing.drawdown_control(0.1, move=0.05),
)


def build(*transforms, **changes):
    settings = {"window": tiny.encoder_config().context, "groups": tiny.GROUPS, "normalisation_window": 10}
    settings |= {"n_assets": A, "observation": "index", "start": "flat", "position_limit": 0.8}
    env = TradingEnv(**{**settings, "sizing": sizing.chain(*transforms) if transforms else None, **changes})
    view = MarketView(tiny.market(), PERIODS, env.position_limit)
    rows = () if env.sizing is None else env.sizing.table(view)
    limits = () if env.masks is None else env.masks.table(view)
    costs = basic_costs(commission_bps=1.0, max_leverage=3.0, maintenance_margin=0.05)
    return env, env.make_params(tiny.market(), costs, episode_bars=16, sizing=rows, masks=limits)


def random_actions(env, key, n_bars):
    if env.actions == "discrete":
        return jax.random.randint(key, (n_bars, A), 0, env.num_actions)
    if env.actions == "hierarchical":
        bucket = jax.random.randint(key, (n_bars, 1), 0, env.num_buckets)
        own = jax.random.randint(jax.random.fold_in(key, 1), (n_bars, A), 0, env.num_actions)
        return jnp.concatenate([bucket, own], axis=-1)
    shape = (n_bars, A) if env.actions == "continuous" else (n_bars, A, 2)
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)


@pytest.mark.parametrize("actions", ["discrete", "continuous", "band", "hierarchical"])
@pytest.mark.parametrize(
    "limits",
    [pytest.param(None, marks=pytest.mark.slow), masks.chain(masks.no_short(), masks.risk_budget(gross=0.7))],
)
def test_a_backtest_and_the_environment_trade_the_same(actions, limits):
    env, params = build(*CHAIN, actions=actions, masks=limits)
    n_bars, first = 60, env.first_decision
    taken = random_actions(env, jax.random.key(3), n_bars)

    def rule(portfolio, seen, action, constraint):
        return env.decode(action, portfolio, constraint)

    ledger = jax.jit(lambda p: tiny.run_rule(rule, taken, env, p, jnp.int32(first), n_bars))(params)
    portfolio = open_portfolio(params.market.close[first], params.initial_cash, env.fill_rule)
    state = EnvState(jnp.int32(0), jnp.int32(first), portfolio, env.mask_start(), env.sizing_start(), ())

    def one(state, action):
        _, state, _, _, info = env.step_env(jax.random.key(0), state, action, params)
        return state, (info["equity"], weights_of(state.portfolio))

    equity, weights = jax.jit(lambda s: jax.lax.scan(one, s, taken))(state)[1]
    np.testing.assert_allclose(ledger.weights, weights, atol=2e-6)
    np.testing.assert_allclose(ledger.equity[1:], equity, rtol=2e-6)
    assert np.asarray(ledger.turnover).sum() > 5
    if limits is not None:
        assert np.asarray(weights).min() >= 0.0
        assert np.abs(weights).sum(axis=-1).max() < 0.7 * 1.1


@pytest.mark.slow
def test_training_trades_what_the_environment_does():
    """Every transition of a rollout again, action by action, through `step_env`."""
    env, params = build(*CHAIN, levels=(-1.0, 0.0, 0.5, 1.0), start="random")
    policy, net = make_actor_critic(tiny.encoder_config(), action_config(env, 0.6), jax.random.key(0))
    task = trading_task(policy, env, tiny.PPO)
    keys = jax.random.split(jax.random.key(1), 4)
    paths = task.start(params, keys)
    again = jax.random.split(jax.random.key(2), 4)
    _, rollout = jax.jit(lambda p: task.collect(net, params, p, again, jnp.float32(0)))(paths)

    def replay(bar, portfolio, actions):
        state = EnvState(jnp.int32(0), bar, portfolio, env.mask_start(), env.sizing_start(), ())

        def one(state, action):
            before = state.portfolio.equity
            _, state, _, _, info = env.step_env(jax.random.key(0), state, action, params)
            return state, jnp.log(info["equity"] / before)

        return jax.lax.scan(one, state, actions)[1]

    each = jax.vmap(jax.vmap(replay, in_axes=(None, 0, 1), out_axes=1), in_axes=(0, 0, 0))
    growth = jax.jit(each)(paths.bar, paths.portfolio, rollout.action)
    np.testing.assert_allclose(rollout.info["log_growth"], growth, atol=2e-6)
    assert np.abs(growth).max() > 1e-3


def test_a_backtest_of_a_policy_is_sized():
    """The same network with and without a volatility target, which is met; masks are measured as before."""
    free, loose = build(actions="continuous")
    env, params = build(sizing.volatility_target(0.03, span=20), actions="continuous")
    policy, net = make_actor_critic(tiny.encoder_config(), action_config(env, 0.6), jax.random.key(2))
    first = jnp.int32(env.first_decision)
    sized = tiny.run_agent(policy, env, net, params, first, 100)
    plain = tiny.run_agent(policy, free, net, loose, first, 100)
    assert np.abs(sized.weights - plain.weights).max() > 0.05
    volatility = sized.returns[5:].std() * PERIODS**0.5
    assert 0.015 < volatility < 0.06
    limited, short = build(sizing.volatility_target(0.03, span=20), masks=masks.chain(masks.no_short()))
    policy, net = make_actor_critic(tiny.encoder_config(), action_config(limited, 0.6), jax.random.key(2))
    effects = mask_effects(
        agent(policy, net, limited), AccountRules(limited, PERIODS), short, limited.first_decision, 20
    )
    assert list(effects) == ["no_short"]


def halved():
    """Half of every target."""
    half = jnp.full((tiny.N_BARS, A), 0.5)
    return sizing.scaling("halved", lambda view: half, lambda state, row, p, t: (row, state))


def play(env, params, decide, n_bars):
    """Weights at each close of a rule `(portfolio, constraint) -> (weights, hold)`."""
    rule = lambda portfolio, seen, own, constraint: decide(portfolio, constraint)  # noqa: E731
    ledger = tiny.run_rule(rule, jnp.arange(n_bars), env, params, jnp.int32(env.first_decision), n_bars)
    return np.asarray(ledger.weights)


def test_a_mean_that_mostly_holds_goes_to_the_sized_target():
    """Nine tenths hold, a tenth wants 0.8: the position goes to half of that, not to half of itself again and again."""
    env, params = build(halved(), levels=(0.0, 1.0))
    chances = jnp.broadcast_to(jnp.asarray([0.9, 0.0, 0.1]), (A, 3))
    weights = play(env, params, lambda portfolio, limit: env.expected_target(chances, portfolio, limit), 80)
    np.testing.assert_allclose(weights[0], 0.04, rtol=0.1)
    np.testing.assert_allclose(weights[-1], 0.4, rtol=0.03)


def test_a_band_counts_in_targets():
    """The edges are 0.4 and 0.56 of equity: the nearest one is 0.4, its size 0.2, and that is then inside the band."""
    env, params = build(halved(), actions="band", levels=(0.0, 1.0))
    edges = jnp.broadcast_to(jnp.asarray([0.5, 0.7]), (A, 2))
    weights = play(env, params, lambda portfolio, limit: env.decode(edges, portfolio, limit), 20)
    np.testing.assert_allclose(weights, 0.2, rtol=0.15)
    ledger_moves = np.abs(np.diff(weights, axis=0))
    assert ledger_moves.max() < 0.02


def test_holding_is_not_trading():
    """Half of the targets once, then hold: no share moves any more, and the factor is not applied again."""
    env, params = build(halved(), levels=(0.0, 1.0))
    portfolio = open_portfolio(params.market.close[30], params.initial_cash, env.fill_rule)
    state = EnvState(jnp.int32(0), jnp.int32(30), portfolio, env.mask_start(), env.sizing_start(), ())
    shares = []
    for action in ([2, 2], [0, 0], [0, 0], [0, 1]):
        _, state, *_ = env.step_env(jax.random.key(0), state, jnp.asarray(action), params)
        shares.append(np.asarray(state.portfolio.shares))
    np.testing.assert_array_equal(shares[0], shares[1])
    np.testing.assert_array_equal(shares[0], shares[2])
    np.testing.assert_array_equal(shares[0][0], shares[3][0])
    assert shares[3][1] == 0
    np.testing.assert_allclose(shares[0] * params.market.close[30], 0.4 * params.initial_cash, rtol=1e-5)
    assert np.abs(np.asarray(expected_weights(state.portfolio))[0] - 0.4) < 0.05
