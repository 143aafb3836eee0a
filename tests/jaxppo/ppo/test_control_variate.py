"""Variance reduction leaves the mean policy gradient alone: a market enumerated, and the trading task."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import tiny

from jaxppo.policy.networks.actor_critic import make_actor_critic
from jaxppo.policy.rollout import Rollout
from jaxppo.ppo.targets import estimate, leave_one_out
from jaxppo.ppo.trading_task import market_ahead, trading_task

BARS = 2
RETURNS, ODDS = np.array([-1.0, 2.0]), np.array([0.6, 0.4])
N_STATES = 4 * (BARS + 1)
CONFIG = tiny.PPO.model_copy(update={"reward_scale": 1.0, "gamma": 0.9, "gae_lambda": 0.8})
WHOLE_EPISODES = CONFIG.model_copy(update={"gamma": 1.0, "gae_lambda": 1.0})


@dataclasses.dataclass(frozen=True)
class Enumeration:
    """Everything that can happen in a market of two bars, each up or down, to portfolios that hold 0 or 1.

    Attributes:
      market: `[P, 2]` which return each bar had.
      state: `[P, 3, K]` what a policy sees: bar, own position, last return; one number.
      action: `[P, 2, K]` positions taken.
      reward: `[P, 2, K]` the market's return on 1 and a half of the position, less the cost of a trade.
      terminated: `[P, 2, K]`.
    """

    market: np.ndarray
    state: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray

    def log_weight(self, logits):
        """Log-probability of every outcome under the policy `[N_STATES, 2]`, differentiable."""
        chosen = jax.nn.log_softmax(logits, axis=-1)[self.state[:, :BARS], self.action]
        return chosen.sum(axis=(1, 2)) + np.log(ODDS)[self.market].sum(axis=1)

    def gradients(self, logits, advantage) -> np.ndarray:
        """Sum of advantage times score over bars and portfolios, of every outcome, `[P, N_STATES, 2]`."""
        score = np.eye(2)[self.action] - scipy.special.softmax(logits, axis=-1)[self.state[:, :BARS]]
        out = np.zeros((len(self.market), N_STATES, 2))
        path = np.arange(len(self.market))[:, None, None]
        np.add.at(out, (path, self.state[:, :BARS]), np.asarray(advantage, np.float64)[..., None] * score)
        return out


@functools.cache
def enumeration(n_portfolios: int, crashes: bool) -> Enumeration:
    """All outcomes; the first portfolio starts invested. A crash ends an invested portfolio; it restarts at 0."""
    market, action = [], []
    for moves in itertools.product(range(2), repeat=BARS):
        for actions in itertools.product(range(2), repeat=BARS * n_portfolios):
            market.append(moves)
            action.append(np.reshape(actions, (BARS, n_portfolios)))
    market, action = np.array(market), np.array(action)
    position = np.zeros((len(market), n_portfolios), int)
    position[:, 0] = 1
    last = np.ones((len(market), 1), int)
    state, reward, terminated = [], [], []
    for bar in range(BARS):
        state.append(4 * bar + 2 * position + last)
        held, last = action[:, bar], market[:, bar : bar + 1]
        reward.append(RETURNS[last] * (1 + 0.5 * held) - 0.3 * np.abs(held - position))
        terminated.append((held == 1) & (last == 0) & crashes)
        position = np.where(terminated[-1], 0, held)
    state.append(4 * BARS + 2 * position + last)
    if not crashes:
        terminated[-1] = np.ones_like(terminated[-1])
    state, reward, terminated = (np.stack(x, axis=1) for x in (state, reward, terminated))
    return Enumeration(market, state, action, reward, terminated)


def advantages(outcomes: Enumeration, value: np.ndarray, config) -> np.ndarray:
    """What the library makes of values `[P, 3, K]`, in float64; a portfolio that has ended is followed by nothing."""
    unread = dict.fromkeys(("inputs", "hindsight", "action", "behaviour", "log_prob", "info", "value", "value_after"))
    with jax.enable_x64(True):
        rollout = Rollout(
            reward=jnp.asarray(outcomes.reward),
            terminated=jnp.asarray(outcomes.terminated),
            truncated=jnp.zeros(outcomes.terminated.shape, bool),
            **unread,
        )
        advantage, _ = estimate(rollout, jnp.asarray(value[:, :BARS]), jnp.asarray(value[:, 1:]), config)
    return np.asarray(advantage)


def others_mean_away(advantage: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(leave_one_out(jnp.asarray(advantage)))


def moments(outcomes: Enumeration, logits: np.ndarray, advantage: np.ndarray) -> tuple[np.ndarray, float]:
    """Exact mean of the policy gradient, and the sum of the variances of its entries."""
    with jax.enable_x64(True):
        weight = np.exp(np.asarray(outcomes.log_weight(jnp.asarray(logits))))
    assert weight.sum() == pytest.approx(1, abs=1e-12)
    gradient = outcomes.gradients(logits, advantage)
    mean = np.einsum("p,psa->sa", weight, gradient)
    return mean, float(np.einsum("p,psa->", weight, (gradient - mean) ** 2))


def true_gradient(outcomes: Enumeration, logits: np.ndarray) -> np.ndarray:
    """Derivative of the expected reward of all portfolios, by automatic differentiation."""

    def expected(logits):
        return jnp.sum(jnp.exp(outcomes.log_weight(logits)) * outcomes.reward.sum(axis=(1, 2)))

    with jax.enable_x64(True):
        return np.asarray(jax.grad(expected)(jnp.asarray(logits)))


def random_policy_and_values(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N_STATES, 2)), rng.normal(size=N_STATES)


def with_hindsight(outcomes: Enumeration, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Values `[P, 3, K]` that know the returns to come, and their means over what is to come.

    The market's part of the reward to come is known; besides it, every state and future has a random value.
    """
    extra = np.random.default_rng(seed).normal(0, 0.2, (N_STATES, 2, 2))
    first, second = outcomes.market[:, :1], outcomes.market[:, 1:]
    r0, r1, nothing = RETURNS[first], RETURNS[second], np.zeros_like(first)
    start, middle, end = outcomes.state.swapaxes(0, 1)
    value = [extra[start, first, second] + r0 + r1, extra[middle, second, 0] + r1, extra[end, 0, nothing]]
    both, one = np.einsum("sab,a,b->s", extra, ODDS, ODDS), extra[:, :, 0] @ ODDS
    drift = RETURNS @ ODDS
    mean = [both[start] + 2 * drift, one[middle] + drift, extra[end, 0, 0]]
    return np.stack(value, axis=1), np.stack(mean, axis=1)


