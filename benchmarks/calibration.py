"""Do the statistics keep their word? Coverage, size and power on strategies whose skill is known.

    python -m benchmarks.calibration [--scale 1.0]

Noise has no skill; a planted edge is a known Sharpe ratio. The scale multiplies the number of replications.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.recording import record
from jaxppo import statistics
from jaxppo.statistics.bootstrap import percentile_interval

YEAR = 252
LEVEL = 0.95
BURN_IN = 200
EDGE = 0.1  # Sharpe ratio per bar, 1.6 a year


def iid_normal(draws: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return draws.standard_normal(shape)


def student(draws: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Five degrees of freedom."""
    return draws.standard_t(5, shape)


def garch(draws: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """GARCH(1, 1): variance `0.05 + 0.08 r^2 + 0.87 v`."""
    shocks = draws.standard_normal((shape[0], shape[1] + BURN_IN))
    variance, returns = np.ones(shape[0]), np.empty_like(shocks)
    for bar in range(shocks.shape[1]):
        returns[:, bar] = np.sqrt(variance) * shocks[:, bar]
        variance = 0.05 + 0.08 * returns[:, bar] ** 2 + 0.87 * variance
    return returns[:, BURN_IN:]


def autoregression(draws: np.random.Generator, shape: tuple[int, int], coefficient: float) -> np.ndarray:
    shocks = draws.standard_normal((shape[0], shape[1] + BURN_IN))
    for bar in range(1, shocks.shape[1]):
        shocks[:, bar] += coefficient * shocks[:, bar - 1]
    return shocks[:, BURN_IN:]


PROCESSES: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "iid normal": iid_normal,
    "Student t, 5 degrees": student,
    "GARCH(1, 1)": garch,
    "AR(1), 0.2": functools.partial(autoregression, coefficient=0.2),
    "AR(1), 0.5": functools.partial(autoregression, coefficient=0.5),
}

DEVIATION = {
    "iid normal": 1.0,
    "Student t, 5 degrees": math.sqrt(5 / 3),
    "GARCH(1, 1)": 1.0,
    "AR(1), 0.2": 1 / math.sqrt(1 - 0.2**2),
    "AR(1), 0.5": 1 / math.sqrt(1 - 0.5**2),
}


def mean_and_sharpe(returns: jax.Array) -> jax.Array:
    """`[2]`: what intervals are taken of."""
    return jnp.stack([jnp.mean(returns), statistics.sharpe_per_bar(returns)])


@functools.partial(jax.jit, static_argnames="n_resamples")
def resampled(key: jax.Array, series: jax.Array, blocks: jax.Array, n_resamples: int) -> jax.Array:
    """`[M, B, 2]` mean and deviation of resamples of `series [M, T]`, which share the random numbers."""

    def of_one(one: jax.Array, block: jax.Array, resample_key: jax.Array) -> jax.Array:
        drawn = one[statistics.stationary_bootstrap_indices(resample_key, one.shape[0], block)]
        return jnp.stack([jnp.mean(drawn), jnp.std(drawn, ddof=1)])

    over_series = jax.vmap(of_one, in_axes=(0, 0, None))
    keys = jax.random.split(key, n_resamples)
    return jnp.swapaxes(jax.lax.map(lambda resample_key: over_series(series, blocks, resample_key), keys), 0, 1)


