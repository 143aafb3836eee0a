"""Results that rest on estimated half-spreads say so."""

import numpy as np
import pandas as pd
import pytest

from jaxppo import envs
from jaxppo.backtest import simulate

N_BARS = 300


def prices(drift, **columns):
    rng = np.random.default_rng(0)
    close = 40 * np.exp(np.cumsum(drift + 0.001 * rng.standard_normal(N_BARS)))
    days = pd.bdate_range("2020-01-01", periods=N_BARS)
    table = {"date": days, "open": close, "high": close * 1.001, "low": close * 0.999, "close": close, "volume": 1e7}
    return pd.DataFrame({**table, **columns})


def notes_of(table, target=1.0, **options):
    """Of an account that is in on even bars and out on odd ones."""
    market = envs.load_market(table, **options)
    targets = np.where(np.arange(N_BARS)[:, None] % 2 == 0, target, 0.0)
    result = simulate(targets, market, costs=envs.basic_costs())
    spent = float(result.costs["spread"].sum()) / 1e6
    gain = float(result.equity["equity"].iloc[-1] / 1e6 - 1)
    return [line for line in result.warnings if "half-spreads" in line], spent, gain


def test_a_result_that_the_estimate_decides_says_so():
    (note,), spent, gain = notes_of(prices(4e-4))
    assert gain + 2 / 3 * spent > 0 > gain - 2 * spent
    assert "estimated by invariance" in note
    assert f"{gain + 2 / 3 * spent:+.1%} with a third" in note
    assert f"{gain - 2 * spent:+.1%} with three times" in note


@pytest.mark.parametrize(
    ("table", "options"),
    [
        (prices(0.02), {}),
        (prices(-0.02), {}),
        (prices(4e-4), {"spread": "fixed", "half_spread": 2e-4}),
        (prices(4e-4).assign(bid=lambda x: x.close * 0.9998, ask=lambda x: x.close * 1.0002), {}),
    ],
    ids=["gains in any case", "loses in any case", "given", "quoted"],
)
def test_no_other_result_does(table, options):
    assert notes_of(table, **options)[0] == []
