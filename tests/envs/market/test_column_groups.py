"""Feature groups of a user's own columns: against pandas, never ahead of the close at which a value is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from causality import assert_causal

from jaxppo.envs import simulators
from jaxppo.envs.market import features
from jaxppo.envs.market.own_columns import ColumnGroup

N_BARS, N_ASSETS, WINDOW = 160, 4, 24


def market_of(seed=0):
    """A third of the bars of asset 1 is missing, asset 2 is listed at bar 40; a tenth of the values is unknown."""
    rng = np.random.default_rng(seed)
    there = rng.random((N_BARS, N_ASSETS)) < [1.0, 0.66, 1.0, 1.0]
    there[:40, 2] = False
    values = np.where(rng.random(there.shape) < 0.9, rng.normal(2.0, 3.0, there.shape), np.nan)
    market = simulators.gbm(jax.random.key(seed), N_BARS, N_ASSETS)
    return market.replace(tradable=jnp.asarray(there), columns={"score": jnp.asarray(values, jnp.float32)})


def table_of(market, **keys):
    group = ColumnGroup("news", ("score",), **keys)
    found = features.compute_features(
        market, groups=("price",), columns=(group,), normalisation_window=WINDOW, unknown=np.nan
    )
    place = features.group_slices(("price",), (group,))["news"]
    assert features.feature_names(("price",), (group,))[place] == ("news.score",)
    return np.asarray(found[..., place])[..., 0]


def own(market, asset):
    """Rows of an asset's own bars, and its column there."""
    rows = np.flatnonzero(np.asarray(market.tradable[:, asset]))
    return rows, pd.Series(np.asarray(market.columns["score"], np.float64)[rows, asset])


@pytest.mark.parametrize("lag", [0, 3])
def test_z_scores_are_those_of_pandas_over_own_bars(lag):
    market = market_of()
    table = table_of(market, lag=lag)
    for asset in range(N_ASSETS):
        rows, values = own(market, asset)
        values = values.shift(lag)
        known = values.dropna()
        average = known.ewm(span=WINDOW)
        score = ((known - average.mean()) / average.std(bias=True)).clip(-5, 5)
        score[np.arange(len(known)) < WINDOW // 4 - 1] = np.nan
        np.testing.assert_allclose(table[rows, asset], score.reindex(values.index), rtol=2e-4, atol=2e-4)


def test_scales_keep_their_mean_and_plain_values_are_clipped():
    market = market_of()
    scale, plain = table_of(market, normalise="scale"), table_of(market, normalise="none")
    for asset in range(N_ASSETS):
        rows, values = own(market, asset)
        known = values.dropna()
        size = np.sqrt((known**2).ewm(span=WINDOW).mean())
        expected = (known / size).clip(-5, 5)
        expected[np.arange(len(known)) < WINDOW // 4 - 1] = np.nan
        np.testing.assert_allclose(scale[rows, asset], expected.reindex(values.index), rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(plain[rows, asset], values.clip(-5, 5), rtol=1e-6)


def test_ranks_are_among_the_assets_whose_value_is_known():
    market = market_of()
    table = table_of(market, normalise="rank")
    held = pd.DataFrame(np.asarray(market.columns["score"])).where(np.asarray(market.tradable))
    for asset in range(N_ASSETS):  # a bar without a value forgets it, no bar at all holds it
        rows, values = own(market, asset)
        latest = np.searchsorted(rows, np.arange(N_BARS), side="right") - 1
        held[asset] = np.where(latest >= 0, values.to_numpy()[np.maximum(latest, 0)], np.nan)
    ranks, number = held.rank(axis=1), held.notna().sum(axis=1)
    expected = (2 * (ranks.sub(1)).div((number - 1).clip(lower=1), axis=0) - 1).where(held.notna())
    expected[(number == 1)] = expected[(number == 1)].where(expected.isna(), 0.0)
    np.testing.assert_allclose(table, expected, atol=1e-6)


@pytest.mark.parametrize("keys", [{"lag": 2}, {"normalise": "rank"}, {"normalise": "scale"}])
def test_nothing_of_them_looks_ahead(keys):
    assert_causal(lambda market: table_of(market, **keys), market_of(), 90, jax.random.key(0))


def test_a_column_that_is_not_there_is_named():
    group = ColumnGroup("news", ("mood",))
    with pytest.raises(ValueError, match="feature group 'news' reads the column 'mood'; it has score"):
        features.compute_features(market_of(), columns=(group,))
    with pytest.raises(ValueError, match="'price' of your own has the name of another group"):
        features.feature_names(("price",), (ColumnGroup("price", ("score",)),))