def coverage(name: str, n_series: int, n_bars: int, n_resamples: int, seed: int) -> dict[str, Any]:
    """Share of the series whose intervals hold the truth: mean 0, Sharpe ratio 0, and `EDGE` once it is added."""
    series = PROCESSES[name](np.random.default_rng(seed), (n_series, n_bars)).astype(np.float32)
    blocks = np.array([statistics.optimal_block_length(one) for one in series])
    key = jax.random.key(seed)
    moments = np.asarray(resampled(key, series, jnp.asarray(blocks, jnp.float32), n_resamples), np.float64)
    mean, spread = moments[..., 0], moments[..., 1]
    shift = EDGE * DEVIATION[name]
    metrics = np.stack([mean, mean / spread, (mean + shift) / spread], axis=-1)
    levels = [
        statistics.widened_level(LEVEL, statistics.widening(one, block, LEVEL))
        for one, block in zip(series, blocks, strict=True)
    ]
    ends = np.array([percentile_interval(of, level) for of, level in zip(metrics, levels, strict=True)])
    shipped = statistics.bootstrap_interval(
        jax.random.key(seed), series[0], mean_and_sharpe, level=LEVEL, n_resamples=n_resamples
    )
    np.testing.assert_allclose(ends[0, :, :2], shipped, atol=1e-5, err_msg="not the interval that is shipped")
    plain = np.array([percentile_interval(of, LEVEL) for of in metrics])
    truth = np.array([0.0, 0.0, EDGE])
    calibrated, uncalibrated = (((both[:, 0] <= truth) & (both[:, 1] >= truth)).mean(axis=0) for both in (ends, plain))
    skilled = series + np.float32(shift)
    sharpe = skilled.mean(1) / skilled.std(1, ddof=1)
    independent = np.abs(sharpe - EDGE) <= 1.959964 * np.asarray(statistics.sharpe_error(skilled))
    row = {"process": name, "series": n_series, "bars": n_bars, "mean_block": float(blocks.mean())}
    for number, of in enumerate(("mean", "sharpe", "sharpe_of_edge")):
        row |= {of: float(calibrated[number]), f"{of}_uncalibrated": float(uncalibrated[number])}
    return row | {"sharpe_of_edge_independent": float(independent.mean())}


