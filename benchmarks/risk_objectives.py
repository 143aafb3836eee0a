"""Objectives and constraints against optima that a grid finds on the exact distribution.

    python -m benchmarks.risk_objectives objectives [--seeds 5]
    python -m benchmarks.risk_objectives constraints [--seeds 5]

`objectives`: one bar of two assets, one of which has a fat left tail; the action is the share of that asset, the rest
is in the other one. Agents learn the mean, the mean of the worst tenth, mixtures and other utilities; the share of each
agent is compared with the best one on the exact mixture of normals.

`constraints`: growth in one lognormal asset (Merton's problem for log utility) under a limit of volatility or of
leverage below the unconstrained optimum, with PID multipliers and with plain Lagrangians; the weight is compared with
the best one that holds the limit, and overshoot is counted from the first iteration in which the limit is crossed.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from benchmarks.recording import record
from benchmarks.studies import Study, learnable
from jaxppo import risk
from jaxppo.config import PPOConfig
from jaxppo.envs import reference, simulators
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.execution.limits import Constraint
from jaxppo.envs.execution.portfolio import Portfolio, open_portfolio
from jaxppo.envs.market.features import group_slices
from jaxppo.envs.market.market_data import SECONDS_PER_YEAR, MarketData
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.policy.encoding import encode_paths
from jaxppo.policy.networks import EncoderConfig, make_actor_critic
from jaxppo.ppo.learner import data_mesh, make_learner
from jaxppo.ppo.population import train_population
from jaxppo.ppo.trading_task import action_config, trading_task

# Two assets. Simple returns of a bar: probability, mean, deviation of each part of the first; mean, deviation of the
# second.
FIRST = ((0.95, 0.02, 0.03), (0.05, -0.15, 0.05))
SECOND = (0.005, 0.05)
LEVEL = 0.9
N_BARS = 4096
ONE_BAR = PPOConfig(
    paths=2048,
    portfolios=4,
    chunk=1,
    epochs=2,
    minibatches=8,
    learning_rate=5e-3,
    schedule="linear",
    gamma=1.0,
    gae_lambda=1.0,
    entropy_coefficient=0.0,
    reward_scale=20.0,
    value_normalisation="popart",
)


class MixEnv(TradingEnv):
    """`TradingEnv` of two assets whose decision is the share of the first.

    It is the mean of both components, stretched by a quarter, so that both ends of [0, 1] lie inside their range.
    """

    def decode(
        self, action: jax.Array, portfolio: Portfolio, constraint: Constraint | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """See `TradingEnv.decode`."""
        del portfolio, constraint
        share = jnp.clip(1.25 * jnp.mean(action) - 0.125, 0.0, 1.0)
        return jnp.stack([share, 1.0 - share]), jnp.zeros(2, bool)


def two_assets(key: jax.Array) -> MarketData:
    """A table of `N_BARS` bars that open at the previous close. Consumes `key`."""
    key_bars, key_part, key_noise = jax.random.split(key, 3)
    part = (jax.random.uniform(key_part, (N_BARS,)) < FIRST[1][0]).astype(jnp.int32)
    noise = jax.random.normal(key_noise, (N_BARS, 2))
    mean, deviation = (jnp.asarray([FIRST[0][i], FIRST[1][i]]) for i in (1, 2))
    first = mean[part] + deviation[part] * noise[:, 0]
    simple = jnp.stack([first, SECOND[0] + SECOND[1] * noise[:, 1]], axis=1)
    close = jnp.exp(jnp.cumsum(jnp.log1p(simple), axis=0))
    opened = jnp.concatenate([close[:1], close[:-1]])
    bars = simulators.gbm(key_bars, N_BARS, 2, half_spread=0.0)
    seconds = jnp.full(N_BARS, SECONDS_PER_YEAR / 252.0, jnp.float32).at[0].set(0.0)
    high, low = jnp.maximum(opened, close), jnp.minimum(opened, close)
    return bars.replace(open=opened, high=high, low=low, close=close, seconds_since_previous=seconds)


def mix_parts(share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, means and deviations of the normal parts of the mix's simple return."""
    probability, mean, deviation = np.array(FIRST).T
    rest = 1.0 - share
    return probability, share * mean + rest * SECOND[0], np.hypot(share * deviation, rest * SECOND[1])


