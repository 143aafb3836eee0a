"""Tests for a user's own code: nothing that it computes of a market may look ahead."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxppo.envs import simulators
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.regimes import NAMES
from jaxppo.envs.trading.transform import Transform
from jaxppo.envs.trading.view import MarketView
from jaxppo.own_code import Call, OwnCode, call_of, find, name_of, type_shown
from jaxppo.policy.networks.own import OwnNetwork, own_network
from jaxppo.policy.protocol import Policy

Kind = Literal["feature", "mask", "sizing", "policy", "network"]
REPLACEMENTS = 2
"""Independent random futures that are tried after every bar that is given."""
MORE_BARS = 16
"""Bars at random after which the market is drawn anew, beside its quarters."""
SHAPE_TRIED: dict[str, Any] = {"width": 16, "layers": 2, "heads": 2, "window": 8, "expansion": 2, "dtype": "float32"}
"""What an own network gets of `policy` where no configuration says so."""
STEPS = 9
"""Memories of a chunk of which an own network is tried, and of a chunk where no configuration says how long it is."""
SAME = 1e-3
"""Difference of two memories, in units of the largest one, that rounding explains."""
MISSING = 0.1
"""Share of the bars that assets of a random market miss."""
LATE = 40
"""Bars before its last asset is listed."""


class LooksAhead(AssertionError):
    """Code that looks ahead, or of which a check shows nothing."""


def check_causal(
    own: str | Callable[..., Any] | Transform | Policy,
    *,
    kind: Kind | None = None,
    options: Mapping[str, Any] | None = None,
    market: MarketData | None = None,
    bars: Sequence[int] | None = None,
    key: jax.Array | None = None,
) -> None:
    """Raises `LooksAhead` unless what code computes of a market up to a bar is the same, whatever comes later.

    After several bars everything of the market is drawn anew, unrelated to what was there, and what comes before is
    compared bit by bit: it is computed of the same numbers by the same operations, so that a difference in the last
    digit is a later bar that got in.

    Example:
      >>> from jaxppo.testing import check_causal
      >>> check_causal(lambda market: market.close / market.open - 1.0)
      >>> def relative(market):
      ...     return market.close / market.close.mean(axis=0, keepdims=True)
      >>> try:
      ...     check_causal(relative)
      ... except AssertionError as error:
      ...     print(str(error).partition(" its value")[0])
      jaxppo.testing:relative looks ahead: at bar 0

    Args:
      own: `module:function`, a function, or what a factory returns. A feature is a function of the market; the function
        of any other kind is a factory, whose table is tested. Rewards read the outcome of one bar: they have no table.
      kind: what a function is: `"feature"`, `"mask"`, `"sizing"`, `"policy"` or `"network"`, of `policy.kind`, which is
        tested on tokens instead of a market, see `check_network`. None takes a function with an argument that has no
        default for a feature, and another for a factory of what it returns.
      options: arguments of the function, by name.
      market: `[T, A]` bars; None takes a random one with gaps and a late listing, see `random_market`.
      bars: after which it is drawn anew, each within `[0, T - 2]`; None takes quarters of it, the last but one and
        16 at random.
      key: of all randomness, consumed; None takes that of seed 0.

    Raises:
      LooksAhead: names the function, the first bar and asset that change, and by how much; or a feature that no
        later bar changes at all, which shows nothing.
      ConfigError: a function that is not found, or does not take its options.
      ValueError: an unknown kind.
      TypeError: a factory of something else.
    """
    if kind is not None and kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}; allowed: {', '.join(map(repr, get_args(Kind)))}")
    kind = _kind_of(own, options or {}) if kind is None else kind
    key = jax.random.key(0) if key is None else key
    if kind == "network":
        _check_causal_network(own, options or {}, key)
        return
    key_market, key_regimes, key = jax.random.split(key, 3)
    market = random_market(key_market) if market is None else market
    view = MarketView(market, 252.0, 1.0, _random_regimes(key_regimes, market))
    label, table = _table_of(own, kind, options or {})
    check_table(table, view, label, bars=bars, key=key, moves=kind == "feature")


def _kind_of(own: Any, options: Mapping[str, Any]) -> Kind | None:
    """`"feature"` for a function that needs more than its options; None leaves it to what is returned."""
    if isinstance(own, Transform | Policy):
        return None
    function = find(own, "own").function if isinstance(own, str) else own
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.kind not in variadic and p.default is p.empty and p.name not in options
    ]
    return "feature" if needed else None


def _table_of(own: Any, kind: Kind | None, options: Mapping[str, Any]) -> tuple[str, Callable[[MarketView], Any]]:
    """Name of what is tested, and the function of a view that it is."""
    if isinstance(own, Transform):
        return own.name, own.table
    if isinstance(own, Policy):
        return own.name, lambda view: own.table(own.params, view)
    label = own if isinstance(own, str) else name_of(own)
    call = Call(own)
    if isinstance(own, str):
        call = call_of(find(own, "own"), "own", options, first=int(kind == "feature"))
        options = {}
    if kind == "feature":
        return label, lambda view: call(view.market, **options)
    made = call(**options)
    expected = {None: (Policy, Transform), "policy": (Policy,)}.get(kind, (Transform,))
    if not isinstance(made, expected):
        wanted = "no mask, sizing or policy; a feature is a function of the market" if kind is None else f"no {kind}"
        raise TypeError(f"{label} returns {type_shown(made)}, which is {wanted}")
    return label, _table_of(made, kind, {})[1]


def check_table(
    table: Callable[[MarketView], Any],
    view: MarketView,
    label: str,
    *,
    bars: Sequence[int] | None = None,
    key: jax.Array,
    moves: bool = True,
) -> None:
    """`check_causal` of a function of a view, on a market that is given.

    Args:
      table: `view -> pytree` with leading axis T.
      view: of the market.
      label: name of what is tested.
      bars: see `check_causal`.
      key: consumed.
      moves: whether a later bar has to change something.
    """
    n_bars, n_futures = view.market.n_bars, REPLACEMENTS
    if bars is None:
        n_futures = 1
        # What reads the next bar on some bars only is seen if the market is drawn anew after one of those.
        key, key_bars = jax.random.split(key)
        drawn = jax.random.randint(key_bars, (MORE_BARS,), n_bars // 8, n_bars - 1).tolist()
        bars = sorted({n_bars // 4, n_bars // 2, 3 * n_bars // 4, n_bars - 2, *drawn})
    expected = jax.tree.map(np.asarray, table(view))
    moved = False
    tried = ((bar, one) for bar in bars for one in jax.random.split(jax.random.fold_in(key, bar), n_futures))
    for bar, one in tried:
        changed = jax.tree.map(np.asarray, table(_view_after(view, bar, one)))
        for (path, before), after in zip(
            jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(changed), strict=True
        ):
            where = f"{label}{jax.tree_util.keystr(path)}"
            if not before.ndim or before.shape[0] != n_bars:
                raise LooksAhead(f"{where} has no leading axis of {n_bars} bars: {before.shape}")
            differs = (before != after) & ~((before != before) & (after != after))
            if differs[: bar + 1].any():
                raise LooksAhead(_found(where, before, after, differs))
            moved |= bool(differs.any())
    if moves and not moved:
        raise LooksAhead(f"{label}: no bar after {min(bars)} changes any value, which shows nothing")


def _check_causal_network(own: Any, options: Mapping[str, Any], key: jax.Array) -> None:
    """`check_causal` of a function that makes a network."""
    code = find(own, "own") if isinstance(own, str) else OwnCode(name_of(own), own, "", None, b"")
    check_network(own_network(code, "own", options, SHAPE_TRIED), SHAPE_TRIED["width"], code.name, key)


def check_network(network: OwnNetwork, width: int, label: str, key: jax.Array, *, steps: int = STEPS) -> None:
    """Raises `LooksAhead` unless each memory depends on the bars of its context alone, wherever in a chunk it stands.

    Parameters, tokens and listings are drawn at random. Other paths, which are of other times, and what comes after a
    bar are drawn anew, and the memories up to it are compared bit by bit; then each with what the network makes of its
    context alone, up to rounding.

    Args:
      network: with float32 parameters and results.
      width: D.
      label: name of what is tested.
      key: consumed.
      steps: memories of a chunk, >= 1, of which at most 9 are tried.
    """
    key_params, key_old, *keys = jax.random.split(key, 2 + STEPS)
    remembered = _with_random_parameters(network, key_params)
    n_bars = network.context - 1 + steps

    def bars(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_tokens, key_listed = jax.random.split(key)
        tokens = jax.random.normal(key_tokens, (2, n_bars, 3, width))
        return tokens, jax.random.bernoulli(key_listed, 0.8, tokens.shape[:-1])

    def changed(kept: np.ndarray, key: jax.Array) -> np.ndarray:
        """The memories where what is not kept, `[2, T]`, is drawn anew."""
        pairs = zip(given, bars(key), strict=True)
        return remembered(
            *(jnp.where(kept.reshape(*kept.shape, *(1,) * (old.ndim - 2)), old, new) for old, new in pairs)
        )

    given = bars(key_old)
    expected = remembered(*given)
    if not np.isfinite(expected).all():
        raise LooksAhead(f"{label}: of tokens that are all numbers it makes memories that are none")
    if (remembered(*bars(keys[0])) == expected).all():
        raise LooksAhead(f"{label}: no token changes any memory, which shows nothing")
    first_path = np.broadcast_to(np.arange(2)[:, None] == 0, (2, n_bars))
    if (changed(first_path, keys[0]) != expected)[0].any():
        raise LooksAhead(f"{label}: the memories of a path change as another one does, which is of other times")
    for step, one in zip(sorted(set(np.linspace(0, steps - 1, STEPS).astype(int).tolist())), keys, strict=False):
        last = network.context - 1 + step
        until = np.broadcast_to(np.arange(n_bars) <= last, (2, n_bars))
        if (changed(until, one) != expected)[:, : step + 1].any():
            raise LooksAhead(f"{label} looks ahead: a memory up to bar {last} of a chunk changes as later bars do")
        alone = remembered(*(x[:, step : last + 1] for x in given))[:, 0]
        apart = np.abs(alone - expected[:, step]).max() / max(np.abs(expected).max(), 1e-6)
        if apart > SAME:
            raise LooksAhead(
                f"{label}: memory {step} of a chunk differs by {apart:.2g} of the largest one from that of its context "
                f"of {network.context} bars alone; it may not depend on earlier bars, nor on where in the chunk it is"
            )


def _with_random_parameters(network: OwnNetwork, key: jax.Array) -> Callable[..., np.ndarray]:
    """What a network makes of tokens and listings; where layers start at 0, what they read would not be seen."""
    graph, params = nnx.split(network.make(rngs=nnx.Rngs(0)), nnx.Param)
    leaves, tree = jax.tree.flatten(nnx.to_pure_dict(params))
    keys = jax.random.split(key, len(leaves))
    drawn = [x + 0.3 * jax.random.normal(one, x.shape, x.dtype) for x, one in zip(leaves, keys, strict=True)]

    @jax.jit
    def remembered(params: Any, tokens: jax.Array, listed: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return nnx.merge(graph, params)(tokens, listed)

    params = jax.tree.unflatten(tree, drawn)
    return lambda tokens, listed: np.asarray(remembered(params, tokens, listed))


def _found(where: str, before: np.ndarray, after: np.ndarray, differs: np.ndarray) -> str:
    """What to say of the first value that looks ahead."""
    first = tuple(np.argwhere(differs)[0].tolist())
    asset = f" of asset {first[1]}" if len(first) > 1 else ""
    more = f" ({', '.join(map(str, first[2:]))})" if len(first) > 2 else ""
    return (
        f"{where} looks ahead: at bar {first[0]} its value{asset}{more} changes from {float(before[first]):g} to "
        f"{float(after[first]):g} as later bars do"
    )


def random_market(key: jax.Array, n_bars: int = 512, n_assets: int = 3, *, columns: Sequence[str] = ()) -> MarketData:
    """Draws a market with missing bars and a late listing.

    Args:
      key: consumed.
      n_bars: T, > 40.
      n_assets: A.
      columns: own columns, of independent normal numbers, which a tenth of the bars lack.

    Returns:
      `[T, A]` bars: those of a geometric Brownian motion, of which each asset misses a tenth and the last one the first
      40.
    """
    key_prices, key_gaps, *keys = jax.random.split(key, 2 + len(columns))
    market = simulators.gbm(key_prices, n_bars, n_assets)
    shape = market.close.shape
    there = np.array(jax.random.uniform(key_gaps, shape) > MISSING)
    there[:LATE, -1] = False
    latest = np.maximum.accumulate(np.where(there, np.arange(n_bars)[:, None], -1))

    def held(x: Any, start: float) -> jax.Array:
        last = np.take_along_axis(np.asarray(x), np.maximum(latest, 0), axis=0)
        return jnp.asarray(np.where(latest >= 0, last, start), jnp.float32)

    close, tradable = held(market.close, 1.0), jnp.asarray(there)
    prices = {name: jnp.where(tradable, getattr(market, name), close) for name in ("open", "high", "low")}
    draws = {name: jax.random.normal(one, shape) for name, one in zip(columns, keys, strict=True)}
    return market.replace(
        **prices,
        close=close,
        volume=jnp.where(tradable, market.volume, 0.0),
        half_spread=held(market.half_spread, 0.0),
        tradable=tradable,
        columns={name: jnp.where(tradable, x, jnp.nan) for name, x in draws.items()} or (),
    )


def _random_regimes(key: jax.Array, market: MarketData) -> jax.Array:
    """Probabilities of regimes, `[T, A, 4]`."""
    return jax.nn.softmax(2.0 * jax.random.normal(key, (*market.close.shape, len(NAMES))))


def _view_after(view: MarketView, bar: int, key: jax.Array) -> MarketView:
    """The view with market and regimes drawn anew after a bar."""
    key_market, key_regimes = jax.random.split(key)
    regimes = view.regimes
    if regimes is not None:
        regimes = _until(bar, regimes, _random_regimes(key_regimes, view.market))
    return MarketView(randomise_after(view.market, bar, key_market), view.periods, view.position_limit, regimes)


def _until(t: jax.Array | int, old: jax.Array, new: jax.Array) -> jax.Array:
    """The old array up to bar t, and the new one after it: `[T, ...]`."""
    kept = jnp.arange(old.shape[0]) <= t
    return jnp.where(kept.reshape(-1, *(1,) * (old.ndim - 1)), old, new.astype(old.dtype))


@jax.jit
def randomise_after(market: MarketData, t: jax.Array | int, key: jax.Array) -> MarketData:
    """The market with every field of every bar after t drawn anew, unrelated to what was there; bars <= t untouched.

    Args:
      market: `[T, A]` bars.
      t: last bar to keep, `0 <= t < T - 1`.
      key: consumed.
    """
    names = ("open", "high", "low", "spread", "volume", "tradable", "minute", "session", "weekday", "seconds", "level",
             "carry", "columns", "funding", "dividends")  # fmt: skip
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
    shape, bars = market.close.shape, market.close.shape[:1]
    level = 3 * jax.random.normal(keys["level"], shape)
    open_, close = jnp.exp(level), jnp.exp(level + 0.3 * jax.random.normal(keys["open"], shape))
    fresh: dict[str, Any] = {
        "open": open_,
        "close": close,
        "high": jnp.maximum(open_, close) * jnp.exp(jax.random.exponential(keys["high"], shape)),
        "low": jnp.minimum(open_, close) * jnp.exp(-jax.random.exponential(keys["low"], shape)),
        "volume": jnp.exp(5 + 5 * jax.random.normal(keys["volume"], shape)),
        "half_spread": 0.01 * jax.random.exponential(keys["spread"], shape),
        "tradable": jax.random.bernoulli(keys["tradable"], 0.7, shape),
        "minute_of_day": jax.random.randint(keys["minute"], bars, 0, 1440),
        "session": market.session[t] + jnp.cumsum(jax.random.randint(keys["session"], bars, 0, 3)),
        "day_of_week": jax.random.randint(keys["weekday"], bars, 0, 7),
        "seconds_since_previous": 1e5 * jax.random.exponential(keys["seconds"], bars),
    }
    if not isinstance(market.carry, tuple):
        fresh["carry"] = jax.random.normal(keys["carry"], shape)
    if not isinstance(market.funding, tuple):
        fresh["funding"] = 0.01 * jax.random.normal(keys["funding"], shape)
    if not isinstance(market.dividends, tuple):
        paid = jax.random.exponential(keys["dividends"], (2, *shape))
        fresh["dividends"] = market.dividends.replace(amount=paid[0], factor=1.0 + paid[1])
    if not isinstance(market.columns, tuple):
        of_columns = zip(sorted(market.columns), jax.random.split(keys["columns"], len(market.columns)), strict=True)
        fresh["columns"] = {name: jax.random.normal(one, shape) for name, one in of_columns}
    replaced = {
        name: jax.tree.map(functools.partial(_until, t), getattr(market, name), values)
        for name, values in fresh.items()
    }
    return market.replace(**replaced)
