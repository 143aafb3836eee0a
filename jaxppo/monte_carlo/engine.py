"""Many market paths at once: draws them, trades them side by side, and keeps figures instead of series.

Path p is drawn from `fold_in(key(seed), p)` and from nothing else. Paths are computed in units of a fixed number of
lanes, unit u holding paths `u L .. (u + 1) L - 1`, by one program that is compiled for one device; a batch or a shard
computes whole units, on as many devices as there are. So the numbers of a path depend neither on how many others there
are nor on where they are computed, and a path that is replayed goes through the program that computed it, bit for bit.
(A program that is sharded over a mesh rounds differently on one device and on two.)
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.backtest.simulate import Ledger, whole_ledger
from jaxppo.backtest.traders import Trader
from jaxppo.envs.execution.costs import zero_prices
from jaxppo.envs.market.market_data import MarketData, MarketInfo
from jaxppo.envs.simulators.generators import Generator
from jaxppo.envs.trading.types import EnvParams
from jaxppo.monte_carlo.trade import Drawn, draw_paths, drawn, trade

MARKET_STREAM, PERTURBATION_STREAM = 0, 1
"""What is folded into the key of a path: its market, and what the perturbation draws."""
MOST_LANES, UNIT_ELEMENTS = 1024, 2**22
"""Paths of a unit, and its bars x assets x lanes, at most: about half a gigabyte while its markets are prepared."""
CPU_MOST_LANES, CPU_UNIT_ELEMENTS = 256, 2**19
"""The same on a CPU: accounts that stay in its cache, and tables of 15 MB, which C's allocator keeps for the next unit
instead of having the system clear new pages."""
NUMBERS = 2**32
"""Seeds, and numbers of paths, that there are: both are 32 bits."""
CPU_OPTIONS = {"xla_cpu_prefer_vector_width": 512}
"""Of the compiler: whole registers where there are such wide ones; all there is to compute is side by side."""
Perturbation = Callable[[jax.Array, EnvParams], EnvParams]


@dataclasses.dataclass(frozen=True)
class Replay:
    """One path again.

    Attributes:
      path: its number.
      market: `[T, A]` bars that were drawn, with the trader's first decision at bar `first`.
      first: bar of the first decision.
      ledger: NumPy arrays.
      figures: those of the batch.
      curve: `[points]` equity as a fraction of the starting capital, those of the batch.
    """

    path: int
    market: MarketData
    first: int
    ledger: Ledger
    figures: dict[str, Any]
    curve: np.ndarray


class Paths:
    """A trader on random markets.

    Args:
      trader: from `jaxppo.backtest.traders`.
      generator: draws markets of `trader.history + n_bars + 1 + spare` bars.
      n_bars: decisions on each path.
      seed: of all paths, in [0, 2^32). Two traders with the same seed and generator see the same markets, path by
        path, as far as their histories are equal.
      perturb: `(key, params) -> params` of one path, before it is traded: costs, tables, or `first_bar`, the bar of the
        first decision; consumes the key.
      spare: by how many bars a perturbation may delay `first_bar`, >= 0.
      ruin: share of the starting capital at or below which an account counts as ruined, in [0, 1).
      points: times at which the equity of every path is kept, evenly spaced, the last bar among them.
      lanes: paths in a unit; default by the size of a market.
      symbols: A names of the assets, for replays: what a generator draws has none. Default: numbers.
      devices: default: all.

    Raises:
      ValueError: the generator does not fit the trader, or an argument is outside its range.
    """

    def __init__(
        self,
        trader: Trader,
        generator: Generator,
        n_bars: int,
        *,
        seed: int = 0,
        perturb: Perturbation | None = None,
        spare: int = 0,
        ruin: float = 0.5,
        points: int = 100,
        lanes: int | None = None,
        symbols: Sequence[str] | None = None,
        devices: Sequence[jax.Device] | None = None,
    ):
        if n_bars < 1 or points < 1 or spare < 0 or not 0 <= seed < NUMBERS or not 0 <= ruin < 1:
            raise ValueError(
                f"n_bars ({n_bars}) and points ({points}) must be >= 1, spare ({spare}) >= 0, seed ({seed}) from 0 to "
                f"{NUMBERS - 1}, ruin ({ruin}) in [0, 1)"
            )
        drawn = jax.eval_shape(generator.draw, generator.data, jax.random.key(0))
        total = trader.history + n_bars + 1 + spare
        if drawn.n_assets != trader.env.n_assets or drawn.n_bars != total:
            raise ValueError(
                f"the generator draws {drawn.n_bars} bars of {drawn.n_assets} assets; {trader.name} with n_bars "
                f"{n_bars} and spare {spare} needs {total} bars of {trader.env.n_assets}"
            )
        if lanes is not None and lanes < 1:
            raise ValueError(f"lanes is {lanes}; it must be >= 1")
        names = [f"asset {number}" for number in range(drawn.n_assets)] if symbols is None else symbols
        if len(names) != drawn.n_assets:
            raise ValueError(f"symbols are {list(names)}; {drawn.n_assets} assets need one each")
        self.symbols = tuple(names)
        self.trader, self.generator, self.n_bars, self.seed = trader, generator, n_bars, seed
        self.perturb, self.spare, self.ruin = perturb, spare, ruin
        self.lanes = default_lanes(trader, total) if lanes is None else lanes
        self.points = np.unique(np.linspace(0, n_bars, min(points, n_bars) + 1).round().astype(int)[1:])
        self.devices = tuple(jax.devices() if devices is None else devices)
        free = zero_prices(trader.data["costs"]) if perturb is None else ()
        fixed = (trader._replace(data=None), generator.draw, perturb, n_bars, spare, ruin, self.points, free)
        unit = partial(_unit, *fixed)
        on_cpu = self.devices[0].platform == "cpu"
        self._program = jax.jit(unit, compiler_options=CPU_OPTIONS if on_cpu else None)
        self._threads = concurrent.futures.ThreadPoolExecutor(len(self.devices))
        self._data = [jax.device_put((generator.data, trader.data), device) for device in self.devices]

    def compute(self, units: Sequence[int]) -> Any:
        """Starts the computation of up to one unit per device; see `fetch`."""
        return [found[:2] for found in self._start(units, 0)]

    def fetch(self, started: Any, units: Sequence[int]) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        """Path numbers `[n]`, figures `[n]` each, and equity curves `[n, points]` of what `compute` started."""
        figures, curves = jax.tree.map(lambda *parts: np.concatenate(parts), *jax.device_get(started))
        return self._paths(units), figures, curves

    def replay(self, path: int) -> Replay:
        """One path alone, with its market and its ledger.

        Raises:
          ValueError: a number that no path has.
        """
        if not 0 <= path < NUMBERS:
            raise ValueError(f"path is {path}; paths are numbered from 0 to {NUMBERS - 1}")
        unit, lane = divmod(int(path), self.lanes)
        figures, curves, (first, capital, lines, dead, market) = jax.device_get(self._start([unit], lane)[0])
        ledger = jax.tree.map(np.asarray, whole_ledger(capital, lines, dead))
        market = market.replace(info=MarketInfo(self.symbols))
        own = {name: x[lane].item() for name, x in figures.items()}
        return Replay(int(path), market, int(first), ledger, own, curves[lane])

    def numbers(self, units: Sequence[int], n_paths: int) -> np.ndarray:
        """`[n]` numbers, below `n_paths`, of the paths of some units."""
        found = self._paths(units)
        return found[found < n_paths]

    def _paths(self, units: Sequence[int]) -> np.ndarray:
        return (np.asarray(units, np.int64)[:, None] * self.lanes + np.arange(self.lanes)).ravel()

    def _start(self, units: Sequence[int], lane: int) -> list[Any]:
        """`_unit` of one unit per device. From a thread each, so that their programs are compiled side by side."""

        def one(unit: int, data: Any, device: jax.Device) -> Any:
            ids = self._paths([unit]).astype(np.uint32)
            return self._program(*data, *jax.device_put((np.uint32(self.seed), ids, np.int32(lane)), device))

        return list(self._threads.map(one, units, self._data, self.devices))


def default_lanes(trader: Trader, n_bars: int) -> int:
    """Lanes of a unit: a power of two, by the size of a market of `n_bars` bars and what the trader says."""
    on_cpu = jax.default_backend() == "cpu"
    lanes, elements = (CPU_MOST_LANES, CPU_UNIT_ELEMENTS) if on_cpu else (MOST_LANES, UNIT_ELEMENTS)
    most = min(lanes, trader.lanes or lanes, max(elements // (n_bars * trader.env.n_assets), 1))
    return 2 ** int(np.log2(most))


def _unit(
    trader: Trader,
    draw: Callable[[Any, jax.Array], MarketData],
    perturb: Perturbation | None,
    n_bars: int,
    spare: int,
    ruin: float,
    points: np.ndarray,
    free: tuple[str, ...],
    generator_data: Any,
    data: Any,
    seed: jax.Array,
    ids: jax.Array,
    lane: jax.Array,
) -> Any:
    """Figures `[L]`, curves `[L, points]` and the record of `lane` `[]` of L paths `ids`."""
    base = jax.random.key(seed)

    def one(number: jax.Array) -> tuple[Drawn, MarketData]:
        key = jax.random.fold_in(base, number)
        market = draw(generator_data, jax.random.fold_in(key, MARKET_STREAM))
        params = trader.params(data, market).replace(first_bar=jnp.int32(trader.history))
        if perturb is not None:
            params = perturb(jax.random.fold_in(key, PERTURBATION_STREAM), params)
            latest = trader.history + spare
            params = params.replace(first_bar=jnp.clip(params.first_bar, trader.history, latest).astype(jnp.int32))
        return drawn(trader, data, params, n_bars), params.market

    paths, market = draw_paths(one, ids, lane, trader.at_once)
    traded = trade(trader, data, paths, n_bars, lane, own_costs=perturb is not None, free=free)
    capital = traded.figures.capital
    record = (paths.first[lane], capital[lane], traded.lines, traded.dead[lane], market)
    return traded.figures.figures(trader.periods, ruin), (traded.curve[points - 1] / capital[None]).T, record