@pytest.mark.parametrize("crashes", [False, True])
@pytest.mark.parametrize("n_portfolios", [2, 3])
def test_leave_one_out_has_the_plain_mean_gradient_and_less_variance(n_portfolios, crashes):
    outcomes = enumeration(n_portfolios, crashes)
    for seed in range(3):
        logits, table = random_policy_and_values(seed)
        plain = advantages(outcomes, table[outcomes.state], CONFIG)
        mean, variance = moments(outcomes, logits, plain)
        reduced_mean, reduced_variance = moments(outcomes, logits, others_mean_away(plain))
        np.testing.assert_allclose(reduced_mean, mean, rtol=0, atol=1e-12)
        assert np.linalg.norm(mean) > 0.1
        assert reduced_variance < 0.8 * variance


def test_the_plain_mean_is_the_gradient_of_the_expected_reward():
    """Over whole episodes, undiscounted and with lambda 1, whatever the values."""
    outcomes = enumeration(2, False)
    logits, table = random_policy_and_values(0)
    mean, _ = moments(outcomes, logits, advantages(outcomes, table[outcomes.state], WHOLE_EPISODES))
    np.testing.assert_allclose(mean, true_gradient(outcomes, logits), rtol=0, atol=1e-12)


@pytest.mark.parametrize("control_variate", [False, True])
def test_with_hindsight_the_mean_is_still_the_gradient_of_the_expected_reward(control_variate):
    outcomes = enumeration(2, False)
    logits, table = random_policy_and_values(1)
    value, _ = with_hindsight(outcomes, 1)
    advantage = advantages(outcomes, value, WHOLE_EPISODES)
    advantage = others_mean_away(advantage) if control_variate else advantage
    mean, variance = moments(outcomes, logits, advantage)
    np.testing.assert_allclose(mean, true_gradient(outcomes, logits), rtol=0, atol=1e-12)
    _, plain = moments(outcomes, logits, advantages(outcomes, table[outcomes.state], WHOLE_EPISODES))
    assert variance < 0.5 * plain


