"""Many market paths at once: draws them, trades them side by side, and keeps figures instead of series.

Path p is drawn from `fold_in(key(seed), p)` and from nothing else. Paths are computed in batches of a fixed size L,
batch b holding paths `b L .. (b + 1) L - 1`, by one program that is compiled for one device. A part or a shard of a job
computes whole batches, on as many devices as there are. So the numbers of a path depend neither on how many others
there are nor on where they are computed, and a path that is replayed goes through the program that computed it, bit for
bit. (A program that is sharded over a mesh rounds differently on one device and on two.)
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from jaxppo.backtest.conditions import Conditions, refuse_weights_as_tilts
from jaxppo.backtest.ledger import Ledger, whole_ledger
from jaxppo.envs.execution.costs import Costs, zero_prices
from jaxppo.envs.market.kernels import traced_for
from jaxppo.envs.market.market_data import MarketData, MarketInfo
from jaxppo.envs.simulators.generators import Generator
from jaxppo.envs.trading.types import EnvParams
from jaxppo.monte_carlo.trade import PreparedMarket, prepare_batch, prepare_market, trade
from jaxppo.policy.protocol import Policy
from jaxppo.run.given_code import check_given, is_own

MARKET_STREAM, PERTURBATION_STREAM = 0, 1
"""What is folded into the key of a path: its market, and what the perturbation draws."""
MOST_PATHS, MOST_ELEMENTS = 1024, 2**22
"""Paths of a batch, and its bars x assets x paths, at most: half a gigabyte while its markets are prepared."""
CPU_MOST_PATHS, CPU_MOST_ELEMENTS = 256, 2**19
"""The same on a CPU: accounts that stay in its cache, and tables of 15 MB, which C's allocator keeps for the next batch
instead of having the system clear new pages."""
RULE_MICRO_BATCH, AGENT_MICRO_BATCH = 8, 1
"""Paths whose markets are prepared together on a CPU, so that the working set fits its cache."""
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
      market: `[T, A]` bars that were drawn, with the first decision at bar `first`.
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
    """A policy on random markets.

    Args:
      policy: who decides.
      conditions: what it trades under, see `jaxppo.backtest.conditions`.
      generator: draws markets of `history + n_bars + 1 + spare` bars, see `history_of`.
      n_bars: decisions on each path.
      seed: of all paths, in [0, 2^32). Two policies with the same seed and generator see the same markets, path by
        path, as far as their histories are equal.
      perturb: `(key, params) -> params` of one path, before it is traded: costs, tables, or `first_bar`, the bar of the
        first decision; consumes the key.
      spare: by how many bars a perturbation may delay `first_bar`, >= 0.
      ruin: share of the starting capital at or below which an account counts as ruined, in [0, 1).
      points: times at which the equity of every path is kept, evenly spaced, the last bar among them.
      batch_size: paths traded side by side; None decides by the size of a market.
      symbols: A names of the assets, for replays: what a generator draws has none. Default: numbers.
      devices: default: all.
      notes: what a reader of the figures must know of the policy, a sentence each.
      check: whether a policy of your own is tried for look-ahead on a drawn market, once, and a rule refused where its
        weights would be tilts around the base of a run.

    Raises:
      ConfigError: a policy of your own that looks ahead.
      ValueError: the generator does not fit the policy, or an argument is outside its range.
    """

    def __init__(
        self,
        policy: Policy,
        conditions: Conditions,
        generator: Generator,
        n_bars: int,
        *,
        seed: int = 0,
        perturb: Perturbation | None = None,
        spare: int = 0,
        ruin: float = 0.5,
        points: int = 100,
        batch_size: int | None = None,
        symbols: Sequence[str] | None = None,
        devices: Sequence[jax.Device] | None = None,
        notes: Sequence[str] = (),
        check: bool = True,
    ):
        if n_bars < 1 or points < 1 or spare < 0 or not 0 <= seed < NUMBERS or not 0 <= ruin < 1:
            raise ValueError(
                f"n_bars ({n_bars}) and points ({points}) must be >= 1, spare ({spare}) >= 0, seed ({seed}) from 0 to "
                f"{NUMBERS - 1}, ruin ({ruin}) in [0, 1)"
            )
        drawn = jax.eval_shape(generator.draw, generator.data, jax.random.key(0))
        history, n_assets = history_of(policy, conditions), conditions.rules.env.n_assets
        total = history + n_bars + 1 + spare
        if drawn.n_assets != n_assets or drawn.n_bars != total:
            raise ValueError(
                f"the generator draws {drawn.n_bars} bars of {drawn.n_assets} assets; {policy.name} with n_bars "
                f"{n_bars} and spare {spare} needs {total} bars of {n_assets}"
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be >= 1")
        names = [f"asset {number}" for number in range(drawn.n_assets)] if symbols is None else symbols
        if len(names) != drawn.n_assets:
            raise ValueError(f"symbols are {list(names)}; {drawn.n_assets} assets need one each")
        if check:
            refuse_weights_as_tilts(policy, conditions)
        if check and is_own(policy.table):
            market = jax.jit(generator.draw)(generator.data, jax.random.key(seed))
            check_given(policy, conditions.rules.env, market, conditions.rules.periods)
        self.symbols, self.notes = tuple(names), tuple(notes)
        self.policy, self.conditions, self.history = policy, conditions, history
        self.generator, self.n_bars, self.seed = generator, n_bars, seed
        self.perturb, self.spare, self.ruin = perturb, spare, ruin
        self.devices = tuple(jax.devices() if devices is None else devices)
        on_cpu = self.devices[0].platform == "cpu"
        self.batch_size = default_batch_size(policy, n_assets, total, on_cpu) if batch_size is None else batch_size
        self.points = np.unique(np.linspace(0, n_bars, min(points, n_bars) + 1).round().astype(int)[1:])
        free = zero_prices(conditions.costs) if perturb is None else ()
        without_costs: Any = conditions._replace(costs=())  # type: ignore[arg-type]  # they are an argument
        static = _Static(policy.without_params(), without_costs, generator.draw, perturb, n_bars, spare, ruin, free)
        program = traced_for(self.devices[0], partial(_batch, static, self.points))
        self._program = jax.jit(program, compiler_options=CPU_OPTIONS if on_cpu else None)
        self._threads = concurrent.futures.ThreadPoolExecutor(len(self.devices))

    @functools.cached_property
    def _data(self) -> list[Any]:
        """What every batch reads, on each device."""
        data = (self.generator.data, self.conditions.costs, self.policy.params)
        return [jax.device_put(data, device) for device in self.devices]

    def trace(self) -> jax.stages.Traced:
        """The program of a batch, traced for the first device, also for one that this machine does not have."""
        place = SingleDeviceSharding(self.devices[0])
        ids = self._paths([0]).astype(np.uint32)
        data = (self.generator.data, self.conditions.costs, self.policy.params)
        given = (*data, np.uint32(self.seed), ids, np.int32(0))
        return self._program.trace(
            *jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), jax.dtypes.result_type(x), sharding=place), given)
        )

    def compute(self, batches: Sequence[int]) -> Any:
        """Starts the computation of up to one batch per device; `fetch` gets what it computes."""
        return [found[:2] for found in self._start(batches, 0)]

    def fetch(self, started: Any, batches: Sequence[int]) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        """Path numbers `[n]`, figures `[n]` each, and equity curves `[n, points]` of what was started.

        Args:
          started: from `compute`.
          batches: its argument.
        """
        figures, curves = jax.tree.map(lambda *parts: np.concatenate(parts), *jax.device_get(started))
        return self._paths(batches), figures, curves

    def replay(self, path: int) -> Replay:
        """One path alone, with its market and its ledger.

        Raises:
          ValueError: a number that no path has.
        """
        if not 0 <= path < NUMBERS:
            raise ValueError(f"path is {path}; paths are numbered from 0 to {NUMBERS - 1}")
        batch, place = divmod(int(path), self.batch_size)
        figures, curves, (first, capital, lines, gone, market) = jax.device_get(self._start([batch], place)[0])
        ledger = jax.tree.map(np.asarray, whole_ledger(capital, lines, gone))
        market = market.replace(info=MarketInfo(self.symbols))
        of_path = {name: x[place].item() for name, x in figures.items()}
        return Replay(int(path), market, int(first), ledger, of_path, curves[place])

    def numbers(self, batches: Sequence[int], n_paths: int) -> np.ndarray:
        """Numbers `[n]` of the paths of some batches, of a job of `n_paths`.

        Args:
          batches: numbers of the batches.
          n_paths: of the job; the last batch may reach beyond it.
        """
        found = self._paths(batches)
        return found[found < n_paths]

    def _paths(self, batches: Sequence[int]) -> np.ndarray:
        return (np.asarray(batches, np.int64)[:, None] * self.batch_size + np.arange(self.batch_size)).ravel()

    def _start(self, batches: Sequence[int], recorded: int) -> list[Any]:
        """`_batch` of one batch per device. From a thread each, so that their programs are compiled side by side."""

        def one(batch: int, data: Any, device: jax.Device) -> Any:
            ids = self._paths([batch]).astype(np.uint32)
            return self._program(*data, *jax.device_put((np.uint32(self.seed), ids, np.int32(recorded)), device))

        return list(self._threads.map(one, batches, self._data, self.devices))


def history_of(policy: Policy, conditions: Conditions) -> int:
    """Bars of a drawn market before the first decision: all that policy, transforms and regimes need to be formed.

    Args:
      policy: who decides.
      conditions: what it trades under.
    """
    return max(policy.warmup, conditions.history)


def default_batch_size(policy: Policy, n_assets: int, n_bars: int, on_cpu: bool) -> int:
    """Paths traded side by side: a power of two, by the size of a market and what the policy says.

    Args:
      policy: who decides.
      n_assets: A.
      n_bars: of a drawn market.
      on_cpu: whether it runs on a CPU.
    """
    most, elements = (CPU_MOST_PATHS, CPU_MOST_ELEMENTS) if on_cpu else (MOST_PATHS, MOST_ELEMENTS)
    most = most if policy.encoding is None else min(most, policy.encoding.batch_size)
    return 2 ** int(np.log2(min(most, max(elements // (n_bars * n_assets), 1))))


class _Static(NamedTuple):
    """What the program of a batch is compiled for; see `Paths`."""

    policy: Policy
    conditions: Conditions
    draw: Callable[[Any, jax.Array], MarketData]
    perturb: Perturbation | None
    n_bars: int
    spare: int
    ruin: float
    free: tuple[str, ...]


def _batch(
    static: _Static,
    points: np.ndarray,
    generator_data: Any,
    costs: Costs,
    policy_params: Any,
    seed: jax.Array,
    ids: jax.Array,
    recorded: jax.Array,
) -> Any:
    """Figures `[L]`, curves `[L, points]` and the record of path `recorded` `[]` of the L paths `ids`."""
    base, n_bars, perturb = jax.random.key(seed), static.n_bars, static.perturb
    policy = static.policy._replace(params=policy_params)
    conditions = static.conditions._replace(costs=costs)
    earliest = history_of(policy, conditions)

    def one(number: jax.Array) -> tuple[PreparedMarket, MarketData]:
        key = jax.random.fold_in(base, number)
        market = static.draw(generator_data, jax.random.fold_in(key, MARKET_STREAM))
        params = conditions.prepare(costs, market).replace(first_bar=jnp.int32(earliest))
        if perturb is not None:
            params = perturb(jax.random.fold_in(key, PERTURBATION_STREAM), params)
            first = jnp.clip(params.first_bar, earliest, earliest + static.spare)
            params = params.replace(first_bar=first.astype(jnp.int32))
        return prepare_market(policy, conditions, params, n_bars), params.market

    micro_batch = RULE_MICRO_BATCH if policy.encoding is None else AGENT_MICRO_BATCH
    paths, market = prepare_batch(one, ids, recorded, micro_batch)
    traded = trade(policy, conditions, paths, n_bars, recorded, own_costs=perturb is not None, free=static.free)
    capital = traded.figures.capital
    record = (paths.first[recorded], capital[recorded], traded.lines, traded.liquidated[recorded], market)
    figures = traded.figures.figures(conditions.rules.periods, static.ruin)
    return figures, (traded.curve[points - 1] / capital[None]).T, record