def strategies(key: jax.Array, n_bars: int, n: int, families: int, edge: float) -> jax.Array:
    """`[T, N]` normal returns of volatility 1, in families that share 80 % of their variance; the first has an edge."""
    family_key, own_key = jax.random.split(key)
    own = jax.random.normal(own_key, (n_bars, n))
    if families:
        common = jax.random.normal(family_key, (n_bars, families))
        own = math.sqrt(0.8) * jnp.repeat(common, n // families, axis=1) + math.sqrt(0.2) * own
    return own.at[:, 0].add(edge)


@functools.partial(jax.jit, static_argnames=("n_bars", "n", "families", "effective"))
def best_of(key: jax.Array, edge: jax.Array, *, n_bars: int, n: int, families: int, effective: bool) -> jax.Array:
    """PSR, DSR by the count of trials and by their effective number, that number, whether the first is the best."""
    returns = strategies(key, n_bars, n, families, edge)
    sharpes = jnp.mean(returns, axis=0) / jnp.std(returns, axis=0, ddof=1)
    best = jnp.argmax(sharpes)
    chosen = returns[:, best]
    count = statistics.effective_trials(returns) if effective else jnp.float32(n)
    by_count = statistics.deflated_sharpe(chosen, sharpes)
    by_effective = statistics.deflated_sharpe(chosen, sharpes, n_trials=count)
    return jnp.stack([statistics.probabilistic_sharpe(chosen), by_count, by_effective, count, best == 0])


def deflation(label: str, replications: int, families: int, annual_edge: float, effective: bool) -> dict[str, Any]:
    """How often the best of 1,000 strategies passes."""
    keys = jax.random.split(jax.random.key(11), replications)
    arguments = {"n_bars": 1000, "n": 1000, "families": families, "effective": effective}
    found = np.array([best_of(key, annual_edge / math.sqrt(YEAR), **arguments) for key in keys])
    passed = (found[:, :3] > LEVEL).mean(0)
    row = {"strategies": label, "replications": replications, "annual_edge": annual_edge}
    row |= {"psr_passes": float(passed[0]), "dsr_passes": float(passed[1])}
    if effective:
        row |= {"dsr_effective_passes": float(passed[2]), "effective_trials": float(found[:, 3].mean())}
    return row | {"edge_is_best": float(found[:, 4].mean())} if annual_edge else row


def overfitting(replications: int, annual_edge: float) -> dict[str, Any]:
    """PBO of the best of 100 strategies over 1,000 bars, 16 blocks."""
    keys = jax.random.split(jax.random.key(12), replications)
    found = []
    for key in keys:
        returns = strategies(key, 1000, 100, 0, annual_edge / math.sqrt(YEAR))
        of = statistics.probability_of_backtest_overfitting(returns)
        found.append([float(of.probability), float(of.slope), float(of.loss_probability)])
    values = np.array(found)
    return {
        "annual_edge": annual_edge,
        "replications": replications,
        "pbo_mean": float(values[:, 0].mean()),
        "pbo_standard_error": float(values[:, 0].std(ddof=1) / math.sqrt(replications)),
        "pbo_quantiles": np.quantile(values[:, 0], [0.05, 0.95]).tolist(),
        "slope_mean": float(values[:, 1].mean()),
        "loss_mean": float(values[:, 2].mean()),
    }


def superiority(label: str, replications: int, process: str, poor: float, annual_edge: float) -> dict[str, Any]:
    """Share of rejections at 5 % of "none of 50 strategies beats 0" over 500 bars; half of them as poor as told."""
    draws, rejected = np.random.default_rng(13), []
    for number in range(replications):
        returns = PROCESSES[process](draws, (50, 500)).T.astype(np.float32)
        returns[:, 25:] -= poor / math.sqrt(YEAR) * returns.std()
        returns[:, 0] += annual_edge / math.sqrt(YEAR) * returns[:, 0].std()
        key = jax.random.key(number)
        found = statistics.superior_predictive_ability(key, returns, n_resamples=499)
        white = statistics.reality_check(jax.random.key(number), returns, n_resamples=499)
        rejected.append([*(p < 0.05 for p in found), white < 0.05])
    shares = np.mean(rejected, axis=0)
    names = ("spa_lower", "spa_consistent", "spa_upper", "reality_check")
    row = {"strategies": label, "replications": replications, "annual_edge": annual_edge}
    return row | {name: float(share) for name, share in zip(names, shares, strict=True)}


def mean_return(returns: jax.Array) -> jax.Array:
    return jnp.mean(returns)


def paired(label: str, replications: int, process: str, edge: float) -> dict[str, Any]:
    """Share of rejections at 5 % of "two agents have the same mean", 500 bars of a common market and an own part."""
    draws, rejected = np.random.default_rng(14), []
    for number in range(replications):
        common, *own = PROCESSES[process](draws, (3, 500)).astype(np.float32)
        first, second = (common + 0.5 * part for part in own)
        first = first + np.float32(edge)
        found = statistics.paired_test(jax.random.key(number), first, second, mean_return, n_resamples=499)
        rejected.append(found.p_value < 0.05)
    return {"agents": label, "replications": replications, "edge": edge, "rejected": float(np.mean(rejected))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    scale = parser.parse_args().scale
    began, seconds = time.monotonic(), {}

    def times(replications: int) -> int:
        return max(2, round(replications * scale))

    def part(name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        seconds[name] = time.monotonic() - began - sum(seconds.values())
        for row in rows:
            print(name, {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
        return rows

    content = {
        "coverage": part(
            "coverage", [coverage(name, times(2000), 500, 499, 1 + i) for i, name in enumerate(PROCESSES)]
        ),
        "deflated": part(
            "deflated",
            [
                deflation("independent noise", times(100), 0, 0.0, False),
                deflation("noise in 50 families", times(16), 50, 0.0, True),
                deflation("one with an edge", times(100), 0, 3.0, False),
            ],
        ),
        "overfitting": part("overfitting", [overfitting(times(60), 0.0), overfitting(times(60), 3.0)]),
        "superiority": part(
            "superiority",
            [
                superiority("iid normal noise", times(300), "iid normal", 0.0, 0.0),
                superiority("GARCH noise", times(300), "GARCH(1, 1)", 0.0, 0.0),
                superiority("AR(1) 0.2 noise", times(300), "AR(1), 0.2", 0.0, 0.0),
                superiority("AR(1) 0.5 noise", times(300), "AR(1), 0.5", 0.0, 0.0),
                superiority("half of them poor", times(300), "iid normal", 4.0, 0.0),
                superiority("half poor, one with an edge", times(300), "iid normal", 4.0, 2.5),
            ],
        ),
        "paired": part(
            "paired",
            [
                paired("equal, iid", times(300), "iid normal", 0.0),
                paired("equal, AR(1) 0.5", times(300), "AR(1), 0.5", 0.0),
                paired("one better, iid", times(300), "iid normal", 0.1),
            ],
        ),
    }
    print(record("calibration", {"level": LEVEL, "scale": scale, "seconds": seconds, **content}))


if __name__ == "__main__":
    main()