def exact(utility: str, share: float, **keys: float) -> float:
    """The objective's value for a share of the first asset, on the exact distribution."""
    p, m, s = mix_parts(share)
    mean = float(p @ m)
    if utility == "mean_variance":
        return mean - 0.5 * keys["aversion"] * float(p @ (s**2 + m**2) - mean**2)
    if utility == "exponential":
        c = keys["aversion"]
        return float(p @ (1.0 - np.exp(-c * m + 0.5 * (c * s) ** 2))) / c
    if utility == "expected":
        return mean
    tail = 1.0 - keys["level"]
    quantile = brentq(lambda q: float(p @ norm.cdf((q - m) / s)) - tail, -2.0, 2.0)
    z = (quantile - m) / s
    worst = float(p @ (m * norm.cdf(z) - s * norm.pdf(z))) / tail
    return (1.0 - keys["weight"]) * mean + keys["weight"] * worst


OBJECTIVES: dict[str, tuple[str, dict[str, float]]] = {
    "mean": ("expected", {}),
    "cvar": ("cvar", {"level": LEVEL, "weight": 1.0}),
    "half cvar": ("cvar", {"level": LEVEL, "weight": 0.5}),
    "mean-variance": ("mean_variance", {"aversion": 8.0}),
    "exponential": ("exponential", {"aversion": 8.0}),
}


MINIMAL: dict[str, Any] = {"observation": "index", "window": 1, "groups": ("calendar",), "normalisation_window": 2}
"""An environment whose policy sees one bar and no prices."""


def objectives(seeds: int, iterations: int, chosen: list[str]) -> list[dict[str, Any]]:
    """Trains under each objective: the trained shares beside the best one."""
    env = MixEnv(start="flat", n_assets=2, actions="continuous", levels=(0.0, 1.0), position_limit=1.0, **MINIMAL)
    costs = basic_costs(max_leverage=1.01, maintenance_margin=0.0)
    sizes = tuple(columns.stop - columns.start for columns in group_slices(env.groups).values())
    encoder = EncoderConfig("mlp", sizes, 16, 1, 2, 1, 2, False, jnp.dtype("float32"))
    action = action_config(env, 0.2)
    policy = make_actor_critic(encoder, action, jax.random.key(0))[0]
    task = trading_task(policy, env, ONE_BAR)

    def params_of(key: jax.Array) -> Any:
        return env.make_params(two_assets(key), costs, episode_bars=1)

    params = params_of(jax.random.key(0))
    bars = env.first_decision + jnp.arange(7)

    def share(net: Any) -> jax.Array:
        """Mean share over a week of flat accounts, without randomness."""
        prepared = encode_paths(policy, net, params, bars, 1, None)[:, 0]

        def one(bar: jax.Array, ready: jax.Array) -> jax.Array:
            account = open_portfolio(params.market.close[bar], params.initial_cash, env.fill_rule)
            seen = env.observe_portfolio(bar, account, params.market.tradable[bar])
            distribution, _ = policy.act(net, ready, seen)
            return env.decode(distribution.squash(distribution.mode()), account)[0][0]

        return jax.vmap(one)(bars, prepared).mean()

    shares = jax.jit(lambda nets: jax.lax.map(share, nets))

    def trained(stage: Any, seed: int, iterations: int) -> tuple[Any, dict[str, jax.Array]]:
        """Networks on the way `[n, ...]` and metrics of one agent."""
        _, metrics, nets = train_population(
            make_learner(task, ONE_BAR, data_mesh(jax.devices()[:1]), stage),
            lambda key: make_actor_critic(encoder, action, key)[1],
            params,
            [seed],
            iterations,
            refresh=params_of,
            evaluate=lambda net: net,
            every=iterations // 20,
        )
        return jax.tree.map(lambda x: x[0], nets), metrics

    rows, grid = [], np.linspace(0.0, 1.0, 2001)
    for name in chosen:
        kind, keys = OBJECTIVES[name]
        stage = risk.shape_rewards(getattr(risk.objectives, kind)(**keys), outcome="simple")
        values = np.array([exact(kind, x, **keys) for x in grid])
        started = time.perf_counter()
        nets, metrics = zip(*(trained(stage, seed, iterations) for seed in range(seeds)), strict=True)
        seen = np.stack([np.asarray(shares(net)) for net in nets])
        found, best = seen[:, -1], float(grid[values.argmax()])
        rows.append(
            {
                "objective": name,
                "kind": kind,
                **keys,
                "best_share": best,
                "best_value": float(values.max()),
                "shares": found.tolist(),
                "relative_errors": (np.abs(found - best) / best).tolist(),
                "values": [exact(kind, float(x), **keys) for x in found],
                "curves": seen.tolist(),
                "thresholds": [
                    float(row["objective_threshold"][0, -1]) for row in metrics if "objective_threshold" in row
                ],
                "seconds_all_seeds_with_compilation": time.perf_counter() - started,
            }
        )
        row = rows[-1]
        print(name, "best", best, "found", np.round(found, 4), "worst error", max(row["relative_errors"]), flush=True)
        print("   ", f"{row['seconds_all_seeds_with_compilation']:.0f} s", np.round(seen[0], 3), row["thresholds"][:1])
    return rows


