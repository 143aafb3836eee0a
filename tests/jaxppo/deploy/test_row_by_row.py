"""Tables computed row by row from a memory are the tables computed at once: nothing of them can have looked ahead."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import tiny_config

from jaxppo import masks
from jaxppo.deploy.streams import check_own_streams, check_row_by_row, row_by_row
from jaxppo.envs import simulators
from jaxppo.envs.execution import bars
from jaxppo.envs.execution.bars import pack_bars
from jaxppo.envs.execution.costs import make_costs
from jaxppo.envs.market import features
from jaxppo.envs.market.covariance import ewma_covariance
from jaxppo.envs.market.hidden_markov import HiddenMarkovModel
from jaxppo.envs.market.index import equal_weight_volatility, market_index
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.own_columns import ColumnGroup
from jaxppo.envs.market.regimes import hidden_regimes, rule_regimes
from jaxppo.envs.market.windows import rolling_mean
from jaxppo.envs.trading.view import MarketView
from jaxppo.errors import ConfigError
from jaxppo.policy import rules
from jaxppo.policy.protocol import Policy
from jaxppo.risk import sizing
from jaxppo.run.build import build

N_BARS, N_ASSETS, BARS_A_DAY = 200, 3, 7
PERIODS = 252.0 * BARS_A_DAY
SAME = 2e-7 if jax.default_backend() == "cpu" else 1e-3
"""Tolerance, relative and absolute: on a CPU the last digit, since a threshold may be passed in one form alone."""


def market_of(seed: int) -> MarketData:
    """Hourly bars: one asset is listed late and delisted, one misses a third of its bars, one has all but the first."""
    rng = np.random.default_rng(seed)
    market = simulators.gbm(jax.random.key(seed), N_BARS, N_ASSETS, volatility=0.3)
    there = rng.random((N_BARS, N_ASSETS)) < [1.0, 0.66, 1.0]
    there[:30, 0] = there[170:, 0] = there[0, 2] = False
    latest = np.maximum.accumulate(np.where(there, np.arange(N_BARS)[:, None], -1), axis=0)
    held = np.take_along_axis(np.asarray(market.close), np.maximum(latest, 0), axis=0)
    stale = np.where(latest < 0, 1.0, held)
    bar = np.arange(N_BARS)
    elapsed = np.where(bar % BARS_A_DAY == 0, 17.5 * 3600, 3600.0)
    elapsed[0] = 0.0
    as_float = functools.partial(jnp.asarray, dtype=jnp.float32)
    ended = np.zeros((N_BARS, N_ASSETS), bool)
    ended[169, 0] = True
    return market.replace(
        **{name: as_float(np.where(there, getattr(market, name), stale)) for name in ("open", "high", "low", "close")},
        volume=as_float(np.where(there, rng.lognormal(10, 1, there.shape), 0.0)),
        half_spread=as_float(rng.uniform(1e-5, 1e-3, there.shape)),
        tradable=jnp.asarray(there),
        volume_known=jnp.asarray([True, True, seed % 2 == 0]),
        minute_of_day=jnp.asarray(570 + 60 * (bar % BARS_A_DAY), jnp.int32),
        session=jnp.asarray(bar // BARS_A_DAY, jnp.int32),
        day_of_week=jnp.asarray(bar // BARS_A_DAY % 5, jnp.int32),
        seconds_since_previous=as_float(elapsed),
        ended=as_float(ended),
        carry=as_float(np.where(rng.random(there.shape) < 0.7, rng.normal(0, 0.1, there.shape), np.nan)),
        futures=jnp.asarray([0.0, 1.0, 0.0]),
        columns={
            "score": as_float(np.where(rng.random(there.shape) < 0.9, rng.normal(3, 1, there.shape), np.nan)),
            "size": as_float(rng.lognormal(0, 1, there.shape)),
        },
    )


def conditions():
    """Slippage that depends on everything that it can depend on."""
    return make_costs(
        slippage_open=2.0, slippage_close=1.5, slippage_volatility=0.5, slippage_volume=0.5, slippage_spread=0.5
    ).conditions


def of_market(market: MarketData):
    """Everything that is precomputed of prices."""
    model = HiddenMarkovModel(
        jnp.asarray([0.5, 0.3, 0.2]),
        jnp.asarray([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]),
        jnp.asarray([[0.1], [-0.1], [0.0]]),
        jnp.asarray([[0.5], [1.0], [4.0]]),
    )
    windows = {"trend_window": 20, "volatility_window": 50, "drawdown_window": 40, "crisis_drawdown": 0.02}
    regimes = rule_regimes(market, volatility_quantile=0.7, **windows)
    groups = (*features.GROUPS, "carry", "regime")
    own = (
        ColumnGroup("news", ("score", "size"), 2),
        ColumnGroup("place", ("score",), 1, "rank"),
        ColumnGroup("plain", ("size",), 0, "none"),
    )
    normalise = {"volume": "scale", "volatility": "none"}
    return {
        "features": features.compute_features(
            market,
            groups=groups,
            normalisation_window=48,
            normalise=normalise,
            columns=own,
            unknown=jnp.nan,
            regimes=regimes,
        ),
        "regimes": regimes,
        "regimes of the market": rule_regimes(market_index(market), **windows),
        "hidden regimes": hidden_regimes(model, market, 30),
        "covariance": 1e4 * ewma_covariance(market, 20),
        "volatility": 100 * equal_weight_volatility(market, 20),
    }


def view_of(market: MarketData) -> MarketView:
    return MarketView(market, PERIODS, 1.0, rule_regimes(market, trend_window=20, volatility_window=50))


def of_transforms(market: MarketData):
    """Tables of masks, sizing and rules."""
    view = view_of(market)
    transforms = (
        masks.no_short(),
        masks.regime({"crisis": (0.0, 0.5)}),
        masks.volatility_cap(0.3),
        masks.halt(move=0.02, bars=3),
        masks.risk_budget(volatility=0.2, span=20),
        masks.liquidity(spread=5e-4, participation=0.1),
        sizing.volatility_target(0.15, span=20),
        sizing.equal_risk_contribution(span=20),
        sizing.risk_units(0.2, span=20),
        sizing.kelly(window=30, every=7),
        sizing.drawdown_control(0.2, move=0.05, deviations=4.0, span=20),
        sizing.projection(weight=0.5),
    )
    policies = (
        rules.buy_and_hold(),
        rules.equal_weight(),
        rules.volatility_target(span=20),
        rules.trend(lookback=30, span=20),
        rules.mean_reversion(window=10, span=20),
        rules.inverse_volatility(span=20),
    )
    tables = {part.name: part.table(view) for part in transforms}
    return tables | {f"rule {one.name}": one.table(one.params, view) for one in policies}


def same(found, expected, tolerance: float, listed=None):
    """Leaf by leaf, of listed assets: what is not a number in one is none in the other, as are infinities."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    paths, _ = jax.tree_util.tree_flatten_with_path(expected)
    for (path, table), rows in zip(paths, jax.tree.leaves(found), strict=True):
        rows, table = np.asarray(rows), np.asarray(table)
        if listed is not None and table.shape[1:] == (N_ASSETS,):
            rows, table = rows[listed], table[listed]
        np.testing.assert_allclose(rows, table, tolerance, tolerance, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_is_precomputed_of_prices(seed):
    market = market_of(seed)
    same(row_by_row(of_market, market), jax.jit(of_market)(market), SAME)


def of_coarse_bars(market: MarketData):
    """Features of coarser bars."""
    return features.compute_features(
        market,
        groups=("price", "cross_section"),
        normalisation_window=8,
        normalise={"price": "scale"},
        timeframes=("2h", "1w"),
        unknown=jnp.nan,
    )


@pytest.mark.slow
def test_features_of_coarser_bars():
    market = market_of(0)
    whole = np.asarray(of_coarse_bars(market))
    same(row_by_row(of_coarse_bars, market), whole, SAME)
    names = features.feature_names(("price", "cross_section"), (), ("2h", "1w"))
    for timeframe in ("2h", "1w"):
        assert np.isfinite(whole[-1, 2, names.index(f"return_1@{timeframe}")])


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_tables_of_masks_sizing_and_rules(seed):
    market = market_of(seed)
    listed = np.cumsum(market.tradable, axis=0) > 0
    same(row_by_row(of_transforms, market), of_transforms(market), SAME, listed)


def test_packed_bars_and_what_is_known_of_the_next():
    market = market_of(0)
    whole = np.asarray(pack_bars(market, conditions=conditions()))
    rows = row_by_row(lambda market: pack_bars(market, conditions=conditions()), market)
    known = (market.session > 0) & (market.session < market.session[-1])  # sessions as long as the one before
    np.testing.assert_allclose(rows[known], whole[known], 1e-4, 1e-7)
    ahead = row_by_row(lambda market: pack_bars(market, conditions=conditions(), ahead=True), market)
    forecasts = [bars.BAR_FIELDS.index(name) for name in ("half_spread", "volatility", "average_volume")]
    listed = np.broadcast_to((np.cumsum(market.tradable, axis=0) > 0)[:-1, None], (N_BARS - 1, 3, N_ASSETS))
    np.testing.assert_allclose(ahead[:-1, forecasts][listed], whole[1:, forecasts][listed], 1e-4)
    scale, last = len(bars.BAR_FIELDS), np.arange(N_BARS) % BARS_A_DAY == BARS_A_DAY - 1
    inner = np.asarray(known)[:-1] & ~last[1:]
    np.testing.assert_allclose(ahead[:-1, scale][inner], whole[1:, scale][inner], 1e-4)


def test_what_a_stream_does_not_know_of_fails():
    """A running total of its own sees a table of one row: the comparison with the whole table tells."""
    market = market_of(0)
    total = row_by_row(lambda market: jnp.cumsum(market.close, axis=0), market)
    with pytest.raises(AssertionError):
        same(total, jnp.cumsum(market.close, axis=0), 1e-3)


def cumulative() -> Policy:
    """Weights from a running total that a stream does not know of."""

    def targets(view: MarketView) -> jax.Array:
        return jnp.sign(jnp.cumsum(view.market.close - 1.0, axis=0)) / N_ASSETS

    return rules.rule("cumulative", targets)


def averaged() -> Policy:
    """Weights from an average that a stream knows."""

    def targets(view: MarketView) -> jax.Array:
        return jnp.tanh(rolling_mean(view.market.close, 20) / view.market.close - 1.0) / N_ASSETS

    return rules.rule("averaged", targets)


@pytest.mark.parametrize("policy", [averaged(), cumulative()], ids=lambda policy: policy.name)
def test_a_table_that_is_another_one_bar_by_bar_is_named(policy):
    def table(market):
        return policy.table(policy.params, MarketView(market, PERIODS, 1.0))

    refused = contextlib.nullcontext()
    if policy.name == "cumulative":
        refused = pytest.raises(ConfigError, match=r"policy.base mine:it: at bar \d+ its table is another one")
    with refused:
        check_row_by_row("policy.base mine:it", table, market_of(0), 40)


def test_own_code_of_every_kind_is_checked_before_it_trades_live():
    fine = {"features": {"groups": ["price"], "normalisation_window": 20, "functions": {"pair": {
        "function": "own_parts:pair", "names": ["move", "range"]}}}, "masks": ["own_parts:calm_only"],
        "sizing": ["own_parts:shrunk"], "env": {"actions": "continuous", "levels": [-1, 1]},
        "policy": {"kind": "linear", "base": "own_parts:half_equal"}}  # fmt: skip
    check_own_streams(build(tiny_config(**fine), market_of(0)))
    total = {"features": {**fine["features"], "functions": {"total": "own_parts:total"}}}
    with pytest.raises(ConfigError, match=r"features.functions.total own_parts:total: at bar \d+ its table"):
        check_own_streams(build(tiny_config(**total), market_of(0)))
