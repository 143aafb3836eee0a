"""How each reference problem is learned, and how far a learned policy is from the optimum."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.config import PathwiseConfig, PPOConfig
from jaxppo.envs import reference
from jaxppo.envs.execution.portfolio import drawdown
from jaxppo.envs.market.features import group_slices
from jaxppo.envs.reference.grossman_zhou import cushion_share
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import Observation
from jaxppo.policy.networks import Bars, EncoderConfig, make_actor_critic
from jaxppo.policy.networks.mlp import MLPConfig, make_mlp_actor_critic
from jaxppo.ppo import Task, trading_task
from jaxppo.ppo.gymnax_task import action_config, gymnax_task, n_inputs, n_market, to_env_action
from jaxppo.ppo.trading_task import action_config as trading_action_config

GOAL = 95.0
"""Per cent of the optimum up to which learners are timed."""
TEST_PATHS = 2048
TEST_TABLES = 64
TEST_BARS = 7
"""Bars over which a decision is averaged where it is asked for without a simulation: it may depend on the weekday."""


@dataclasses.dataclass(frozen=True)
class Study:
    """How one problem is learned.

    Attributes:
      build: makes the problem.
      ppo: hyper-parameters.
      iterations: of each agent.
      every: iterations between two points of the learning curve.
      std: standard deviation of the actions at the start.
      width: of the perceptron's layers.
      episode: steps after which an episode is truncated in training; it is scored over its whole length.
      pathwise: learns by the gradient through the market, with these keys; None for PPO.
      encoder: kind of the network of a problem of `TradingEnv`, both read the same: "mlp" or "linear".
      calendar: whether the policy sees the features of a problem of `TradingEnv`, all of the calendar.
      averaged: share of the iterations, the last ones, over whose parameters an agent is the mean; 0 for the last.
    """

    build: Callable[[], reference.Problem]
    ppo: PPOConfig
    iterations: int = 100
    every: int = 5
    std: float = 0.3
    width: int = 64
    episode: int | None = None
    pathwise: PathwiseConfig | None = None
    encoder: str = "mlp"
    calendar: bool = True
    averaged: float = 0.0


class Learnable(NamedTuple):
    """A problem, ready for `train_population`.

    Attributes:
      task: what is learned.
      first_net: key to first parameters.
      params: of the environment.
      refresh: key to fresh parameters of the environment, or None.
      agent: `(parameters, problem) -> policy`, the decisions without randomness for `reference.simulate`.
      score: parameters to figures, `percent` of the optimum among them.
    """

    task: Task
    first_net: Callable[[jax.Array], Any]
    params: Any
    refresh: Callable[[jax.Array], Any] | None
    agent: Callable[[Any, Any], Callable[[Any, Any], jax.Array]]
    score: Callable[[Any], dict[str, float]]


def _ppo(**changes: Any) -> PPOConfig:
    """Hyper-parameters that the studies share: 16,384 steps an iteration, 32 paths with 8 portfolios."""
    shared = {
        "paths": 32,
        "portfolios": 8,
        "chunk": 64,
        "epochs": 4,
        "minibatches": 8,
        "learning_rate": 1e-3,
        "schedule": "linear",
        "gamma": 0.99,
        "gae_lambda": 0.97,
        "entropy_coefficient": 0.0,
        "reward_scale": 1.0,
        "value_normalisation": "popart",
    }
    return PPOConfig(**{**shared, **changes})


SMALL = {"paths": 8, "portfolios": 8, "chunk": 32, "epochs": 4, "minibatches": 4}
"""Iterations of 2,048 steps: the fewest steps to a good policy, where the problems' own settings reach further."""
FINITE = {"gamma": 1.0, "gae_lambda": 0.95}
TRADED = {"portfolios": 4, "reward_scale": 20.0}
"""Many bars of market and few portfolios: what is left to learn is the mean return."""
MYOPIC = {
    "paths": 128,
    "portfolios": 2,
    "chunk": 60,
    "gamma": 0.5,
    "gae_lambda": 1.0,
    "epochs": 2,
    "learning_rate": 2e-4,
}
SLOW = {"paths": 64, "chunk": 60, "gamma": 0.99, "gae_lambda": 1.0}
NATURAL = {"direction": "natural", "kl_limit": 0.15, "clip": None}
"""Many actions: the gradient must be measured against how much each parameter moves the policy."""
LONG = {"paths": 16, "chunk": 240, "gamma": 0.9998, "gae_lambda": 0.99, "learning_rate": 5e-4}

