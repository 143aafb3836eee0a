"""Columns of funding, dividends and splits: what becomes of them, and how mistakes in them are said."""

import numpy as np
import pandas as pd
import pytest
from price_tables import refusal, same

from jaxppo.envs.data.load import format_report, load_market

NAMES = {"funding": "rate", "dividends": "paid", "splits": "ratio"}


def table(n=60, **columns) -> pd.DataFrame:
    """Prices as traded of one asset: a split of 4 in row 30, dividends in rows 10 and 40, funding in every third."""
    rng = np.random.default_rng(0)
    whole = 50 * np.exp(np.cumsum(rng.normal(0, 0.01, n)))
    opened, ratio, paid = whole * np.exp(rng.normal(0, 0.003, n)), np.ones(n), np.full(n, np.nan)
    ratio[30], paid[[10, 40]] = 4.0, [0.4, 0.1]
    shares = np.cumprod(ratio)
    prices = {"open": opened, "close": whole, "high": np.maximum(opened, whole), "low": np.minimum(opened, whole)}
    frame = pd.DataFrame({"time": pd.bdate_range("2020-01-01", periods=n), "symbol": "ABC"})
    frame = frame.assign(**{name: values / shares for name, values in prices.items()}, volume=1e6 * shares)
    rate = np.where(np.arange(n) % 3 == 0, 1e-4, np.nan)
    return frame.assign(ratio=ratio, paid=paid, rate=rate).astype({"ratio": object}).assign(**columns)


def test_splits_become_shares_of_the_first_bar_and_dividends_follow():
    frame = table()
    market = load_market(frame, **NAMES)
    shares = np.where(np.arange(60) < 30, 1.0, 4.0)
    np.testing.assert_allclose(market.mark(slice(None))[:, 0], frame["close"] * shares, rtol=1e-6)
    np.testing.assert_allclose(market.volume[:, 0], 1e6, rtol=1e-6)
    np.testing.assert_allclose(market.dividends.amount[[10, 40], 0], [0.4, 0.4], rtol=1e-6)
    assert np.count_nonzero(market.dividends.amount) == 2
    np.testing.assert_allclose(market.funding[:6, 0], [1e-4, 0, 0, 1e-4, 0, 0])
    report = format_report(market.info.report)
    assert "funding paid, bars: ABC 20" in report
    assert "splits paid, bars: ABC 1" in report
    assert market.info.report["payments"]["splits"]["ABC"] == {"bars": 1, "product": 4.0}


def test_rates_and_multipliers_convert_dividends_with_the_open():
    frame = table(fx=np.linspace(1.0, 2.0, 60))
    market = load_market(frame, **NAMES, rate_column="fx", multiplier=10.0)
    expected = [0.4 * 10 * frame["fx"][10], 0.1 * 4 * 10 * frame["fx"][40]]
    np.testing.assert_allclose(market.dividends.amount[[10, 40], 0], expected, rtol=1e-6)


def test_columns_that_nobody_names_pay_nothing():
    frame = table().drop(columns="ratio").iloc[:30]
    plain = load_market(frame.drop(columns=["paid", "rate"]))
    market = load_market(frame)
    assert market.funding == ()
    assert market.dividends == ()
    assert same(market, plain)
    assert any("rate" in line for line in market.info.report["warnings"])
    assert not any("rate" in line for line in load_market(frame, **NAMES | {"splits": None}).info.report["warnings"])


def test_nothing_before_a_split_or_a_dividend_changes_when_it_comes():
    frame = table()
    early, late = (load_market(part, **NAMES) for part in (frame.iloc[:25], frame))
    for name in ("open", "close", "volume", "half_spread", "funding"):
        np.testing.assert_array_equal(getattr(early, name), getattr(late, name)[:25], err_msg=name)


BAD = {
    "negative dividend": ({"paid": -1.0}, "dividends='paid' is '-1.0'; it must be an amount per share of at least 0"),
    "dividend beyond the price": ({"paid": 60.0}, "dividends='paid' is 60, and the close before"),
    "negative split": ({"ratio": -2.0}, "splits='ratio' is '-2.0'; it must be new shares per old one"),
    "split as text": ({"ratio": "4:1"}, "splits='ratio' is '4:1'"),
    "funding in per cent": ({"rate": 0.5}, "funding='rate' is '0.5'; it must be a fraction of up to 0.2"),
    "funding as text": ({"rate": "n/a?"}, "funding='rate' is 'n/a?'"),
    "infinite": ({"paid": np.inf}, "dividends='paid' is 'inf'"),
}


@pytest.mark.parametrize(("cell", "line"), BAD.values(), ids=BAD)
def test_bad_cells_are_refused(cell, line):
    frame = table().astype(dict.fromkeys(cell, object))
    (name, value), *_ = cell.items()
    frame.loc[20, name] = value
    said = refusal(frame, **NAMES)
    assert line in said
    assert "ABC, row 20" in said
    assert refusal(frame, **NAMES, on_bad_rows="drop") == said, "payments are never left out"


def test_prices_that_are_adjusted_already_are_refused():
    frame = table()
    ratio = np.where(np.arange(60) < 30, 1.0, 4.0)
    whole = frame.assign(**{name: frame[name] * ratio for name in ("open", "high", "low", "close")})
    assert "prices are adjusted for it already" in refusal(whole, splits="ratio")
    assert "adjusted by adj_close; pass adjust=False" in refusal(
        whole.assign(adj_close=whole["close"]), dividends="paid"
    )
    assert "dividends='divs' is no column of it" in refusal(frame, dividends="divs")
    assert "funding=3 must be the name of a column" in refusal(frame, funding=3)


def test_rates_that_are_carried_forward_are_asked_about():
    frame = table().drop(columns=["ratio", "paid"]).iloc[:30].assign(rate=0.02)
    said = load_market(frame, funding="rate").info.report["warnings"]
    assert any("rate sums up to" in line and "repeated in bars" in line for line in said)
