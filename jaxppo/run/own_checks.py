"""A user's own code tried on the first bars of a market, before anything is compiled: shapes, numbers, look-ahead."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.config import Config
from jaxppo.config.items import OWN
from jaxppo.config.own import is_own, own_names
from jaxppo.envs.execution.bars import pack_bars, unpack_bar
from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.execution.limits import Limits
from jaxppo.envs.execution.portfolio import Portfolio, open_portfolio
from jaxppo.envs.market.market_data import MarketData, no_column, slice_bars
from jaxppo.envs.market.own_functions import FunctionGroup
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.transform import Transform
from jaxppo.envs.trading.types import Outcome
from jaxppo.envs.trading.view import MarketView
from jaxppo.errors import ConfigError
from jaxppo.own_code import find, said, type_shown
from jaxppo.policy.protocol import Observed, Policy, Targets
from jaxppo.risk.objectives import EpisodeUtility
from jaxppo.run.environment import costs_of
from jaxppo.run.objectives import make_utility
from jaxppo.run.own import network_of, own_policies, part_of
from jaxppo.run.regimes import find_regimes
from jaxppo.testing import LooksAhead, check_network, check_table

TRIED = 1024
"""First bars of the market that own code is tried on."""
AFTER = 256
"""And at least so many after the first decision."""
ROUNDING = 1e-3
"""By which a sum of probabilities may miss 1."""

_passed: set[Any] = set()
"""What was tried before in this process."""


def check_own_code(config: Config, env: TradingEnv, view: MarketView) -> None:
    """Refuses own code that fails, returns something else than it should, or looks ahead.

    Args:
      config: of the run.
      env: its environment.
      view: of its market.

    Raises:
      ConfigError: names the function and what is wrong with it.
    """
    names = dict(own_names(config))
    if not names:
        return
    n_bars = min(view.market.n_bars, max(TRIED, env.first_decision + AFTER))
    regimes = None if view.regimes is None else view.regimes[:n_bars]
    market = slice_bars(view.market, 0, n_bars)
    tried = _Tried(env, MarketView(market, view.periods, view.position_limit, regimes))
    codes = [find(name, key) for key, name in names.items()]
    # The function too: in a notebook, or by `register`, another one may have the same name and file.
    done = (config.model_dump_json(), market.close.shape, *((id(code.function), code.sha256) for code in codes))
    if done in _passed:
        return
    for group in config.features.function_groups:
        tried.feature(f"features.functions.{group.name} {names[f'features.functions.{group.name}']}", group)
    for key, items, chain, kind in (
        ("masks", config.masks, env.masks, tried.mask),
        ("sizing", config.sizing, env.sizing, tried.sizing),
        ("rewards", config.rewards, env.rewards, tried.reward),
    ):
        for number, item in enumerate(items):
            if item.kind == OWN:
                kind(f"{key}[{number}] {item.label}", part_of(chain, item))
    if is_own(config.regimes.kind):
        tried.regimes(f"regimes.kind {config.regimes.kind}", config)
    if config.costs.function is not None:
        tried.costs(f"costs.function {config.costs.function}", costs_of(config, market))
    if is_own(config.objective.kind):
        tried.objective(f"objective.kind {config.objective.kind}", make_utility(config.objective))
    for label, policy in own_policies(config).items():
        tried.policy(label, policy)
    if is_own(config.policy.kind):
        _check_network(config)
    _check_replaced(config, env)
    _passed.add(done)


def _check_network(config: Config) -> None:
    """A ConfigError if an own network looks ahead, or depends on other bars than those of its context."""
    label, width = f"policy.kind {config.policy.kind}", config.policy.width
    network = network_of(config, "float32")
    assert network is not None
    try:
        _called(label, lambda: check_network(network, width, label, jax.random.key(0), steps=config.ppo.chunk))
    except LooksAhead as error:
        raise ConfigError(str(error)) from None


def _check_replaced(config: Config, env: TradingEnv) -> None:
    """A ConfigError if an own reward replaces the one that `env.risk_aversion` shapes."""
    first = config.rewards[0] if config.rewards else None
    if first is None or first.kind != OWN or env.rewards is None or not env.rewards.parts[0].replaces:
        return
    if config.env.risk_aversion != 1.0:
        raise ConfigError(
            f"env.risk_aversion is {config.env.risk_aversion:g}, but rewards[0] {first.label} replaces the reward that "
            "it shapes; leave it at 1"
        )


class _Tried:
    """Own code on a market, each kind as the environment calls it.

    Args:
      env: of the run.
      view: of the first bars of its market.
    """

    def __init__(self, env: TradingEnv, view: MarketView):
        self._env, self._view = env, view
        market = view.market
        self._first = min(env.first_decision, market.n_bars - 1)
        self._portfolio: Portfolio = open_portfolio(market.mark(self._first), 1e6, env.fill_rule)

    def feature(self, label: str, group: FunctionGroup) -> None:
        """A function of the market."""

        @jax.jit
        def computed(market: MarketData) -> Any:
            found = group.values(market)
            return found[0] if group.names is None else dict(zip(group.names, found, strict=True))

        def table(view: MarketView) -> Any:
            return computed(view.market)

        found = _called(label, lambda: table(self._view), self._view.market)
        for path, values in jax.tree_util.tree_leaves_with_path(found):
            if not np.isfinite(values).any():
                where = f"{label}{jax.tree_util.keystr(path)}"
                raise ConfigError(f"{where} has no number in the first {len(values)} bars")
        self._causal(label, table)

    def mask(self, label: str, part: Transform) -> None:
        """A mask: its table, the limits of every row, its state."""
        n_assets = self._env.n_assets

        def limits(row: Any) -> Any:
            return part.apply(part.init(n_assets), row, self._portfolio)

        found = self._rows(label, part, limits)
        if not isinstance(found, Limits):
            raise ConfigError(f"{label}: apply returns {type_shown(found)}; jaxppo.masks.Limits are expected")
        sides = {name: np.asarray(getattr(found, name)) for name in ("low", "high", "forced_low", "forced_high")}
        for name, side in sides.items():
            self._shaped(f"{label}: {name} of its limits", side)
        wrong = ~((sides["low"] <= 0) & (sides["high"] >= 0))
        if wrong.any():
            row, asset = np.argwhere(wrong)[0]
            low, high = (sides[name][row, asset] for name in ("low", "high"))
            raise ConfigError(
                f"{label}: at bar {self._first + row} it limits asset {asset} to [{low:g}, {high:g}]; the range must "
                "contain 0"
            )

    def sizing(self, label: str, part: Transform) -> None:
        """A sizing transform: its table, the sizes of targets of the position limit, its state."""
        n_assets, limit = self._env.n_assets, self._env.position_limit

        def sizes(row: Any) -> Any:
            return part.apply(part.init(n_assets), row, self._portfolio, jnp.full(n_assets, limit, jnp.float32))

        found = np.asarray(self._rows(label, part, sizes))
        self._shaped(f"{label}: what apply returns", found)
        self._known(label, found)

    def reward(self, label: str, part: Transform) -> None:
        """A reward: that of a bar in which nothing happened, its state."""
        zero = jnp.zeros(())
        base = () if self._env.base is None else zero
        nothing = Outcome(zero, zero, zero, zero, zero, zero, zero, zero, base)
        n_assets = self._env.n_assets
        found = self._rows(label, part, lambda row: part.apply(part.init(n_assets), zero, nothing), table=False)
        found = np.asarray(found)
        if found.shape != (1,) or found.dtype.kind != "f":
            raise ConfigError(f"{label}: apply returns {found.dtype}{list(found.shape[1:])}; a number is expected")
        if not np.isfinite(found).all():
            raise ConfigError(f"{label}: the reward of a bar in which nothing happened is {found[0]:g}")

    def regimes(self, label: str, config: Config) -> None:
        """A function that gives the probabilities of regimes."""

        @jax.jit
        def computed(market: MarketData) -> jax.Array:
            found, _ = find_regimes(config.regimes, market, market.n_bars - 1, config.seed)
            assert found is not None
            return found

        market = self._view.market
        found = np.asarray(_called(label, lambda: computed(market), market))[self._first :]
        wrong = ~((found >= 0).all(axis=-1) & (np.abs(found.sum(axis=-1) - 1) < ROUNDING))
        if wrong.any():
            row, asset = np.argwhere(wrong)[0]
            shown = ", ".join(f"{x:g}" for x in found[row, asset])
            raise ConfigError(
                f"{label}: at bar {self._first + row} its probabilities of asset {asset} are {shown}; they must be "
                ">= 0 and sum to 1"
            )
        self._causal(label, lambda view: computed(view.market))

    def costs(self, label: str, costs: Costs) -> None:
        """A function of fills: what purchases and sales of a unit of cash cost at every bar."""
        market = self._view.market
        table = pack_bars(
            market,
            conditions=costs.conditions,
            regimes=self._view.regimes,
            ranges=self._env.fill_rule.ranges,
        )[self._first :]

        def paid(row: jax.Array, sign: float) -> jax.Array:
            bar = unpack_bar(row)
            return costs.own(sign / bar.open, bar.open, bar)

        for sign in (1.0, -1.0):
            each = jax.jit(jax.vmap(partial(paid, sign=sign)))
            found = np.asarray(_called(label, partial(each, table)))
            self._shaped(f"{label}: what it returns", found)
            wrong = ~(np.isfinite(found) & (found >= 0))
            if wrong.any():
                row, asset = np.argwhere(wrong)[0]
                raise ConfigError(
                    f"{label}: at bar {self._first + row} a fill of {sign:g} of asset {asset} costs "
                    f"{found[row, asset]:g}; it must be >= 0, currency"
                )

    def objective(self, label: str, made: EpisodeUtility) -> None:
        """A utility of the return of an episode."""
        returns = jnp.linspace(-0.5, 0.5, 11)
        found = np.asarray(_called(label, lambda: jax.jit(made.utility)(returns, jnp.zeros(()))))
        if found.shape != returns.shape or found.dtype.kind != "f" or not np.isfinite(found).all():
            raise ConfigError(
                f"{label}: the utilities of {list(returns.shape)} returns within +-50 % are {found.dtype}"
                f"{list(found.shape)}, of which {int(np.isfinite(found.astype(float)).sum())} are numbers"
            )

    def policy(self, label: str, policy: Policy) -> None:
        """A policy: its table, and its targets at every row."""

        def table(view: MarketView) -> Any:
            return policy.table(policy.params, view)

        def targets(row: Any) -> Any:
            state = policy.init(self._env.n_assets)
            return policy.apply(policy.params, state, Observed(self._portfolio, row))

        found = self._rows(label, Transform(policy.name, policy.apply, policy.init, table), targets)
        if not isinstance(found, Targets):
            raise ConfigError(f"{label}: apply returns {type_shown(found)}; jaxppo.Targets are expected")
        weights, hold = np.asarray(found.weights), np.asarray(found.hold)
        self._shaped(f"{label}: weights of its targets", weights)
        self._shaped(f"{label}: hold of its targets", hold, "b")
        self._known(label, np.where(hold, 0.0, weights))

    def _rows(self, label: str, part: Transform, apply: Callable[[Any], Any], table: bool = True) -> Any:
        """What `apply` makes of every row from the first decision on, from the first state; checks table and state."""
        n_bars = self._view.market.n_bars
        market = self._view.market
        rows = _called(label, lambda: jax.tree.map(jnp.asarray, part.table(self._view)), market) if table else ()
        for leaf in jax.tree.leaves(rows):
            if leaf.ndim == 0 or len(leaf) != n_bars:
                raise ConfigError(
                    f"{label}: its table has the shape {list(leaf.shape)}; a leading axis of T bars is expected"
                )
        known = jax.tree.map(lambda x: x[self._first :], rows)
        if not jax.tree.leaves(known):
            known = None
        found = _called(label, lambda: jax.jit(jax.vmap(lambda row, _: apply(rows if known is None else row)))(
            known, jnp.zeros(n_bars - self._first if table else 1)
        ))  # fmt: skip
        if not isinstance(found, tuple) or len(found) != 2:
            raise ConfigError(f"{label}: apply returns {type_shown(found)}; a pair of value and state is expected")
        init, next_ = part.init(self._env.n_assets), jax.tree.map(lambda x: x[0], found[1])
        before, after = (f"{_shapes(state)} in {jax.tree.structure(state)}" for state in (init, next_))
        if before != after:
            raise ConfigError(f"{label}: apply returns a state of {after}, but init one of {before}")
        if table:
            self._causal(label, part.table)
        return found[0]

    def _causal(self, label: str, table: Callable[[MarketView], Any]) -> None:
        try:
            _called(label, lambda: check_table(table, self._view, label, key=jax.random.key(0), moves=False))
        except LooksAhead as error:
            raise ConfigError(str(error)) from None

    def _shaped(self, what: str, found: np.ndarray, kinds: str = "f") -> None:
        n_assets = self._env.n_assets
        if found.shape[1:] != (n_assets,) or found.dtype.kind not in kinds:
            expected = "numbers" if kinds == "f" else "bool"
            raise ConfigError(
                f"{what} is {found.dtype}{list(found.shape[1:])}; [A] = [{n_assets}] {expected} are expected"
            )

    def _known(self, label: str, found: np.ndarray) -> None:
        if not np.isfinite(found).all():
            row, asset = np.argwhere(~np.isfinite(found))[0]
            raise ConfigError(f"{label}: at bar {self._first + row} its size of asset {asset} is {found[row, asset]:g}")


def _shapes(tree: Any) -> str:
    """The arrays of a pytree, such as `float32[3], int32[]`."""
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(tree)]
    return ", ".join(f"{x.dtype}{list(x.shape)}" for x in leaves) or "nothing"


def column_not_there(error: BaseException, market: MarketData) -> str | None:
    """What to say of an error that reading a column raised which the market does not have; None of any other.

    Args:
      error: as it was caught.
      market: that was read.
    """
    has = {} if isinstance(market.columns, tuple) else market.columns
    if isinstance(error, KeyError) and error.args and error.args[0] not in has and has:
        return no_column(str(error.args[0]), market)
    if isinstance(error, TypeError) and not has and "tuple indices must be integers or slices, not str" in str(error):
        return no_column(None, market)
    return None


def _called(label: str, function: Callable[[], Any], market: MarketData | None = None) -> Any:
    """Calls own code; a ConfigError for whatever it raises, but for what is one and what `check_table` found."""
    try:
        return function()
    except (LooksAhead, ConfigError):
        raise
    except jax.errors.JAXTypeError as error:
        raise ConfigError(f"{label} cannot be compiled; it must be written in jax.numpy: {said(error)}") from error
    except (Exception, SystemExit) as error:
        absent = None if market is None else column_not_there(error, market)
        raise ConfigError(f"{label}: {absent or said(error)}") from error
