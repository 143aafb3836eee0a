"""Drawdowns in summary and report against ffn and scipy; regimes behind a figure."""

import json

import ffn
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import scipy.stats
from report_pages import Page, example, page_of

from jaxppo.envs.market.features import REGIMES
from jaxppo.report import drawdowns as drawdown_report
from jaxppo.report import figures
from jaxppo.report.regime_bands import add_bands, drawn_regimes
from jaxppo.statistics import drawdowns

NO_TIMES = np.empty(0, "datetime64[ns]")


def walk(n: int, seed: int) -> np.ndarray:
    return 100.0 * np.exp(np.r_[0.0, np.cumsum(np.random.default_rng(seed).normal(0.0005, 0.01, n))])


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_the_deepest_of_ffn(seed: int) -> None:
    prices = pd.Series(walk(700, seed), index=pd.bdate_range("2018-01-01", periods=701))
    times, regimes = prices.index.to_numpy(), np.random.default_rng(seed).integers(-1, 4, 701)
    rows = drawdown_report.drawdown_rows(prices.to_numpy(), times, regimes)
    theirs = ffn.core.drawdown_details(ffn.core.to_drawdown_series(prices))
    theirs = theirs.assign(depth=-theirs["drawdown"].astype(float)).nlargest(10, "depth")
    assert json.loads(json.dumps(rows)) == rows
    assert len(rows) == 10
    np.testing.assert_allclose([row["depth"] for row in rows], theirs["depth"], rtol=1e-12)
    for row, start, end in zip(rows, theirs["Start"], theirs["End"], strict=True):
        peak = prices.index.get_loc(start) - 1
        trough = prices.iloc[peak : prices.index.get_loc(end) + 1].argmin() + peak
        assert (row["peak"], row["trough"]) == tuple(str(times[point])[:19] for point in (peak, trough))
        assert row["bars_to_trough"] == trough - peak
        for point, name in ((peak, "regime_at_peak"), (trough, "regime_at_trough")):
            assert row[name] == (None if regimes[point] < 0 else REGIMES[regimes[point]])
        if row["recovered"]:
            assert row["recovery"] == end.strftime("%Y-%m-%dT%H:%M:%S")
            assert row["bars"] == row["bars_to_trough"] + row["bars_to_recover"] == prices.index.get_loc(end) - peak
        else:
            assert row["recovery"] is row["bars_to_recover"] is None
            assert row["bars"] == 700 - peak


def test_what_is_over_does_not_change_with_what_comes_later() -> None:
    equity, regimes = walk(600, 4), np.zeros(601, int)
    later = np.r_[equity[:400], equity[400:] * 0.3]
    before, after = (drawdown_report.drawdown_rows(x, NO_TIMES, regimes, deepest=99) for x in (equity, later))
    over = [row for row in before if row["recovered"] and row["recovery"] < 400]
    assert len(over) > 10
    assert all(row in after for row in over)
    numbered = drawdown_report.drawdown_rows(equity, NO_TIMES, regimes, first=1000, deepest=1)
    assert numbered[0]["peak"] == before[0]["peak"] + 1000


def test_curves_of_recovery_are_scipys() -> None:
    equity = walk(3000, 2)
    regimes = np.where(np.arange(3001) < 1500, 0, np.where(np.arange(3001) < 2990, 2, 1))
    curves = drawdown_report.recovery_curves(equity, regimes, level=0.9)
    assert list(curves) == ["all", "deeper than 1 %", "bull", "sideways"], "too few in a bear market"
    table = drawdowns.table(equity)
    chosen = {
        "all": table,
        "deeper than 1 %": table[table["depth"] > 0.01],
        "bull": table[table["peak"] < 1500],
        "sideways": table[(table["peak"] >= 1500) & (table["peak"] < 2990)],
    }
    for name, own in chosen.items():
        over = own["recovered"].to_numpy()
        bars = own["bars"].to_numpy(float)
        theirs = scipy.stats.ecdf(scipy.stats.CensoredData(uncensored=bars[over], right=bars[~over])).sf
        np.testing.assert_array_equal(curves[name].bars, theirs.quantiles)
        np.testing.assert_allclose(curves[name].unrecovered, theirs.probabilities, rtol=1e-12)
    figure, caption = drawdown_report.recovery_figure(curves, 0.9)
    lines = {trace.name: trace for trace in figure.data if trace.name}
    assert list(lines) == [f"{name} ({curve.n_drawdowns:,})" for name, curve in curves.items()]
    np.testing.assert_array_equal(lines[f"all ({len(table)})"].y[1:], curves["all"].unrecovered)
    ticks = [list(trace.x) for trace in figure.data if trace.mode == "markers"]
    assert ticks == [[own["bars"].iloc[-1]] if not own["recovered"].iloc[-1] else [] for own in chosen.values()]
    assert "90 % interval" in caption