# Growth under a limit: a year of 20 bars, drift 0.06, volatility 0.2; without a limit the best weight is 1.5.
GROWTH = PPOConfig(
    paths=128,
    portfolios=2,
    chunk=60,
    epochs=2,
    minibatches=8,
    learning_rate=5e-3,
    schedule="linear",
    gamma=0.5,
    gae_lambda=1.0,
    entropy_coefficient=0.0,
    reward_scale=20.0,
    value_normalisation="popart",
)
LIMITS = {"volatility": 0.2, "leverage": 1.0}


def merton() -> reference.Merton:
    """The problem without its limit."""
    return reference.Merton(risk_aversion=1.0, n_bars=2048)


def constrained_optimum(problem: reference.Merton, name: str, limit: float) -> float:
    """Best weight under a limit, by a grid on the quadrature of a bar's return."""
    simple, probability = problem._outcomes
    simple, best = simple[:, 0], (-np.inf, 0.0)
    for weight in np.linspace(0.0, problem.position_limit, 6001):
        gain = weight * simple
        if name == "volatility":
            measured = np.sqrt(probability @ np.square(gain - probability @ gain) / problem.dt)
        else:
            measured = probability @ (weight * (1.0 + simple) / (1.0 + gain))
        if measured <= limit:
            best = max(best, (problem.expected_utility([weight]), float(weight)))
    return best[1]


