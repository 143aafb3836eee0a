"""Masks in the environment, in training and in backtests: nothing forbidden is ever done, and densities stay exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxppo import masks
from jaxppo.backtest.account import AccountRules
from jaxppo.backtest.mask_attribution import mask_effects
from jaxppo.envs import simulators
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.limits import Constraint, GrossBudgets, no_limits
from jaxppo.envs.execution.portfolio import drawdown, expected_weights, orders_to_target, weights_of
from jaxppo.envs.market.covariance import ewma_covariance
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy.agent import agent
from jaxppo.policy.distributions import Hierarchical, MaskedCategorical, SquashedGaussian
from jaxppo.policy.encoding import encode_paths
from jaxppo.policy.networks.actor_critic import make_actor_critic
from jaxppo.ppo import data_mesh, make_learner
from jaxppo.ppo.trading_task import action_config, trading_task

A, PERIODS = 3, 252.0
SLACK = 1e-4
"""A fill is at the next open, decided at the close: shares are exact, weights to rounding."""


@functools.cache
def prices():
    """Three ragged assets."""
    base = simulators.gbm(jax.random.key(7), tiny.N_BARS, A, volatility=0.02, half_spread=2e-4)
    there = jax.random.uniform(jax.random.key(8), base.close.shape) < 0.9
    close = np.asarray(base.close).copy()
    for t in range(1, len(close)):
        close[t] = np.where(there[t], close[t], close[t - 1])
    held = {name: jnp.where(there, getattr(base, name), close) for name in ("open", "high", "low")}
    return base.replace(tradable=there, close=jnp.asarray(close), **held)


def build(transform, market=None, **changes):
    """An environment with masks and its parameters, on `prices()` unless another market is given."""
    market = prices() if market is None else market
    settings = {"window": tiny.encoder_config().context, "groups": tiny.GROUPS, "normalisation_window": 10}
    settings |= {"observation": "index", "start": "random", "position_limit": 0.8, "n_assets": market.n_assets}
    settings |= {"masks": transform, "levels": (-1.0, -0.5, 0.0, 0.5, 1.0)}
    env = TradingEnv(**{**settings, **changes})
    view = MarketView(market, PERIODS, env.position_limit)
    table = () if transform is None else transform.table(view)
    costs = basic_costs(commission_bps=1.0, max_leverage=3.0, participation_limit=0.3, maintenance_margin=0.05)
    params = env.make_params(market, costs, episode_bars=16, initial_cash=1e8, masks=table)
    return env, params


CHAINS = {
    "gross and net": masks.chain(masks.risk_budget(gross=1.1, net=(-0.3, 0.9)), masks.no_short()),
    "forced": masks.chain(
        masks.risk_budget(gross=0.9, asset=0.5, force=1.0), masks.volatility_cap(0.1, span=10, force=1.1)
    ),
    "volatility and trades": masks.chain(
        masks.risk_budget(volatility=0.25, concentration=0.6, span=20), masks.turnover(0.8, window=4)
    ),
    "everything": masks.chain(
        masks.risk_budget(gross=1.5, net=(-0.5, 1.2), volatility=0.3, drawdown_budget=0.3, span=20),
        masks.volatility_cap(0.15, span=10),
        masks.liquidity(spread=1e-3, participation=1.0),
        masks.holding_period(minimum=2, maximum=9),
        masks.halt(move=0.03, bars=2),
    ),
}


def random_run(env, params, key, n_portfolios, n_bars):
    """Uniformly random allowed actions: for every bar what is checked of every account."""
    start = jax.vmap(env.start_portfolio, in_axes=(0, None, None, None))
    first = env.first_decision
    rows = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, n_bars), params.masks)
    bars = jax.lax.dynamic_slice_in_dim(params.table, first + 1, n_bars)
    tradable = jax.lax.dynamic_slice_in_dim(params.market.tradable, first, n_bars)

    def act(portfolio, state, row, bar, now, uniform, next_bar):
        constraint, state = env.limit(state, row, bar, portfolio, now)
        mask = env.action_mask(now, constraint)
        if env.actions == "discrete":
            free = MaskedCategorical(jnp.zeros(mask.shape), mask)
        elif env.actions == "hierarchical":
            config = action_config(env, 0.6)
            own = jnp.zeros((env.n_assets, config.n_outputs))
            shift = jnp.zeros((config.n_buckets, config.n_outputs))
            free = Hierarchical(jnp.zeros(config.n_buckets), own, shift, mask, sizes=config.sizes)
        else:
            zeros = jnp.zeros(env.n_assets)
            free = SquashedGaussian(zeros, zeros + 0.5, zeros, zeros).restricted(mask)
        draw = uniform.reshape(-1, 1)
        action, mask = masks.choose(env, free, mask, constraint, lambda own, i: own.sample(draw[i].reshape(-1)))
        taken = free.restricted(mask).squash(action)
        weights, hold = env.decode(taken, portfolio, constraint)
        weights = jnp.where(hold, constraint.feasible_hold, weights)
        executed, held = env.feasible(portfolio, weights, hold, constraint)
        orders = orders_to_target(portfolio, executed, held | ~now, params.costs)
        after, fills, _ = env.fill(portfolio, orders, next_bar, params.costs)
        before, expected = weights_of(portfolio), expected_weights(portfolio)
        return after, state, {
            "weights": weights, "before": before, "expected": expected, "keep": constraint.feasible_hold,
            "low": constraint.limits.low, "high": constraint.limits.high, "drawdown": drawdown(portfolio),
            "allowed": _allowed(env, mask, action, taken), "row": bar, "traded": jnp.abs(fills.quantity).sum() > 0,
            "bucket": action[0] if env.actions == "hierarchical" else 0, "executed": executed,
        }  # fmt: skip

    def step(carry, xs):
        portfolios, states = carry
        row, bar, now, next_bar, key = xs
        places = env.n_assets + (env.actions == "hierarchical")
        uniform = jax.random.uniform(key, (n_portfolios, places))
        after, states, seen = jax.vmap(act, in_axes=(0, 0, None, None, None, 0, None))(
            portfolios, states, row, bar, now, uniform, next_bar
        )
        return (after, states), seen

    key_start, key_act = jax.random.split(key)
    at = params.market.close[first], params.market.tradable[first]
    portfolios = start(jax.random.split(key_start, n_portfolios), *at, params)
    states = jax.tree.map(lambda x: jnp.broadcast_to(x, (n_portfolios, *x.shape)), env.mask_start())
    keys = jax.random.split(key_act, n_bars)
    xs = (rows, first + jnp.arange(n_bars), tradable, bars, keys)
    return jax.lax.scan(step, (portfolios, states), xs)[1]


def _allowed(env, mask, action, taken):
    if env.actions == "discrete":
        return jnp.take_along_axis(mask, action[:, None], axis=-1)[:, 0]
    if env.actions == "hierarchical":
        return mask[jnp.arange(env.n_assets), action[0], action[1:]]
    return (taken >= mask[:, 0] - 1e-6) & (taken <= mask[:, 1] + 1e-6)


@pytest.mark.parametrize(
    ("name", "actions"),
    [
        ("gross and net", "discrete"),
        ("gross and net", "continuous"),
        ("forced", "discrete"),
        pytest.param("forced", "hierarchical", marks=pytest.mark.slow),
        ("volatility and trades", "continuous"),
        pytest.param("everything", "discrete", marks=pytest.mark.slow),
        ("everything", "continuous"),
        pytest.param("everything", "hierarchical", marks=pytest.mark.slow),
    ],
)
def test_nothing_forbidden_is_ever_done(name, actions):
    """In all 1.1 million random decisions: every limit, by formulas of the limits themselves."""
    levels = tuple(np.linspace(-1, 1, 9))
    env, params = build(CHAINS[name], actions=actions, levels=levels)
    run = jax.jit(lambda key: random_run(env, params, key, 768, 180))
    seen = {k: np.asarray(v, np.float64) for k, v in run(jax.random.key(1)).items()}
    weights, before, keep, expected = (seen[k] for k in ("weights", "before", "keep", "expected"))
    assert seen["allowed"].all()
    assert seen["traded"].mean() > 0.3
    there = np.asarray(prices().tradable)[seen["row"][:, 0].astype(int)][:, None]
    np.testing.assert_array_equal(np.where(there, 0, keep - expected), 0)
    assert np.abs(np.where(there, seen["executed"] - weights, 0)).max() < 1e-5, "what was chosen is executed as it is"
    inside = np.where(there, np.clip(weights, np.minimum(seen["low"], 0), np.maximum(seen["high"], 0)), weights)
    beyond = np.abs(weights) > np.abs(inside) + SLACK
    assert np.all(np.abs(weights)[beyond] <= np.abs(keep)[beyond] + SLACK), "beyond a box only what was kept or reduced"
    if actions == "hierarchical":
        cap = 0.8 * np.asarray([0.0, 0.25, 0.5, np.inf])[seen["bucket"].astype(int)][..., None]
        assert np.all(np.abs(np.where(there, weights, 0)) <= cap + SLACK), "no position beyond its bucket"
        assert np.all(np.bincount(seen["bucket"].astype(int).ravel()) > 1000)
    gross, held = np.abs(weights).sum(axis=-1), np.abs(keep).sum(axis=-1)
    budget = {"gross and net": 1.1, "forced": 0.9, "everything": 1.5}.get(name)
    if budget is not None:
        if name == "everything":
            budget = 1.5 * np.clip(1 - seen["drawdown"] / 0.3, 0, 1)
        assert np.all(gross <= np.maximum(budget, held) + SLACK)
    if name == "forced":
        stuck = np.where(there, 0, np.abs(keep)).sum(axis=-1)
        assert np.all(held <= np.maximum(0.9, stuck) + SLACK)
        assert np.all(np.where(there, np.abs(keep), 0) <= 0.5 + SLACK)
    if name == "gross and net":
        shorter = weights < np.minimum(before, 0) - SLACK
        assert not np.any(shorter & (weights < np.minimum(keep, 0) - SLACK))
        net, net_held = weights.sum(axis=-1), keep.sum(axis=-1)
        reduced = np.sum(np.maximum(np.abs(keep) - np.abs(weights), 0), axis=-1)
        assert np.all(net <= np.maximum(0.9, net_held) + reduced + SLACK)
    if name in ("volatility and trades", "everything"):
        limit = 0.25 if name == "volatility and trades" else 0.3
        table = np.asarray(ewma_covariance(prices(), 20), np.float64)[seen["row"][:, 0].astype(int)] * PERIODS
        variance = np.einsum("tki,tij,tkj->tk", weights, table, weights)
        variance_held = np.einsum("tki,tij,tkj->tk", keep, table, keep)
        only_more = np.all(np.abs(weights) >= np.abs(keep) - SLACK, axis=-1) & np.all(weights * keep >= 0, axis=-1)
        worse = variance > np.maximum(limit**2, variance_held) * (1 + 1e-3)
        assert not np.any(worse & only_more), "nothing that only adds goes beyond the volatility budget"
    if name == "volatility and trades":
        added = np.abs(weights - expected).sum(axis=-1)
        reduced = np.sum(np.maximum(np.abs(expected) - np.abs(weights), 0), axis=-1)
        assert np.all(added - reduced <= 0.8 + SLACK)


@pytest.mark.parametrize(
    ("n_assets", "actions"),
    [
        pytest.param(1, "discrete", marks=pytest.mark.slow),
        pytest.param(1, "hierarchical", marks=pytest.mark.slow),
        pytest.param(88, "continuous", marks=pytest.mark.slow),
        pytest.param(88, "hierarchical", marks=pytest.mark.slow),
        pytest.param(5, "hierarchical", marks=pytest.mark.slow),
    ],
)
def test_one_asset_and_many(n_assets, actions):
    market = simulators.gbm(jax.random.key(3), 120, n_assets, volatility=0.02, half_spread=2e-4)
    late = market.tradable.at[:60, n_assets // 2 :].set(n_assets == 1)
    env, params = build(CHAINS["everything"], market.replace(tradable=late), actions=actions)
    seen = jax.jit(lambda key: random_run(env, params, key, 8, 60))(jax.random.key(1))
    assert all(np.all(np.isfinite(seen[name])) for name in ("weights", "before", "keep", "drawdown"))
    assert np.asarray(seen["allowed"]).all()
    assert np.asarray(seen["traded"]).mean() > 0.2
    gross, held = (np.abs(np.asarray(seen[name])).sum(axis=-1) for name in ("weights", "keep"))
    assert np.all(gross <= np.maximum(1.5, held) + SLACK)


def test_when_everything_is_halted_everything_is_held():
    """No bar of any asset for the whole run: nothing but holding is allowed, and nothing is not a number."""
    halted = prices().tradable.at[60:].set(False)
    env, params = build(CHAINS["forced"], prices().replace(tradable=halted), start="flat")
    seen = jax.jit(lambda key: random_run(env, params.replace(first_bar=70), key, 4, 100))(jax.random.key(1))
    there = np.asarray(halted)[np.asarray(seen["row"][:, 0])].any(axis=-1)
    assert not there.all()
    weights, expected = np.asarray(seen["weights"])[~there], np.asarray(seen["expected"])[~there]
    np.testing.assert_array_equal(weights, expected)
    mask = env.action_mask(jnp.zeros(A, bool))
    free = MaskedCategorical(jnp.zeros(mask.shape), mask)
    assert mask.sum() == A
    assert float(free.entropy()) == float(free.entropy_bonus()) == float(free.log_prob(free.mode())) == 0.0


def test_unknown_features_and_a_single_allowed_action_leave_numbers():
    """NaN in every feature, regimes included, and all actions but holding masked."""
    env, params = build(CHAINS["everything"])
    policy, net = make_actor_critic(tiny.encoder_config(), action_config(env, 0.6), jax.random.key(0))
    blind = params.replace(features=jnp.full_like(params.features, jnp.nan))
    portfolio = env.start_portfolio(jax.random.key(1), prices().close[50], prices().tradable[50], params)
    seen = env.observe_portfolio(jnp.int32(50), portfolio, jnp.zeros(A, bool))
    encode = jax.jit(lambda net, blind: encode_paths(policy, net, blind, jnp.asarray([50]), 1, None)[0, 0])
    memory = encode(net, blind)

    def loss(net):
        distribution, value = policy.act(net, memory, seen)
        return distribution.log_prob(distribution.mode()) + distribution.entropy_bonus() + value

    value, gradient = jax.jit(jax.value_and_grad(loss))(net)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_the_joint_choice_by_enumeration():
    """Two assets, a budget for one and a half of them: probabilities, frequencies, and the policy gradient.

    Shared budgets make the second asset's mask depend on the first one's action. By enumeration of all joint actions
    the probabilities that log-densities under the stored masks give sum to one, are those of the draws, and their
    score-function gradient of an arbitrary payoff is the gradient of its expectation.
    """
    env = TradingEnv(n_assets=2, levels=(-1.0, 0.5, 1.0), position_limit=1.0, observation="index", groups=tiny.GROUPS)
    limits = no_limits(2).replace(
        budgets=(GrossBudgets(jnp.ones((1, 2), bool), jnp.full(1, 1.5), jnp.full(1, jnp.inf)),)
    )
    logits = jnp.asarray([[0.2, 0.5, -0.3, 0.4], [-0.1, 0.3, 0.6, 0.1]])
    payoff = jax.random.normal(jax.random.key(0), (4, 4))
    for first in (0, 1):
        constraint = Constraint(limits, jnp.zeros(2), jnp.ones(2, bool), jnp.int32(first))
        mask = env.action_mask(jnp.ones(2, bool), constraint)

        def joint(logits, a, b, constraint=constraint, mask=mask):
            """Probability of a joint action under the masks that are met on the way to it."""
            free = MaskedCategorical(logits, mask)
            taken, met = masks.choose(env, free, mask, constraint, lambda own, i: jnp.stack([a, b])[i].reshape(1))
            possible = jnp.take_along_axis(met, taken[:, None], axis=-1).all()
            log_p = free.restricted(met).log_prob(taken)
            return jnp.where(possible, jnp.exp(jnp.where(possible, log_p, 0.0)), 0.0)

        every = jnp.arange(4)
        table = jax.jit(lambda x: jax.vmap(lambda a: jax.vmap(lambda b: joint(x, a, b))(every))(every))  # noqa: B023
        found = table(logits)
        assert float(found.sum()) == pytest.approx(1.0, abs=1e-6)
        assert int((found == 0).sum()) == 4, "a long or short of 1 with another one"

        def draw(uniform, constraint=constraint, mask=mask):
            free = MaskedCategorical(logits, mask)
            return masks.choose(env, free, mask, constraint, lambda own, i: own.sample(uniform[i].reshape(1)))[0]

        n = 200_000
        drawn = np.asarray(jax.jit(jax.vmap(draw))(jax.random.uniform(jax.random.key(first), (n, 2))))
        frequency = np.zeros((4, 4))
        np.add.at(frequency, (drawn[:, 0], drawn[:, 1]), 1.0 / n)
        assert np.abs(frequency - found).max() < 5 * (0.25 / n) ** 0.5
        assert frequency[np.asarray(found) == 0].sum() == 0

        exact = jax.grad(lambda x: (table(x) * payoff).sum())(logits)  # noqa: B023
        score = jax.jacobian(lambda x: jnp.log(jnp.maximum(table(x), 1e-30)))(logits)  # noqa: B023
        estimate = jnp.einsum("ab,ab,abij->ij", found, payoff, jnp.where((found > 0)[..., None, None], score, 0.0))
        np.testing.assert_allclose(estimate, exact, atol=1e-6)
        assert np.abs(exact).max() > 0.01


@pytest.mark.slow
def test_entropy_and_divergence_of_hierarchical_choices_in_turn_are_the_joint_ones_on_average():
    """Two assets, two gross buckets and a budget that binds; every joint action against a mean over draws."""
    env = TradingEnv(
        n_assets=2, levels=(-1.0, 0.0, 1.0), position_limit=1.0, observation="index", groups=tiny.GROUPS,
        actions="hierarchical", gross_buckets=(0.5, 1.0),
    )  # fmt: skip
    budget = GrossBudgets(jnp.ones((1, 2), bool), jnp.ones(1), jnp.full(1, jnp.inf))
    constraint = Constraint(no_limits(2).replace(budgets=(budget,)), jnp.zeros(2), jnp.ones(2, bool), jnp.int32(1))
    mask, config = env.action_mask(jnp.ones(2, bool), constraint), action_config(env, 0.6)

    def random_logits(seed):
        shapes = ((3,), (2, config.n_outputs), (3, config.n_outputs))
        keys = jax.random.split(jax.random.key(seed), 3)
        logits = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
        return Hierarchical(*logits, mask, sizes=config.sizes)

    one, other = random_logits(0), random_logits(1)

    def joint(action, distribution):
        """Log-probability under the masks that are met on the way; -inf where one of them forbids it."""
        met = masks.choose(env, distribution, mask, constraint, lambda own, i: action[i].reshape(1))[1]
        return jnp.where(
            _allowed(env, met, action, action).all(), distribution.restricted(met).log_prob(action), -jnp.inf
        )

    actions = jnp.stack(jnp.meshgrid(*map(jnp.arange, (3, 4, 4)), indexing="ij"), axis=-1).reshape(-1, 3)
    p, q = (np.asarray(jax.vmap(joint, in_axes=(0, None))(actions, x), np.float64) for x in (one, other))
    possible = np.isfinite(p)
    assert np.exp(p).sum() == pytest.approx(1.0, abs=1e-6)
    assert 0 < possible.sum() < len(actions)
    p, q = p[possible], q[possible]

    def draw(uniform):
        pick = lambda own, i: own.sample(uniform[i].reshape(1))  # noqa: E731
        met = masks.choose(env, one, mask, constraint, pick)[1]
        now = one.restricted(met)
        return now.entropy(), now.kl(other.restricted(met))

    found = jax.jit(jax.vmap(draw))(jax.random.uniform(jax.random.key(2), (50_000, 3)))
    for values, exact in zip(found, (-np.exp(p) @ p, np.exp(p) @ (p - q)), strict=True):
        assert abs(float(values.mean()) - exact) < 5 * float(values.std()) / 50_000**0.5


def test_holding_alone_is_allowed_where_everything_else_would_come_to_it():
    """A flat position that may not grow: the level 0 is no choice, so it earns no entropy bonus."""
    closed = no_limits(2).replace(low=jnp.zeros(2), high=jnp.asarray([0.0, 1.0]))
    for actions in ("discrete", "hierarchical"):
        env = TradingEnv(n_assets=2, levels=(-1.0, 0.0, 1.0), position_limit=1.0, observation="index", actions=actions)
        for keep in (0.0, 0.4):
            constraint = Constraint(closed, jnp.asarray([keep, 0.0]), jnp.ones(2, bool), jnp.int32(0))
            mask = env.action_mask(jnp.ones(2, bool), constraint)
            mask = mask[:, -1] if actions == "hierarchical" else mask
            assert mask[0].tolist() == [True, False, keep > 0, False]
            assert mask[1].tolist() == [True, False, True, True]


@functools.cache
def trained(actions, distribution="squashed_gaussian"):
    """Two rollouts of PPO under a chain of masks: environment, its parameters, policy, network, task, rollouts."""
    env, params = build(CHAINS["gross and net" if actions == "band" else "everything"], actions=actions)
    policy, net = make_actor_critic(tiny.encoder_config(), action_config(env, 0.6, distribution), jax.random.key(0))
    task = trading_task(policy, env, tiny.PPO)

    @jax.jit
    def collect(net, params, key):
        states = task.start(params, jax.random.split(key, tiny.PPO.paths))
        keys = jax.random.split(jax.random.fold_in(key, 1), tiny.PPO.paths)
        states, first = task.collect(net, params, states, keys, jnp.float32(0))
        keys = jax.random.split(jax.random.fold_in(key, 2), tiny.PPO.paths)
        return first, task.collect(net, params, states, keys, jnp.float32(0))[1]

    return env, params, policy, net, task, collect(net, params, jax.random.key(3))


@pytest.mark.parametrize(
    "actions",
    [
        pytest.param(("discrete",), marks=pytest.mark.slow),
        ("continuous",),
        pytest.param(("band",), marks=pytest.mark.slow),
        pytest.param(("hierarchical",), marks=pytest.mark.slow),
        pytest.param(("continuous", "beta"), marks=pytest.mark.slow),
    ],
    ids=lambda given: given[-1],
)
def test_the_ratio_is_one_before_the_first_step(actions):
    """The update sees the masks of the rollout, those that depend on earlier choices included."""
    _, params, _, net, task, rollouts = trained(*actions)
    predict = jax.jit(task.predict)
    for rollout in rollouts:
        distribution, _ = predict(net, params, rollout)
        log_ratio = np.asarray(distribution.log_prob(rollout.action) - rollout.log_prob)
        assert np.abs(log_ratio).max() < 1e-5
        assert np.abs(np.asarray(rollout.behaviour.kl(distribution))).max() < 1e-5
        assert np.all(np.isfinite(rollout.log_prob))
        assert np.asarray(rollout.log_prob).std() > 0


@pytest.mark.slow
def test_training_under_masks_stays_finite_and_resets_their_state():
    _, params, _, net, task, _ = trained("discrete")
    learner = make_learner(task, tiny.PPO, data_mesh(jax.devices()[:1]))
    placed = learner.replicate(params)
    state = learner.init(net, 0, placed)
    for _ in range(3):
        state, metrics = learner.iterate(state, placed, jnp.float32(0))
    assert all(np.isfinite(float(value)) for value in metrics.values())
    assert float(metrics["entropy"]) > 0


def test_a_backtest_keeps_the_limits_and_its_baselines_are_free():
    transform = masks.chain(masks.risk_budget(gross=0.4, force=1.0), masks.no_short())
    env, params = build(transform, start="flat", fill_rule=FillRule())
    policy, net = make_actor_critic(tiny.encoder_config(), action_config(env, 0.6), jax.random.key(2))
    net["head"]["actor"]["bias"] = net["head"]["actor"]["bias"].at[-1].add(5.0)
    free, loose = build(masks.chain(), start="flat", fill_rule=FillRule())
    for decision in ("mode", "mean"):
        n_bars, first = 200, jnp.int32(env.first_decision)
        limited = tiny.run_agent(policy, env, net, params, first, n_bars, decision)
        unlimited = tiny.run_agent(policy, free, net, loose, first, n_bars, decision)
        assert np.abs(unlimited.weights).sum(axis=-1).max() > 1.0
        # Prices move until the next open, and an order to sell may not be filled when one to buy is.
        gross = np.abs(limited.weights).sum(axis=-1)
        assert np.quantile(gross, 0.95) < 0.42
        assert gross.max() < 0.52
        assert np.asarray(limited.weights).min() >= -1e-6


def test_what_masks_did_is_measured_by_leaving_each_out():
    """One bar from a flat start: the first decisions with and without each mask, by hand."""
    caps = {"no_short": masks.no_short(), "cap": masks.risk_budget(asset=0.25), "loose": masks.risk_budget(gross=9.0)}
    env, params = build(masks.chain(*caps.values()), start="flat", levels=(-1.0, -0.5, 0.25, 0.5, 1.0))
    policy, net = make_actor_critic(tiny.encoder_config(), action_config(env, 0.6), jax.random.key(2))
    bias = net["head"]["actor"]["bias"]
    first = int(np.flatnonzero(np.asarray(prices().tradable)[env.first_decision :].all(axis=1))[0]) + env.first_decision
    regime = np.zeros((*prices().close.shape, 4))
    regime[..., 1] = 1.0
    # Longs of 0.8 are too large, and 0.2 is the second choice. Shorts of 0.8 are masked twice: neither mask alone does.
    for wanted, capped in ((5, True), (1, False)):
        loud = {**net["head"], "actor": {**net["head"]["actor"], "bias": bias.at[wanted].add(50.0).at[3].add(25.0)}}
        found = mask_effects(
            agent(policy, {**net, "head": loud}, env), AccountRules(env, PERIODS), params, first, 1, regime
        )
        assert list(found) == ["no_short", "risk_budget 1", "risk_budget 2"]
        for name, effect in zip(caps, found.values(), strict=True):
            changed = capped and name == "cap"
            assert effect.bound == float(changed)
            assert list(effect.by_regime) == ["bear"]
            whole = (effect.bound, effect.exposure_removed, effect.costs_saved)
            assert tuple(effect.by_regime["bear"].values()) == pytest.approx(whole, rel=1e-6)
            # What is filled of the larger order depends on the next bar; the smaller one is always part of it.
            assert (effect.exposure_removed > 0.1) == (effect.costs_saved > 0.001) == changed
            if not changed:
                assert effect.exposure_removed == pytest.approx(0.0, abs=1e-6)
                assert effect.costs_saved == pytest.approx(0.0, abs=1e-6)


def test_effects_are_the_difference_to_accounts_without_each_mask():
    """Exposure and costs by whole backtests with every chain that lacks one mask; regimes add up to them."""
    parts = [masks.no_short(), masks.risk_budget(gross=0.5, force=1.0), masks.holding_period(minimum=3)]
    env, params = build(masks.chain(*parts), start="flat")
    policy, net = make_actor_critic(tiny.encoder_config(), action_config(env, 0.6), jax.random.key(2))
    actor = net["head"]["actor"]
    net["head"]["actor"] = {"bias": actor["bias"].at[1].add(0.3).at[-1].add(0.3), "kernel": 60.0 * actor["kernel"]}
    first, n_bars = env.first_decision, 150
    regimes = np.asarray(jax.nn.one_hot(jax.random.randint(jax.random.key(0), prices().close.shape, 0, 4), 4))
    found = mask_effects(agent(policy, net, env), AccountRules(env, PERIODS), params, first, n_bars, regimes)
    assert list(found) == ["no_short", "risk_budget", "holding_period"]

    def account(transform):
        own_env, own_params = build(transform, start="flat")
        ledger = tiny.run_agent(policy, own_env, net, own_params, jnp.int32(first), n_bars, "mode")
        before = np.asarray(ledger.equity, np.float64)[:-1]
        paid = (np.asarray(ledger.costs.total(), np.float64) + np.asarray(ledger.financing)) / before
        return np.abs(np.asarray(ledger.weights, np.float64)).sum(axis=-1).mean(), paid.mean() * PERIODS

    exposure, costs = account(masks.chain(*parts))
    for number, effect in enumerate(found.values()):
        without = account(masks.chain(*parts[:number], *parts[number + 1 :]))
        assert effect.exposure_removed == pytest.approx(without[0] - exposure, abs=1e-5)
        assert effect.costs_saved == pytest.approx(without[1] - costs, abs=1e-5)
        assert list(effect.by_regime) == ["bull", "bear", "sideways", "crisis"]
        for figure in ("exposure_removed", "costs_saved"):
            total = sum(regime[figure] for regime in effect.by_regime.values())
            assert total == pytest.approx(getattr(effect, figure), abs=1e-7)
        assert 0 < effect.bound < 1
    assert max(abs(effect.costs_saved) for effect in found.values()) > 1e-3
    free, loose = build(None)
    assert mask_effects(agent(policy, net, free), AccountRules(free, PERIODS), loose, env.first_decision, 5) == {}


def test_the_gymnax_interface_shows_and_enforces_the_limits():
    env, params = build(CHAINS["gross and net"], observation="window")
    key = jax.random.key(0)
    _, state = env.reset(key, params)
    for i in range(30):
        action = jnp.full(A, env.num_actions - 1)
        _, state, _, _, _, info = env.step(jax.random.fold_in(key, i), state, action, params)
        assert info["action_mask"].shape == (A, env.num_actions)
        assert info["action_mask"][:, 0].all()
        gross = float(np.abs(expected_weights(state.portfolio)).sum())
        assert gross < 1.1 * 1.2, "three times 0.8 were asked for"
    assert not info["action_mask"].all()