STUDIES: dict[str, Study] = {
    "QuadraticCostAR1": Study(lambda: reference.QuadraticCostAR1(), _ppo(gamma=0.97, gae_lambda=0.9)),
    "ProportionalCostAR1": Study(
        lambda: reference.ProportionalCostAR1(), _ppo(learning_rate=2e-3, hindsight_critic=True), 200, every=10, std=0.4
    ),
    "GarleanuPedersen": Study(lambda: reference.GarleanuPedersen(), _ppo(), std=0.2),
    "KimOmberg": Study(lambda: reference.KimOmberg(), _ppo(**FINITE, chunk=100)),
    "OUSpread": Study(lambda: reference.OUSpread(), _ppo(**FINITE, chunk=100)),
    "AlmgrenChriss": Study(lambda: reference.AlmgrenChriss(), _ppo(**FINITE, chunk=10, paths=128)),
    "CarteaJaimungal": Study(lambda: reference.CarteaJaimungal(), _ppo(**FINITE, chunk=100)),
    "AvellanedaStoikov": Study(lambda: reference.AvellanedaStoikov(), _ppo(**FINITE, chunk=100)),
    "Merton": Study(lambda: reference.Merton(n_bars=8192), _ppo(**{**TRADED, **MYOPIC}), 2500, every=100, std=0.1),
    "DavisNorman": Study(lambda: reference.DavisNorman(), _ppo(**TRADED, **SLOW), 400, every=20, std=0.1),
    "GrossmanZhou": Study(lambda: reference.GrossmanZhou(), _ppo(**TRADED, **LONG), 200, every=20, std=0.1),
    "GarleanuPedersen10": Study(
        lambda: reference.GarleanuPedersen(n_assets=10),
        _ppo(**NATURAL, hindsight_critic=True, gae_lambda=0.99, paths=40, portfolios=16, chunk=100, minibatches=10),
        200,
        every=10,
        std=0.1,
        width=128,
        episode=100,
    ),
}


EXACT, DRAWN = PathwiseConfig(explore=False), PathwiseConfig(explore=True)
"""Without randomness; and with it, without which a band that never trades has no gradient."""


def _through(**changes: Any) -> PPOConfig:
    """Hyper-parameters that the pathwise studies share: 1,024 steps an iteration, each of one step of the actor."""
    shared = {"paths": 32, "portfolios": 1, "chunk": 32, "minibatches": 4, "learning_rate": 3e-3, "gae_lambda": 0.95}
    return _ppo(**{**shared, **changes})


