"""Agents in per cent of closed-form optima: trains on each reference problem, several seeds in one compiled program.

    python -m benchmarks.optimality table [--problems QuadraticCostAR1 ...] [--seeds 5]
    python -m benchmarks.optimality ablation --problems QuadraticCostAR1
    python -m benchmarks.optimality divergence --problems QuadraticCostAR1
    python -m benchmarks.optimality pathwise [--problems OUSpread ...] [--seeds 5]

`table` trains as in `benchmarks/studies.py`, `pathwise` by the gradient through the market; `ablation` compares control
variate and hindsight critic over K; `divergence` shows how close the adaptive penalties hold the KL to its target.
Each problem has its own result file.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.recording import record
from benchmarks.studies import GOAL, PATHWISE, SMALL, STUDIES, Study, learnable
from jaxppo.ppo.learner import data_mesh, make_learner
from jaxppo.ppo.population import train_population

ABLATION = [
    {**SMALL, "paths": 64 // k, "portfolios": k, "control_variate": variate, "hindsight_critic": hindsight}
    for k in (1, 4, 16)
    for variate in ((False, True) if k > 1 else (False,))
    for hindsight in (False, True)
]
"""The same number of environment steps, from 64 / K paths with K portfolios each."""

DIVERGENCE = [
    {"kl_penalty": rule, "kl_target": target, "schedule": "constant", "clip": None}
    for rule in ("doubling", "integral")
    for target in (0.003, 0.01)
]
"""Without clipping and at a constant step size, the penalty alone holds the policy back."""
EXPERIMENTS = {"table": [{}], "ablation": ABLATION, "divergence": DIVERGENCE, "pathwise": [{}]}


def study(name: str, of: Study, seeds: int, quick: bool = False, **changes: Any) -> dict[str, Any]:
    """Trains `seeds` agents and scores them, and their learning curves, on episodes that none was trained on.

    The curves of a `quick` one have a point every second iteration and end at `GOAL`.
    """
    chosen = dataclasses.replace(of, every=2) if quick else of
    config = chosen.ppo.model_copy(update=changes)
    task, first_net, params, refresh, _, score = learnable(chosen, config)
    started = time.perf_counter()
    nets, metrics, snapshots = train_population(
        make_learner(task, config, data_mesh(jax.devices()[:1]), pathwise=chosen.pathwise),
        first_net,
        params,
        range(seeds),
        chosen.iterations,
        refresh=refresh,
        evaluate=lambda net: net,
        every=chosen.every,
    )
    jax.block_until_ready(nets)
    seconds = time.perf_counter() - started
    agents = averages(snapshots, chosen.averaged)
    figures = [score(jax.tree.map(lambda x, i=i: x[i, -1], agents)) for i in range(seeds)]
    points = chosen.iterations // chosen.every

    def curve(i: int) -> Iterator[float]:
        for j in range(points):
            percent = score(jax.tree.map(lambda x, j=j: x[i, j], agents))["percent"]
            yield percent
            if quick and percent >= GOAL:
                return

    curves = [list(curve(i)) for i in range(seeds)]
    steps = config.paths * config.portfolios * config.chunk
    at = (np.arange(points) + 1) * chosen.every * steps
    first = [next((j for j, percent in enumerate(row) if percent >= GOAL), None) for row in curves]
    reached = [None if j is None else int(at[j]) for j in first]
    divergence = {}
    if config.kl_penalty != "none":
        ratio = np.asarray(metrics["kl_after"])[:, chosen.iterations // 2 :] / config.kl_target
        divergence = {
            "kl_over_target_in_last_half": ratio.mean(axis=1).tolist(),
            "share_of_iterations_within_1.5": float(np.mean((ratio < 1.5) & (ratio > 1 / 1.5))),
            "kl_over_target_quantiles_5_50_95": np.quantile(ratio, [0.05, 0.5, 0.95]).tolist(),
        }
    return {
        "problem": name,
        "changes": changes,
        **{name: [row[name] for row in figures] for name in figures[0]},
        **divergence,
        "mean": float(np.mean([row["percent"] for row in figures])),
        "worst": min(row["percent"] for row in figures),
        "steps_to_95": reached,
        "market_bars_to_95": [None if n is None else n // config.portfolios for n in reached],
        "env_steps": chosen.iterations * steps,
        "seconds_all_seeds_with_compilation": seconds,
        "curve_steps": at.tolist(),
        "curves": curves,
        "ppo": config.model_dump(),
        "pathwise": None if chosen.pathwise is None else chosen.pathwise.model_dump(),
        "std": chosen.std,
        "encoder": chosen.encoder,
        "calendar": chosen.calendar,
        "averaged": chosen.averaged,
        "control_variate_ratio": float(np.asarray(metrics["control_variate_ratio"])[:, -10:].mean()),
    }


def averages(snapshots: Any, share: float) -> Any:
    """Agents of the iterations up to each snapshot: means of the parameters over the last `share` of them.

    Args:
      snapshots: parameters, `[N, points, ...]`.
      share: in [0, 1); 0 for the snapshots themselves.

    Reference: Polyak, Juditsky (1992), Acceleration of stochastic approximation by averaging.
    """
    if share == 0.0:
        return snapshots

    def means(x: jax.Array) -> np.ndarray:
        first = [int((1.0 - share) * (j + 1)) for j in range(x.shape[1])]
        return np.stack([np.asarray(x[:, a : j + 1]).mean(axis=1) for j, a in enumerate(first)], axis=1)

    return jax.tree.map(means, snapshots)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=tuple(EXPERIMENTS))
    parser.add_argument("--problems", nargs="+", choices=tuple(STUDIES | PATHWISE), default=None)
    parser.add_argument("--seeds", type=int, default=5)
    chosen = parser.parse_args()
    studies = PATHWISE if chosen.experiment == "pathwise" else STUDIES
    for name in chosen.problems or studies:
        if name not in studies:
            parser.error(f"{chosen.experiment} has no study of {name}; it has {', '.join(studies)}")
        rows = []
        for changes in EXPERIMENTS[chosen.experiment]:
            quick = chosen.experiment in ("ablation", "divergence")
            row = study(name, studies[name], chosen.seeds, quick, **changes)
            rows.append(row)
            found = f"mean {row['mean']:.2f} % worst {row['worst']:.2f} %, steps to 95 %: {row['steps_to_95']}"
            print(name, changes, found, row.get("kl_over_target_in_last_half", ""), flush=True)
        print(record(f"optimality_{chosen.experiment}_{name}", {"seeds": chosen.seeds, "rows": rows}))


if __name__ == "__main__":
    main()
