"""The public check of own code: what looks ahead is named, what does not passes, and what shows nothing says so."""

import jax
import jax.numpy as jnp
import numpy as np
import own_parts
import pytest

from jaxppo import masks, rules
from jaxppo.envs.market.check import check_market
from jaxppo.envs.market.windows import rolling_mean, shift
from jaxppo.policy.protocol import Policy
from jaxppo.risk.sizing import SizingTransform
from jaxppo.testing import LooksAhead, check_causal, random_market


def test_the_random_market_is_one_with_gaps():
    market = random_market(jax.random.key(1), columns=("mood",))
    check_market(market)
    there = np.asarray(market.tradable)
    assert 0.85 < there[:, :2].mean() < 0.95
    assert not there[:40, 2].any()
    assert there[40:, 2].any()
    gone = ~there[1:] & (there.cumsum(axis=0)[1:] > 0)
    np.testing.assert_array_equal(np.asarray(market.close)[1:][gone], np.asarray(market.close)[:-1][gone])
    np.testing.assert_array_equal(np.isnan(market.columns["mood"]), ~there)


@pytest.mark.parametrize(
    ("own", "given"),
    [
        ("own_parts:slope", {"options": {"span": 3}}),
        (own_parts.pair, {}),
        (own_parts.by_range, {}),
        ("own_parts:calm_only", {"kind": "mask", "options": {"level": 0.03}}),
        (masks.no_short, {"kind": "mask"}),
        (masks.regime({"crisis": (0.0, 0.5)}), {}),
        ("own_parts:half_equal", {"kind": "policy"}),
        ("own_parts:calm_only", {"options": {"level": 0.03}}),
        (rules.trend(lookback=20), {}),
        ("own_parts:shrunk", {"kind": "sizing"}),
    ],
    ids=["name", "function", "of volume", "mask", "factory", "transform", "policy", "guessed", "rule", "sizing"],
)
def test_what_is_causal_passes(own, given):
    check_causal(own, **given)


def next_bar(market):
    return jnp.concatenate([market.close[1:], market.close[-1:]]) / market.close


def last_digit(market):
    """A leak of a millionth."""
    return rolling_mean(market.close, 5) + 1e-6 * market.close.max()


def by_volume_of_next(view):
    return jnp.concatenate([view.market.volume[1:], view.market.volume[-1:]])


def by_regime_of_next(view):
    return jnp.concatenate([view.regimes[1:, :, 0], view.regimes[-1:, :, 0]])


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (next_bar, f"^{__name__}:next_bar looks ahead: at bar \\d+ its value of asset 0 changes from .* to"),
        (last_digit, f"^{__name__}:last_digit looks ahead: at bar"),
        ("own_parts:leak", "^own_parts:leak looks ahead: at bar 0 its value of asset 0"),
        (masks.market_only("m", by_volume_of_next, masks.box_limits), "^m looks ahead: at bar \\d+"),
        (masks.market_only("r", by_regime_of_next, masks.box_limits), "^r looks ahead: at bar \\d+"),
        (SizingTransform("s", None, table=by_volume_of_next), "^s looks ahead: at bar \\d+"),
        (
            Policy("p", None, table=lambda _, view: {"x": by_volume_of_next(view)}),
            r"^p\['x'\] looks ahead: at bar \d+ its value of asset 0",
        ),
        (lambda market: jnp.ones(market.close.shape), "changes any value, which shows nothing"),
        (lambda market: market.close[0], "has no leading axis of 512 bars"),
    ],
    ids=["next bar", "last digit", "by name", "mask", "regimes", "sizing", "policy", "constant", "one bar"],
)
def test_what_looks_ahead_is_named(own, message):
    with pytest.raises(LooksAhead, match=message):
        check_causal(own)


def test_a_leak_of_one_bar_is_found_after_the_bar_that_is_given():
    market = random_market(jax.random.key(2), 100, 2)
    with pytest.raises(AssertionError, match="looks ahead: at bar 60 "):
        check_causal(next_bar, market=market, bars=[60])
    check_causal(lambda market: shift(market.close, 1) / market.close, market=market, bars=[60])


def test_a_factory_of_another_kind_is_a_mistake_of_the_call():
    with pytest.raises(TypeError, match="own_parts:half_equal returns a Policy, which is no mask"):
        check_causal("own_parts:half_equal", kind="mask")
    with pytest.raises(ValueError, match="kind is 'base'; allowed: 'feature', 'mask', 'sizing', 'policy'"):
        check_causal("own_parts:half_equal", kind="base")
    with pytest.raises(
        TypeError, match="own_parts:cubed returns an EpisodeUtility, which is no mask, sizing or policy"
    ):
        check_causal("own_parts:cubed")
    with pytest.raises(LooksAhead, match="<lambda> looks ahead: at bar 0"):
        check_causal(lambda: Policy("ahead", masks.no_short().apply, table=lambda _, view: view.market.close[::-1]))