def constraints(seeds: int, iterations: int) -> list[dict[str, Any]]:
    """Trains under each limit by each method: the trained weights and the overshoot."""
    problem = merton()
    ready = learnable(Study(merton, GROWTH, std=0.05), GROWTH)
    periods = 1.0 / problem.dt

    def weight(net: Any) -> jax.Array:
        """Mean weight along whole episodes on a market that was not trained on, without randomness."""
        there = problem.on_market(problem.market(jax.random.key(10**6)))
        act = ready.agent(net, there)

        def visited(key: jax.Array) -> jax.Array:
            def one_step(carry: Any, _: None) -> tuple[Any, jax.Array]:
                action = act(*carry)
                return there.env.step_env(None, carry[1], action, there.params)[:2], action * problem.position_limit

            return jax.lax.scan(one_step, there.env.reset_env(key, there.params), None, length=problem.horizon)[1]

        return jax.vmap(visited)(jax.random.split(jax.random.key(5), 64)).mean()

    rows, weights = [], jax.jit(lambda nets: jax.lax.map(weight, nets))
    for name, limit in LIMITS.items():
        make = {"volatility": lambda x: risk.constraints.volatility(x, periods), "leverage": risk.constraints.leverage}
        best = constrained_optimum(problem, name, limit)
        for method, gains in METHODS.items():
            stage = risk.shape_rewards(None, [risk.PenalisedConstraint(make[name](limit), gains)])
            started = time.perf_counter()
            nets, metrics, _ = train_population(
                ready.task,
                GROWTH,
                ready.first_net,
                ready.params,
                range(100, 100 + seeds),
                iterations,
                refresh=ready.refresh,
                risk=stage,
            )
            found = np.asarray(weights(nets))
            measured = np.asarray(metrics[f"constraint_{name}"])
            late = measured[:, -iterations // 4 :].mean(axis=1)
            row = {
                "constraint": name,
                "limit": limit,
                "method": method,
                "gains": gains._asdict(),
                "best_weight": best,
                "unconstrained_weight": float(problem.weights[0]),
                "weights": found.tolist(),
                "relative_errors": (np.abs(found - best) / best).tolist(),
                "late_violation": (late / limit - 1.0).tolist(),
                **overshoot(measured / limit - 1.0),
                "multipliers": np.asarray(metrics[f"multiplier_{name}"])[:, -1].tolist(),
                "curves": measured[:, :: max(iterations // 50, 1)].tolist(),
                "seconds_all_seeds_with_compilation": time.perf_counter() - started,
            }
            rows.append(row)
            print(
                f"{name} {method}: best {best:.3f}, found {np.round(found, 3)}, worst error "
                f"{max(row['relative_errors']):.2%}, late violation {np.round(row['late_violation'], 4)}, largest "
                f"{np.round(row['largest_overshoot'], 3)}, integrated {np.round(row['integrated_overshoot'], 2)}, "
                f"multiplier {np.round(row['multipliers'], 3)}, {row['seconds_all_seeds_with_compilation']:.0f} s",
                flush=True,
            )
            print("   ", np.round(row["curves"][0], 3), flush=True)
    return rows


def overshoot(violation: np.ndarray) -> dict[str, list[float]]:
    """Largest relative violation, and the sum over iterations of its positive part, from the first crossing on.

    Args:
      violation: `[N, n]`, a row for each agent.
    """
    crossed = np.maximum.accumulate(violation > 0.0, axis=1)
    above = np.where(crossed, np.maximum(violation, 0.0), 0.0)
    first = np.where(crossed.any(axis=1), crossed.argmax(axis=1), -1)
    return {
        "largest_overshoot": above.max(axis=1).tolist(),
        "integrated_overshoot": above.sum(axis=1).tolist(),
        "first_crossing": first.tolist(),
    }


METHODS = {
    "pid": risk.lagrangian.Gains(proportional=2.0, integral=0.04, derivative=1.0),
    "lagrangian": risk.lagrangian.Gains(proportional=0.0, integral=0.04, derivative=0.0),
}
"""The same integral gain; gains are of a trial on two other seeds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("objectives", "constraints"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES))
    chosen = parser.parse_args()
    if chosen.study == "objectives":
        iterations = chosen.iterations or 800
        rows = objectives(chosen.seeds, iterations, chosen.objectives)
    else:
        iterations = chosen.iterations or 1600
        rows = constraints(chosen.seeds, iterations)
    if chosen.iterations is None:
        print(record(f"risk_{chosen.study}", {"seeds": chosen.seeds, "iterations": iterations, "rows": rows}))


if __name__ == "__main__":
    main()
