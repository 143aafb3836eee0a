"""Monte Carlo results that nobody traded, for the tests of their reports."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from report_pages import HOSTILE

from jaxppo.backtest.running_statistics import FIGURES
from jaxppo.monte_carlo import Table
from jaxppo.monte_carlo.parts import KEYS

N_PATHS, BARS = 1500, (10, 20, 30)


def made_up(n: int = N_PATHS, *, numbers: np.ndarray | None = None, **changes: np.ndarray) -> Table:
    """Figures of `n` paths that nobody traded: random, all kinds of a recovery among them."""
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=n).astype(np.float32) for name in FIGURES}
    columns["total_return"] = (0.2 * columns["total_return"] + 0.05).astype(np.float32)
    columns["max_drawdown"] = rng.beta(2.0, 8.0, n).astype(np.float32)
    columns["deepest_bars"] = rng.integers(0, 30, n).astype(np.int32)
    columns |= {name: rng.random(n) < 0.1 for name in ("liquidated", "ruined")}
    columns["recovered"] = (rng.random(n) < 0.7) | (columns["deepest_bars"] == 0)
    columns |= {f"equity_{bar}": rng.uniform(0.5, 2.0, n).astype(np.float32) for bar in BARS}
    settings = dict.fromkeys(KEYS, 1) | {"policy": HOSTILE, "generator": "garch", "points": list(BARS), "ruin": 0.5}
    stress = {"scale_costs": [0.5, 2.0], "missed_fills": 0.25, "delay": 3, "latency": [1, 4]}
    settings |= {"n_bars": 30, "shard": [0, 1], "stress": stress}
    path = np.arange(n) if numbers is None else numbers
    return Table(settings, memory=pa.table({"path": path, **columns, **changes}))