def test_the_report_says_what_is_not_recovered() -> None:
    equity = np.r_[walk(800, 1), 60.0]
    times = np.datetime64("2020-01-01T09:30", "s") + np.arange(802) * np.timedelta64(3600, "s")
    page = Page(drawdown_report.section(equity, times, np.full(802, -1), 0.95))
    assert page.open == []
    begin = page.cells.index("not recovered")
    first = drawdown_report.drawdown_rows(equity, times, np.full(802, -1))[0]
    assert page.cells[begin - 2] == first["peak"].replace("T", " ").removesuffix(":00")
    assert page.cells[begin + 1 : begin + 4] == [f"{first['bars_to_trough']}", "-", f"{first['bars']} so far"]
    assert "recovery" in page.identifiers
    assert "Regime at peak" not in page.cells, "no column without content"
    assert drawdown_report.section(np.arange(1.0, 5.0), NO_TIMES, np.zeros(4, int), 0.95) == ""
    few = Page(drawdown_report.section(np.array([1.0, 0.5, 2.0]), NO_TIMES, np.zeros(3, int), 0.95))
    assert "too few to tell" in few.visible
    assert "recovery" not in few.identifiers


def boxes(figure: go.Figure) -> dict[str, list[tuple[str, str]]]:
    """Regime -> begins and ends of its rectangles."""
    found = {}
    for shape in figure.layout.shapes:
        parts = [part.removesuffix("Z") for part in shape.path.split("M")[1:]]
        found[shape.name] = [(part.split(",")[0], part.split("H")[1].split("V")[0]) for part in parts]
    return found


def test_bands_are_the_stretches_of_each_regime() -> None:
    regimes = np.array([0, 0, -1, 2, 2, 2, 0, 3])
    times = np.datetime64("2020-01-01", "s") + np.arange(9) * np.timedelta64(86400, "s")
    figure, caption = figures.equity_figure(times, {"agent": np.arange(1.0, 10.0)}, np.r_[regimes, 1])
    day = "2020-01-0{}_00:00:00".format
    assert boxes(figure) == {
        "bull": [(day(1), day(3)), (day(7), day(8))],
        "sideways": [(day(4), day(7))],
        "crisis": [(day(8), day(9))],
    }, "the regime at the last mark decides nothing"
    assert "Shaded" in caption
    plain, caption = figures.equity_figure(times, {"agent": np.ones(9)}, np.full(9, -1))
    assert not plain.layout.shapes
    assert "Shaded" not in caption


def test_many_bars_stay_light() -> None:
    rng = np.random.default_rng(0)
    regimes = rng.integers(0, 4, 40_000)
    regimes[:4000] = np.where(rng.random(4000) < 0.7, 3, 0)
    drawn, size = drawn_regimes(regimes)
    assert size == 40
    counts = pd.DataFrame({"group": np.arange(40_000) // 40, "regime": regimes}).groupby("group")["regime"]
    np.testing.assert_array_equal(drawn[::40], counts.apply(lambda own: own.mode()[0]))
    assert (drawn[:4000] == 3).all()
    figure = go.Figure()
    caption = add_bands(figure, np.arange(40_001), regimes)
    assert len(figure.layout.shapes) == 4
    assert sum(len(own) for own in boxes(figure).values()) <= 1000
    assert len(figure.to_json()) < 100_000
    assert "most of every 40 bars" in caption
    few = np.repeat([0, 1, 2], [3, 4, 5])
    assert drawn_regimes(few)[1] == 1
    assert list(drawn_regimes(np.array([0, 1, 1, 0, 2]), 2)[0]) == [1, 1, 1, 0, 0], "of equals the first, ends cut"


def test_a_report_with_all_of_it_is_one_page() -> None:
    page = page_of(example(regimes=np.arange(61) % 4, by_regime={}))
    assert "Drawdowns and recovery" in page.visible.split("\n")
    assert "By regime" not in page.visible, "no section without content"
    assert page.scripts[1].count('"type":"path"') == 4
    with pytest.raises(ValueError, match="regimes has 60 points, not 61"):
        example(regimes=np.zeros(60, int))
