"""Whoever decides in a backtest, as pure functions: trained agents, rules, and arrays of targets or orders.

A trader carries everything that is needed to trade any market of its number of assets: tables of its masks and sizing
are computed from the market it is given, so that a resampled market changes what it sees as well as what it earns.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxppo.backtest.account import Rule
from jaxppo.backtest.run import SavedRun
from jaxppo.backtest.simulate import decide_without_randomness
from jaxppo.config import Config
from jaxppo.envs.execution.costs import Costs, make_costs
from jaxppo.envs.execution.limits import Constraint
from jaxppo.envs.execution.portfolio import FillRule, Portfolio
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams, Observation
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy.networks.encoder import Bars
from jaxppo.policy.rules import Strategy
from jaxppo.risk.monitor import UNWATCHED, Monitor
from jaxppo.run.regimes import find_regimes

RULE_AT_ONCE, AGENT_AT_ONCE = 8, 1
"""Paths whose markets are prepared together on a CPU, so that the working set fits its cache."""
AGENT_BLOCK = 500
"""Bars of one encoder pass, which has the context before them to read again."""
AGENT_LANES = 64
"""Paths that an agent trades side by side; what it reads of each takes megabytes."""


class Trader(NamedTuple):
    """A policy on any market, as pure functions; static but for `data`.

    Attributes:
      name: for tables and messages.
      identity: digest of every setting that shapes what it does, with `data` all that tells it from another trader.
      env: fill rule, action space, masks, sizing.
      warmup: earliest bar at which it can decide.
      history: bars before its first decision on a drawn market, >= `warmup`: what it reads is formed on them.
      periods: bars per year, for annual figures.
      data: pytree of arrays: its costs under `costs`, and whatever the functions below read.
      params: `(data, market) -> EnvParams` with every table.
      table: `(data, params) -> pytree` with leading axis T: what the rule reads of one market, row t from bars <= t.
      read: `params -> pytree`: what `ready` needs of them.
      ready: `(data, read [C], first [C], n) -> pytree [C, n, ...]`: what it reads of `n` bars of C markets, computed
        block by block; None for nothing.
      init: `() -> state` of the rule at the start.
      decide: `data -> Rule`; its rows are `(row of table, row of ready)`.
      block: most bars of one call of `ready`.
      lanes: most paths side by side; None for as many as the size of a market suggests.
      at_once: paths whose markets are prepared together on a CPU.
      limited: whether masks, sizing and the monitor's stops apply.
      in_shares: whether it decides on orders in shares instead of target weights.
      monitor: watched limits.
    """

    name: str
    identity: str
    env: TradingEnv
    warmup: int
    history: int
    periods: float
    data: Any
    params: Callable[[Any, MarketData], EnvParams]
    table: Callable[[Any, EnvParams], Any]
    read: Callable[[EnvParams], Any]
    ready: Callable[[Any, Any, jax.Array, int], Any] | None
    init: Callable[[], Any]
    decide: Callable[[Any], Rule]
    block: int
    lanes: int | None
    at_once: int
    limited: bool
    in_shares: bool
    monitor: Monitor


def agent(run: SavedRun, *, name: str | None = None) -> Trader:
    """The agent of a run without its randomness, under its masks, sizing, costs and watched limits.

    On another market it sees what it would have seen there: features, and regimes by the model fitted in training.

    Args:
      run: from `jaxppo.backtest.load_run`.
      name: default: that of the run's folder.
    """
    setup = run.setup
    env, config, policy = setup.env, setup.config, run.policy
    dtype = setup.encoder.dtype
    on_cpu = setup.devices[0].platform == "cpu"

    def params(data: Any, market: MarketData) -> EnvParams:
        regimes, _ = find_regimes(config.regimes, market, market.n_bars - 1, config.seed)
        view = MarketView(market, setup.periods_per_year, env.position_limit, regimes)
        return env.make_params(
            market,
            data["costs"],
            initial_cash=config.env.initial_cash,
            feature_dtype=dtype,
            masks=() if env.masks is None else env.masks.table(view),
            sizing=() if env.sizing is None else env.sizing.table(view),
            regimes=regimes,
        )

    def ready(data: Any, read: Bars, first: jax.Array, n_bars: int) -> jax.Array:
        n_paths = first.shape[0]
        at_once = math.gcd(AGENT_AT_ONCE, n_paths) if on_cpu else n_paths
        start, length = first - policy.context + 1, policy.context - 1 + n_bars

        def some(xs: tuple[Bars, jax.Array]) -> jax.Array:
            whole, start = xs
            cut = jax.vmap(lambda x, bar: jax.lax.dynamic_slice_in_dim(x, bar, length))
            return policy.encode(data["net"], jax.tree.map(lambda x: cut(x, start), whole))

        pieces = jax.tree.map(lambda x: x.reshape(-1, at_once, *x.shape[1:]), (read, start))
        prepared = jax.lax.map(some, pieces)
        return prepared.reshape(-1, *prepared.shape[2:])

    def decide(data: Any) -> Rule:
        def rule(
            state: tuple[()], portfolio: Portfolio, seen: Observation, row: Any, constraint: Constraint | None
        ) -> tuple[jax.Array, jax.Array, tuple[()]]:
            weights, hold = decide_without_randomness(
                policy, env, data["net"], portfolio, seen, row[1], constraint, config.evaluation.decision
            )
            return weights, hold, state

        return rule

    return Trader(
        name=run.folder.resolve().name if name is None else name,
        identity=_config_identity(config),
        env=env,
        warmup=env.first_decision,
        history=max(env.first_decision, env.window + _longest_window(config)),
        periods=setup.periods_per_year,
        data={"costs": setup.params.costs, "net": run.params},
        params=params,
        table=lambda data, params: (),
        read=lambda params: Bars(params.features, params.listed, params.market.seconds_since_previous),
        ready=ready,
        init=tuple,
        decide=decide,
        block=AGENT_BLOCK,
        lanes=AGENT_LANES,
        at_once=AGENT_AT_ONCE,
        limited=True,
        in_shares=False,
        monitor=setup.monitor,
    )


def _longest_window(config: Config) -> int:
    """Bars that regimes, Kelly sizes and the rules of a book look back; 0 without them."""
    regimes, windows = config.regimes, [0]
    if regimes.kind == "rules":
        windows += [regimes.trend_window, regimes.volatility_window, regimes.drawdown_window]
    elif regimes.kind == "hmm":
        windows.append(regimes.usual_volatility_span)
    for item in config.sizing:
        if item.kind == "kelly":
            windows.append(item.kelly.window)
        for strategy in item.book.strategies if item.kind == "book" else ():
            windows += [strategy.trend.lookback] if strategy.kind == "trend" else []
    return max(windows)


def _config_identity(config: Config) -> str:
    """Of a configuration, as far as it shapes decisions and fills: where it runs and its bootstrap do not."""
    tree = config.model_dump(mode="json")
    del tree["device"], tree["training"]["devices"]
    del tree["evaluation"]["bootstrap_resamples"], tree["evaluation"]["level"]
    return _hashed(tree)


def _hashed(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def rule(
    strategy: Strategy,
    n_assets: int,
    *,
    periods: float,
    costs: Costs | None = None,
    fill_rule: FillRule = FillRule(),
    initial_cash: float = 1e6,
    warmup: int = 63,
) -> Trader:
    """A rule of `jaxppo.book` with an account of its own, without masks.

    Args:
      strategy: the rule.
      n_assets: A.
      periods: bars per year.
      costs: default: the market's half-spread and nothing else.
      fill_rule: latency, carry and fill price.
      initial_cash: currency, > 0.
      warmup: bars before the first decision, on which it forms what it needs; >= 0.

    Raises:
      ValueError: an argument outside its range, or a strategy of objects that cannot be told from others.
    """
    from jaxppo.monte_carlo.identity import function_name  # the package of paths imports this file

    def table(data: Any, params: EnvParams) -> Any:
        return strategy.table(MarketView(params.market, periods, 1.0))

    def decide(data: Any) -> Rule:
        def decided(
            state: Any, portfolio: Portfolio, seen: Observation, row: Any, constraint: None
        ) -> tuple[jax.Array, jax.Array, Any]:
            return strategy.decide(state, row[0], portfolio)

        return decided

    given = {"periods": periods, "costs": costs, "fill_rule": fill_rule, "initial_cash": initial_cash}
    options = [function_name(function) for function in (strategy.table, strategy.init, strategy.decide)]
    plain = _plain(strategy.name, n_assets, warmup, {}, options, **given)
    return plain._replace(table=table, init=lambda: strategy.init(n_assets), decide=decide)


def array(
    values: jax.Array,
    *,
    periods: float,
    in_shares: bool = False,
    name: str = "array",
    costs: Costs | None = None,
    fill_rule: FillRule = FillRule(),
    initial_cash: float = 1e6,
    warmup: int = 0,
) -> Trader:
    """Decisions that were made before: row t is given at the close of bar t of whatever market.

    Args:
      values: `[T, A]` target weights, fractions of equity, or orders; NaN leaves an asset alone. T is at least
        the number of bars of the market.
      periods: bars per year.
      in_shares: `values` are orders in shares, signed, which fill as far as volume and leverage allow.
      name: for tables.
      costs: see `rule`.
      fill_rule: see `rule`.
      initial_cash: see `rule`.
      warmup: first row that counts.

    Raises:
      ValueError: an argument outside its range.
    """
    values = jnp.asarray(values, jnp.float32)
    if values.ndim != 2:
        raise ValueError(f"decisions have the shape {values.shape}; expected [bars, assets]")

    def table(data: Any, params: EnvParams) -> jax.Array:
        n_bars = params.market.n_bars
        if data["values"].shape[0] < n_bars - 1:
            raise ValueError(f"decisions for {data['values'].shape[0]} bars; the market has {n_bars}")
        return data["values"][:n_bars]

    def decide(data: Any) -> Rule:
        def decided(
            state: tuple[()], portfolio: Portfolio, seen: Observation, row: Any, constraint: None
        ) -> tuple[jax.Array, jax.Array, tuple[()]]:
            hold = jnp.isnan(row[0])
            return jnp.where(hold, 0.0, row[0]), hold, state

        return decided

    given = {"periods": periods, "costs": costs, "fill_rule": fill_rule, "initial_cash": initial_cash}
    plain = _plain(name, values.shape[1], warmup, {"values": values}, ["in_shares", in_shares], **given)
    return plain._replace(table=table, decide=decide, in_shares=in_shares)


def _plain(
    name: str,
    n_assets: int,
    warmup: int,
    data: dict[str, Any],
    options: list[Any],
    *,
    periods: float,
    costs: Costs | None,
    fill_rule: FillRule,
    initial_cash: float,
) -> Trader:
    """A trader without masks that never trades; see `rule`. `options` are what else tells it from others."""
    if warmup < 0 or not periods > 0 or not initial_cash > 0:
        raise ValueError(f"warmup ({warmup}) must be >= 0, periods ({periods}) and initial_cash ({initial_cash}) > 0")
    env = TradingEnv(
        n_assets=n_assets,
        observation="index",
        position_limit=1.0,
        window=1,
        fill_rule=fill_rule,
        groups=("calendar",),
        normalisation_window=2,
    )

    def params(data: Any, market: MarketData) -> EnvParams:
        return env.make_params(market, data["costs"], initial_cash=initial_cash)

    def hold(data: Any) -> Rule:
        return lambda state, portfolio, seen, row, constraint: (
            jnp.zeros_like(portfolio.shares),
            jnp.ones(portfolio.shares.shape, bool),
            state,
        )

    return Trader(
        name=name,
        identity=_hashed([repr(fill_rule), float(initial_cash), warmup, *options]),
        env=env,
        warmup=warmup,
        history=warmup,
        periods=periods,
        data={**data, "costs": make_costs() if costs is None else costs},
        params=params,
        table=lambda data, params: (),
        read=lambda params: (),
        ready=None,
        init=tuple,
        decide=hold,
        block=0,
        lanes=None,
        at_once=RULE_AT_ONCE,
        limited=False,
        in_shares=False,
        monitor=UNWATCHED,
    )