MANY = {"paths": 64, "portfolios": 2, "chunk": 60, "reward_scale": 20.0}
"""Many bars of market: what is left to learn is the mean return."""
INDEPENDENT = {"paths": 192, "chunk": 20, "gamma": 1.0, "epochs": 1, "minibatches": 1, "reward_scale": 20.0}
"""Whole episodes whose bars all count alike: their noise is what limits the weight, and nothing follows an episode."""
PATHWISE: dict[str, Study] = {
    "QuadraticCostAR1": Study(
        lambda: reference.QuadraticCostAR1(), _through(paths=16, gamma=0.97), 200, pathwise=EXACT
    ),
    "ProportionalCostAR1": Study(
        lambda: reference.ProportionalCostAR1(),
        _through(chunk=64, learning_rate=3e-3),
        400,
        every=40,
        std=0.02,
        pathwise=DRAWN,
    ),
    "GarleanuPedersen": Study(lambda: reference.GarleanuPedersen(), _through(chunk=64), 300, every=10, pathwise=EXACT),
    "GarleanuPedersen10": Study(
        lambda: reference.GarleanuPedersen(n_assets=10),
        _through(paths=40, chunk=50),
        600,
        every=20,
        width=128,
        episode=100,
        pathwise=EXACT,
    ),
    "KimOmberg": Study(lambda: reference.KimOmberg(), _through(**FINITE, chunk=100), pathwise=EXACT),
    "KimOmbergOther": Study(
        lambda: reference.KimOmberg(
            volatility=0.25,
            mean_premium=0.3,
            premium_reversion=0.6,
            premium_volatility=0.35,
            correlation=-0.4,
            risk_aversion=4.0,
        ),
        _through(**FINITE, chunk=100),
        pathwise=EXACT,
    ),
    "OUSpread": Study(lambda: reference.OUSpread(), _through(**FINITE, chunk=100), pathwise=EXACT),
    "OUSpreadOther": Study(
        lambda: reference.OUSpread(reversion=6.0, volatility=0.15, risk_aversion=2.0),
        _through(**FINITE, chunk=100),
        pathwise=EXACT,
    ),
    "Merton": Study(
        lambda: reference.Merton(n_bars=11_000),
        _through(**INDEPENDENT, learning_rate=2e-3),
        10_000,
        every=80,
        std=0.1,
        pathwise=PathwiseConfig(explore=False, bootstrap=False),
        encoder="linear",
        calendar=False,
        averaged=0.6,
    ),
    "DavisNorman": Study(lambda: reference.DavisNorman(), _through(**MANY), 400, every=20, std=0.1, pathwise=DRAWN),
}
"""Studies of the gradient through the market; two with other parameters than those they were chosen on."""


def learnable(study: Study, config: PPOConfig) -> Learnable:
    """The problem of a study under these hyper-parameters."""
    problem = study.build()
    if isinstance(problem.env, TradingEnv):
        return _traded(problem, study, config)
    return _observed(problem, study, config)


def _observed(problem: reference.Problem, study: Study, config: PPOConfig) -> Learnable:
    """A problem with a flat observation, learned by a perceptron."""
    env, params = problem.env, problem.params
    ahead = n_market(env, params) + 1 if config.hindsight_critic else 0
    action, shape = action_config(env, params, study.std), MLPConfig(n_inputs(env, params), ahead, study.width, 2)
    policy, _ = make_mlp_actor_critic(shape, action, jax.random.key(0))

    def agent(net: Any, _: reference.Problem) -> Callable[[jax.Array, Any], jax.Array]:
        def act(observation: jax.Array, state: Any) -> jax.Array:
            distribution = policy.distribution(net, observation)
            return to_env_action(env, params, distribution.squash(distribution.mode()))

        return act

    def first_net(key: jax.Array) -> Any:
        return make_mlp_actor_critic(shape, action, key)[1]

    score = observed_score(problem, lambda net: agent(net, problem))
    if study.episode is not None:
        params = params.replace(max_steps_in_episode=jnp.asarray(study.episode, jnp.int32))
    return Learnable(gymnax_task(policy, env, params, config), first_net, params, None, agent, score)


