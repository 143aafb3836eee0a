"""A sweep as one program against its agents one after the other: python -m benchmarks.sweep [--rates 64 --seeds 4]

Learning rates x seeds on the AR(1) problem with quadratic costs, whose optimum is known. Of the agents one after the
other `--alone` are measured, between two measurements of all together, and the time of one is their median. It is
counted in two ways: with the compilation of its program, as for runs of different learning rates, each of which has its
own; and without, as if all could share one. `load_average` says what else the machine was doing.

JAX_NUM_CPU_DEVICES=2 in the environment spreads the agents over two cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.recording import record
from benchmarks.studies import STUDIES, learnable
from jaxppo.ppo.learner import data_mesh, make_learner
from jaxppo.ppo.population import population_program

PROBLEM = "QuadraticCostAR1"
RATES = (1e-4, 1e-2)
SIZES = {"paths": 4, "portfolios": 4, "chunk": 32, "epochs": 2, "minibatches": 2}
"""512 environment steps an iteration, in four updates."""


def timed(call: Any, *arguments: Any) -> tuple[Any, float]:
    """What a call returns, and its seconds."""
    began = time.perf_counter()
    found = jax.block_until_ready(call(*arguments))
    return found, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=int, default=64, help="learning rates, at equal ratios")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--alone", type=int, default=16, help="agents that are trained one after the other")
    parser.add_argument("--width", type=int, default=16)
    chosen = parser.parse_args()
    study = STUDIES[PROBLEM].__class__(**{**vars(STUDIES[PROBLEM]), "width": chosen.width})
    config = study.ppo.model_copy(update=SIZES)
    task, first_net, params, _, _, score = learnable(study, config)

    def make(values: dict[str, jax.Array]) -> Any:
        return make_learner(task, config.model_copy(update=values), data_mesh(jax.devices()[:1]))

    program = population_program(make, params, chosen.iterations)
    rates = np.repeat(np.geomspace(*RATES, chosen.rates), chosen.seeds).astype(np.float32)
    seeds = np.tile(np.arange(chosen.seeds), chosen.rates)
    nets = [first_net(jax.random.fold_in(jax.random.key(seed), 1)) for seed in seeds]

    def given(places: list[int]) -> tuple[Any, ...]:
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *(nets[i] for i in places))
        return stacked, jnp.asarray(seeds[places]), {"learning_rate": jnp.asarray(rates[places])}

    everyone = given(list(range(len(seeds))))
    some = [int(i) for i in np.linspace(0, len(seeds) - 1, chosen.alone)]
    together, compile_all = timed(lambda: program.lower(*everyone).compile())
    single, compile_one = timed(lambda: program.lower(*given(some[:1])).compile())
    jax.block_until_ready((together(*everyone), single(*given(some[:1]))))
    (trained, *_), before = timed(together, *everyone)
    alone, seconds = zip(*(timed(single, *given([i])) for i in some), strict=True)
    _, after = timed(together, *everyone)
    one, everyones = statistics.mean(seconds), statistics.mean((before, after))
    percents = np.array([score(jax.tree.map(lambda x, i=i: x[i], trained))["percent"] for i in range(len(seeds))])
    singles = [score(jax.tree.map(lambda x: x[0], net))["percent"] for net, *_ in alone]
    by_rate = percents.reshape(chosen.rates, chosen.seeds).mean(axis=1)
    steps = config.paths * config.portfolios * config.chunk * chosen.iterations
    content = {
        "agents": len(seeds),
        "devices": len(jax.devices()),
        "load_average": os.getloadavg(),
        "iterations": chosen.iterations,
        "width": chosen.width,
        "ppo": config.model_dump(),
        "seconds_together": [before, after],
        "seconds_alone": list(seconds),
        "seconds_to_compile": {"together": compile_all, "alone": compile_one},
        "times_faster": one * len(seeds) / everyones,
        "times_faster_with_compilation": (one + compile_one) * len(seeds) / (everyones + compile_all),
        "env_steps_per_second": {"together": steps * len(seeds) / everyones, "alone": steps / one},
        "largest_difference_in_percent_of_optimum": float(np.abs(np.array(singles) - percents[some]).max()),
        "rates": rates[:: chosen.seeds].tolist(),
        "percent_of_optimum": by_rate.tolist(),
        "best": {"rate": float(rates[:: chosen.seeds][by_rate.argmax()]), "percent": float(by_rate.max())},
    }
    shown = ("times_faster", "times_faster_with_compilation", "env_steps_per_second", "seconds_to_compile", "best")
    print({name: content[name] for name in (*shown, "largest_difference_in_percent_of_optimum")})
    print(f"wrote {record('sweep', content)}")


if __name__ == "__main__":
    main()