@pytest.mark.parametrize("crashes", [False, True])
def test_with_hindsight_and_bootstrapping_the_mean_is_that_of_the_average_value(crashes):
    """For any lambda: what the critic knows of the future averages out, terminations included."""
    outcomes = enumeration(2, crashes)
    logits, _ = random_policy_and_values(2)
    value, average = with_hindsight(outcomes, 2)
    mean, variance = moments(outcomes, logits, advantages(outcomes, value, CONFIG))
    plain_mean, plain_variance = moments(outcomes, logits, advantages(outcomes, average, CONFIG))
    np.testing.assert_allclose(mean, plain_mean, rtol=0, atol=1e-12)
    assert variance < plain_variance


def test_the_enumeration_sees_a_bias_where_there_is_one():
    """The own advantage in the subtracted mean, and a baseline that knows the own action."""
    outcomes = enumeration(3, False)
    logits, table = random_policy_and_values(0)
    plain = advantages(outcomes, table[outcomes.state], CONFIG)
    mean, _ = moments(outcomes, logits, plain)
    own_included, _ = moments(outcomes, logits, plain - plain.mean(axis=-1, keepdims=True))
    assert np.abs(own_included - mean).max() > 1e-2
    np.testing.assert_allclose(own_included, mean * 2 / 3, atol=1e-12)
    knows_own_action, _ = moments(outcomes, logits, plain - 0.3 * outcomes.action)
    assert np.abs(knows_own_action - mean).max() > 1e-2


# The hindsight critic of the trading task.

HINDSIGHT = tiny.PPO.model_copy(update={"hindsight_critic": True})


@functools.cache
def hindsight_policy():
    return make_actor_critic(tiny.encoder_config(), tiny.ACTION, jax.random.key(1), hindsight=True)


def test_what_is_ahead_by_hand():
    """Log returns of 0.1 and 0.2 in a chunk of two bars, scale 10, gamma 1/2: 1 + 2/2 = 2, then 2, then nothing."""
    config = HINDSIGHT.model_copy(update={"chunk": 2, "gamma": 0.5, "reward_scale": 10.0})
    params = tiny.shared_params()
    close = params.market.close.at[50:53, 0].set(jnp.exp(jnp.asarray([0.0, 0.1, 0.3])))
    ahead = market_ahead(params.replace(market=params.market.replace(close=close)), jnp.asarray([50]), config)
    assert ahead.shape == (1, 3, 1, tiny.N_ASSETS, 2)
    np.testing.assert_allclose(ahead[0, :, 0, 0], [[2.0, 1.0], [2.0, 0.5], [0.0, 0.0]], rtol=1e-4, atol=1e-5)


def test_what_is_ahead_is_within_the_chunk():
    """A price changes what is ahead of the bars before it, in its chunk, and of no others."""
    params, bar, chunk = tiny.shared_params(), 100, HINDSIGHT.chunk

    def ahead(changed: int | None) -> np.ndarray:
        close = params.market.close
        close = close if changed is None else close.at[changed].multiply(1.5)
        return np.asarray(_ahead(params.replace(market=params.market.replace(close=close)), jnp.asarray([bar])))[
            0, :, 0
        ]

    before = ahead(None)
    assert np.all(before[-1] == 0)
    for outside in (bar - 1, bar + chunk + 1, bar + chunk + 30):
        np.testing.assert_array_equal(ahead(outside), before)
    for offset in (0, 3, chunk):
        changed = np.any(ahead(bar + offset) != before, axis=(1, 2))
        np.testing.assert_array_equal(changed, np.arange(chunk + 1) <= min(offset, chunk - 1))