def observed_score(
    problem: reference.Problem, agent: Callable[[Any], Callable[[jax.Array, Any], jax.Array]]
) -> Callable[[Any], dict[str, float]]:
    """Parameters to per cent of the optimum and `policy_errors` of `agent(parameters)`, a policy of `simulate`."""

    key_ours, key_best, key_errors = (jax.random.key(10**6) for _ in range(3))
    best = reference.simulate(problem, _optimum(problem), key_best, TEST_PATHS).mean()

    def figures(net: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        act = agent(net)
        gain = reference.simulate(problem, act, key_ours, TEST_PATHS).mean() - best
        return gain, policy_errors(problem, act, key_errors)

    compiled = jax.jit(figures)

    def score(net: Any) -> dict[str, float]:
        gain, errors = compiled(net)
        percent = problem.percent_of_optimum(problem.optimal_value() + float(gain))
        return {"percent": percent, **{name: float(x) for name, x in errors.items()}}

    return score


def policy_errors(problem: reference.Problem, act: Callable[..., jax.Array], key: jax.Array) -> dict[str, jax.Array]:
    """Distance from the optimum, where the optimum goes, as a share: of its actions, of its band, of the block.

    The Almgren-Chriss schedule is compared along the policy's own way, at its worst slice. Consumes `key`.
    """
    env, params, n_paths = problem.env, problem.params, TEST_PATHS // 8
    execution = isinstance(problem, reference.AlmgrenChriss)

    def episode(key: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        key_reset, key_steps = jax.random.split(key)

        def one_step(carry: Any, step: jax.Array) -> tuple[Any, Any]:
            observation, state = carry
            ours, best = act(observation, state), problem.optimal_action(state)
            key_step = jax.random.fold_in(key_steps, step)
            after = env.step_env(key_step, state, ours if execution else best, params)
            return after[:2], (state, ours, best)

        return jax.lax.scan(one_step, env.reset_env(key_reset, params), jnp.arange(problem.horizon))[1]

    state, ours, best = jax.vmap(episode)(jax.random.split(key, n_paths))
    if execution:
        error = state.inventory / problem.shares - problem.schedule()[:-1] / problem.shares
        return {"schedule_error": jnp.sqrt(jnp.mean(jnp.square(error), axis=0)).max()}
    if isinstance(problem, reference.ProportionalCostAR1):
        ours, width = jnp.sort(ours, axis=-1), best[..., 1] - best[..., 0]
        errors = jnp.sqrt(jnp.mean(jnp.square(ours - best), axis=(0, 1))) / width.mean()
        return {"lower_edge_error": errors[0], "upper_edge_error": errors[1]}
    return {"policy_error": jnp.sqrt(jnp.mean(jnp.square(ours - best)) / jnp.mean(jnp.square(best)))}


def _optimum(problem: reference.Problem) -> Callable[[jax.Array, Any], jax.Array]:
    return lambda _, state: problem.optimal_action(state)


def _traded(problem: Any, study: Study, config: PPOConfig) -> Learnable:
    """A problem of `TradingEnv`, learned by the trading policy with an encoder that reads the current bar."""
    env, limit = problem.env, problem.position_limit
    sizes = tuple(columns.stop - columns.start for columns in group_slices(env.groups).values())
    encoder = EncoderConfig(study.encoder, sizes, 32, 1, 4, 1, 2, False, jnp.dtype("float32"))
    action = trading_action_config(env, study.std)
    policy, _ = make_actor_critic(encoder, action, jax.random.key(0), hindsight=config.hindsight_critic)
    listed, seconds = jnp.ones((1, 1, env.n_assets), bool), jnp.zeros((1, 1))

    def decide(net: Any, features: jax.Array, weight: jax.Array, loss: jax.Array) -> jax.Array:
        """Action at a bar with these features `[A, F]`, these weights `[A]` and this drawdown `[]`, times the limit."""
        held = weight / limit
        asset = jnp.stack([held, jnp.zeros_like(held), jnp.ones_like(held)], axis=-1)
        account = jnp.stack([jnp.mean(jnp.abs(held)), jnp.mean(held), loss])
        seen = Observation(jnp.zeros((), jnp.int32), asset, account, env.action_mask(listed[0, 0]))
        shown = features[None, None] * float(study.calendar)
        prepared = policy.encode(net, Bars(shown, listed, seconds))[0, 0]
        distribution, _ = policy.act(net, prepared, seen)
        return limit * distribution.squash(distribution.mode())

    def visible(params: Any) -> Any:
        return params if study.calendar else params.replace(features=jnp.zeros_like(params.features))

    kinds = {"Merton": _merton_score, "DavisNorman": _band_score, "GrossmanZhou": _floor_score}

    def first_net(key: jax.Array) -> Any:
        return make_actor_critic(encoder, action, key, hindsight=config.hindsight_critic)[1]

    return Learnable(
        trading_task(policy, env, config),
        first_net,
        visible(problem.params),
        lambda key: visible(problem.params_for(problem.market(key))),
        lambda net, there: _act(there, decide, net),
        kinds[type(problem).__name__](problem, decide),
    )


def _merton_score(problem: reference.Merton, decide: Callable[..., jax.Array]) -> Callable[[Any], dict[str, float]]:
    """Root mean square error of the weights along the agent's episodes, and the certainty equivalent of their mean."""

    def figures(net: Any) -> tuple[jax.Array, jax.Array]:
        def visited(there: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            act = _act(there, decide, net)

            def one_step(carry: Any, _: None) -> tuple[Any, jax.Array]:
                action = act(*carry)
                after = there.env.step_env(None, carry[1], action, there.params)
                return after[:2], action * problem.position_limit

            start = there.env.reset_env(key, there.params)
            weight = jax.lax.scan(one_step, start, None, length=problem.horizon)[1]
            return weight.mean(axis=0), jnp.mean(jnp.sum(jnp.square(weight - jnp.asarray(problem.weights)), axis=-1))

        return _on_markets(problem, visited)

    compiled = jax.jit(figures)

    def score(net: Any) -> dict[str, float]:
        mean, square = compiled(net)
        worth, best = (problem.certainty_equivalent(np.asarray(w, np.float64)) for w in (mean, problem.weights))
        return {"percent": 100.0 * worth / best, "weight_error": float(square**0.5 / np.linalg.norm(problem.weights))}

    return score


def _settled(weight_after: Callable[[jax.Array], jax.Array], problem: Any) -> jax.Array:
    """Weights `[A]` that a policy of its own weights settles at."""
    return jax.lax.fori_loop(0, 8, lambda _, weight: weight_after(weight), jnp.zeros(problem.env.n_assets))


def _band_score(problem: reference.DavisNorman, decide: Callable[..., jax.Array]) -> Callable[[Any], dict[str, float]]:
    """Ends of the weights that the agent holds, at drawdowns up to 20 %: distance in widths of the optimal band."""
    grid, losses = jnp.linspace(0.0, problem.position_limit, 2001), jnp.array([0.0, 0.1, 0.2])
    low, high = problem.band()
    bars = _some_bars(problem)

    def figures(net: Any) -> tuple[jax.Array, jax.Array]:
        over_weights = jax.vmap(lambda row, loss, w: decide(net, row, w[None], loss), in_axes=(None, None, 0))
        over_losses = jax.vmap(over_weights, in_axes=(None, 0, None))
        edges = jax.vmap(over_losses, in_axes=(0, None, None))(bars, losses, grid)
        return edges, _gain(problem, lambda there: _act(there, decide, net))

    compiled = jax.jit(figures)

    def score(net: Any) -> dict[str, float]:
        edges, gain = compiled(net)
        worst = band_errors(np.asarray(grid), np.asarray(edges), (low, high)).mean(axis=0).max(axis=0)
        percent = problem.percent_of_optimum(problem.optimal_value() + float(gain))
        return {"percent": percent, "lower_edge_error": float(worst[0]), "upper_edge_error": float(worst[1])}

    return score


def band_errors(weight: np.ndarray, edges: np.ndarray, band: tuple[float, float]) -> np.ndarray:
    """Distance of the ends of the weights that are held from those of a band, in widths of the band.

    Args:
      weight: `[n]`, increasing.
      edges: `[..., n, 2]` asked for at each weight, in either order.
      band: the edges to compare with.

    Returns:
      `[..., 2]`; where no weight is held, the distance of the mean of all edges.
    """
    low, high = edges.min(axis=-1), edges.max(axis=-1)
    held = (low <= weight) & (weight <= high)
    ends = np.stack([weight[held.argmax(axis=-1)], weight[::-1][held[..., ::-1].argmax(axis=-1)]], axis=-1)
    ends = np.where(held.any(axis=-1)[..., None], ends, edges.mean(axis=(-2, -1))[..., None])
    return np.abs(ends - np.asarray(band)) / (band[1] - band[0])


def _some_bars(problem: Any) -> jax.Array:
    """Features `[TEST_BARS, A, F]` of consecutive bars on which the problem is traded."""
    first = problem.env.first_decision
    return problem.params.features[first : first + TEST_BARS]


def _act(there: Any, decide: Callable[..., jax.Array], net: Any) -> Callable[[Observation, Any], jax.Array]:
    """The agent as a policy of `reference.simulate` on the market of `there`."""

    def act(observation: Observation, state: Any) -> jax.Array:
        held, limit = observation.asset[:, 0] * there.position_limit, there.position_limit
        weights = decide(net, there.params.features[state.bar], held, drawdown(state.portfolio))
        return weights.reshape(there.env.action_space().shape) / limit

    return act


def _floor_score(
    problem: reference.GrossmanZhou, decide: Callable[..., jax.Array]
) -> Callable[[Any], dict[str, float]]:
    """Exact long-run growth of the agent's weights, their error, and the share of simulated episodes that breach."""
    bars = _some_bars(problem)

    @jax.jit
    def weights(net: Any, losses: jax.Array) -> jax.Array:
        def at(row: jax.Array, loss: jax.Array) -> jax.Array:
            share = cushion_share(loss, problem.floor)
            return _settled(lambda w: share * decide(net, row, w, loss), problem)[0]

        return jax.vmap(lambda loss: jax.vmap(lambda row: at(row, loss))(bars).mean())(losses)

    compiled = jax.jit(
        lambda net: _on_markets(problem, lambda there, key: _breached(there, _act(there, decide, net), key))
    )

    def score(net: Any) -> dict[str, float]:
        def held(kept: np.ndarray) -> np.ndarray:
            return np.maximum(np.asarray(weights(net, jnp.asarray(1.0 - kept, jnp.float32)), np.float64), 0.0)

        kept = np.linspace(problem.floor + 0.02, 1.0, 50)
        best = np.asarray(problem.multiple(jnp.asarray(kept)), np.float64) * (1 - problem.floor / kept)
        return {
            "percent": 100.0 * problem.growth_rate(held) / problem.growth_rate(),
            "weight_error": float(np.sqrt(np.mean((held(kept) - best) ** 2) / np.mean(best**2))),
            "breaches": float(compiled(net)),
        }

    return score


def _on_markets(problem: Any, measure: Callable[[Any, jax.Array], Any]) -> Any:
    """Mean of `measure(problem on a market, key)` over `TEST_TABLES` markets."""

    def one(key: jax.Array) -> jax.Array:
        key_market, key_measure = jax.random.split(key)
        return measure(problem.on_market(problem.market(key_market)), key_measure)

    outcomes = jax.vmap(one)(jax.random.split(jax.random.key(10**6), TEST_TABLES))
    return jax.tree.map(lambda x: x.mean(axis=0), outcomes)


def _gain(problem: Any, act_on: Callable[[Any], Callable[..., jax.Array]]) -> jax.Array:
    """Mean gain over the optimum, both with the tail that they leave, on the same markets."""

    def gain(there: Any, key: jax.Array) -> jax.Array:
        ours = reference.simulate(there, act_on(there), key, TEST_PATHS // TEST_TABLES, tail=there.tail_value)
        again = jax.random.clone(key)
        best = reference.simulate(there, _optimum(there), again, TEST_PATHS // TEST_TABLES, tail=there.tail_value)
        return (ours - best).mean()

    return _on_markets(problem, gain)


def _breached(problem: Any, act: Callable[..., jax.Array], key: jax.Array) -> jax.Array:
    """Share of episodes that terminate. Consumes `key`."""

    def episode(key: jax.Array) -> jax.Array:
        def one_step(carry: Any, _: None) -> tuple[Any, None]:
            observation, state, over = carry
            after = problem.env.step_env(None, state, act(observation, state), problem.params)
            return (*after[:2], over | after[3]), None

        start = (*problem.env.reset_env(key, problem.params), jnp.zeros((), bool))
        return jax.lax.scan(one_step, start, None, length=problem.horizon)[0][2]

    return jax.vmap(episode)(jax.random.split(key, TEST_PATHS // TEST_TABLES)).mean()