_ahead = jax.jit(lambda params, bar: market_ahead(params, bar, HINDSIGHT))


def test_the_actor_cannot_read_it_and_the_critic_does():
    (policy, net), rng = hindsight_policy(), np.random.default_rng(0)
    prepared = jnp.asarray(rng.normal(size=(4, tiny.N_ASSETS, 2 * tiny.encoder_config().width)), jnp.float32)
    ahead = jnp.asarray(rng.normal(size=(4, tiny.N_ASSETS, 2)), jnp.float32)
    act = jax.jit(lambda ahead: policy.act(net, prepared, tiny.observation(0, 4), ahead))
    (one, value), (two, other), (three, blind) = act(ahead), act(-ahead), act(jnp.zeros_like(ahead))
    np.testing.assert_array_equal(one.logits, two.logits)
    np.testing.assert_array_equal(one.logits, three.logits)
    assert np.all(np.abs(value - other) > 1e-4)
    unread, without = policy.act(net, prepared, tiny.observation(0, 4))
    np.testing.assert_allclose(without, blind, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(unread.logits, one.logits, rtol=1e-4, atol=1e-6)


def test_in_a_rollout_values_know_the_rest_of_the_chunk_and_nothing_after_it_and_actions_know_nothing():
    """The same paths through two markets that part after bar t."""
    t, task = 160, trading_task(hindsight_policy()[0], tiny.env(), HINDSIGHT)

    @jax.jit
    def roll_out(net, params):
        key_start, key_act = jax.random.split(jax.random.key(2))
        states = task.start(params, jax.random.split(key_start, HINDSIGHT.paths))
        return task.collect(net, params, states, jax.random.split(key_act, HINDSIGHT.paths), jnp.float32(0))[1]

    before, other = tiny.market(), tiny.market(9, volatility=0.03)
    parted = jax.tree.map(
        lambda a, b: jnp.concatenate([a[: t + 1], b[t + 1 :]]) if a.shape[0] == tiny.N_BARS else a, before, other
    )
    one, two = (roll_out(hindsight_policy()[1], tiny.env_params(prices)) for prices in (before, parted))
    bar = np.asarray(one.inputs.portfolio.bar)
    known = bar <= t
    end = np.broadcast_to((np.asarray(one.inputs.bar) + HINDSIGHT.chunk)[:, None, None], bar.shape)
    across = known & (end > t)
    assert across.sum() >= 3
    np.testing.assert_array_equal(np.asarray(one.action)[known], np.asarray(two.action)[known])
    np.testing.assert_array_equal(np.asarray(one.log_prob)[known], np.asarray(two.log_prob)[known])
    for name in ("value", "value_after", "reward"):
        a, b = (np.asarray(getattr(x, name)) for x in (one, two))
        np.testing.assert_array_equal(a[end <= t], b[end <= t], err_msg=name)
    assert np.all(np.asarray(one.value)[across] != np.asarray(two.value)[across])
    np.testing.assert_array_equal(np.asarray(one.value)[:, 1:], np.asarray(one.value_after)[:, :-1])


def test_no_evaluation_reads_it():
    """The weights that read the future are no numbers; the decisions are what they were."""
    policy, net = hindsight_policy()
    spoiled = {
        **net,
        "head": {**net["head"], "hindsight": jax.tree.map(lambda x: x * jnp.nan, net["head"]["hindsight"])},
    }
    params = tiny.shared_params()
    ledgers = [
        tiny.run_agent(policy, tiny.env(), n, params, jnp.int32(tiny.env().first_decision), 12) for n in (net, spoiled)
    ]
    jax.tree.map(np.testing.assert_array_equal, *ledgers)
    assert np.all(np.isfinite(ledgers[1].equity))
    assert np.abs(ledgers[1].quantity).sum() > 0
