"""Sections on months, assets, round trips, training and data; lines that would hide others."""

import dataclasses
import math

import numpy as np
import plotly.graph_objects as go
import pytest
from report_pages import HOSTILE, Page, earned, example, page_of, row

from jaxppo.report import data, figures, training
from jaxppo.report.overlaps import dash_covering_lines
from jaxppo.report.results import Selected, selected_of


def test_interest_on_cash_is_an_income() -> None:
    found = dataclasses.replace(earned(60, ("A",)), financing=-40.0)
    page = page_of(example(performance=found))
    assert row(page, "interest on cash less borrow fees and margin interest", 2) == ["40.00", "0.04 %"]


def test_when_and_with_what_the_agent_earned() -> None:
    symbols = ("<b>A", *(f"S{number}" for number in range(40)))
    page = page_of(example(performance=earned(60, symbols)))
    assert {"Returns by month", "Rolling Sharpe ratio", "Contribution by asset", "Trades"} <= set(page.headings)
    assert row(page, "2019", 13) == [*[""] * 11, "2.00 %", "2.00 %"]
    assert row(page, "2020", 13) == ["-1.00 %", "", "5.00 %", *[""] * 9, "3.95 %"]
    assert row(page, "<b>A") == ["900.00", "0.90 %", "10.00"]
    assert row(page, "11 others", 1) == [f"{sum(np.linspace(900.0, -300.0, 41)[15:-15]):,.2f}"]
    assert row(page, "borrow fees and margin interest", 2) == ["-25.00", "-0.03 %"]
    assert "not explained by fills" not in page.cells
    total = sum(np.linspace(900.0, -300.0, 41)) - 25.0
    assert row(page, "total") == [f"{total:,.0f}", f"{100 * total / 1e5:.2f} %", "435.00"]
    assert row(page, "borrow fees and margin interest")[2] == "25.00", "as the section Costs counts it"
    assert "29 round trips closed, 1 still open." in page.visible
    assert page.cells.count("open") == 1
    begin = page.cells.index("Of starting equity", page.cells.index("Side")) + 1
    assert page.cells[begin : begin + 7] == ["<b>A", "long", "2020-01-02", "2020-01-03", "1", "2,000.00", "2.00 %"]
    assert page.cells[begin + 19 * 7 + 5] == "-900.00", "the largest loss is the last of twenty"
    few = example(performance=earned(60, symbols[:2]))
    assert not {"others", "Returns by month"} & set(page_of(example()).headings)
    assert "others" not in page_of(few).visible


def test_a_single_month_and_an_account_that_never_traded_have_no_tables() -> None:
    found = earned()
    idle = found.__class__(
        **{**vars(found), "monthly": {"2020-01": 0.1}, "rolling": found.rolling * np.nan, "trips": found.trips[:0]}
    )
    page = page_of(example(performance=idle))
    assert not {"Returns by month", "Rolling Sharpe ratio", "Contribution by asset", "Trades"} & set(page.headings)


def test_training_curves_skip_what_is_missing_or_not_a_number() -> None:
    rows = [{"iteration": i, "env_steps": 10 * i, "loss": 1.0 / (1 + i), "note": "x", "done": True} for i in range(6)]
    rows[2] |= {"validation_total_return": 0.5, "sharpe": 0.5, "validation_sharpe": 0.4}
    rows[4] |= {"validation_total_return": 0.7, "sharpe": 0.9, "validation_sharpe": 0.6, "loss": math.nan}
    found, note = training.training_figures(rows, 0.95, Selected())
    assert list(found) == ["validation_total_return", "loss"], "no Sharpe ratio stands without an interval"
    assert [list(found["loss"].data[0].x), len(found["loss"].data)] == [[0.0, 10.0, 20.0, 30.0, 50.0], 1]
    assert list(found["validation_total_return"].data[0].y) == [0.5, 0.7]
    assert "env steps" in note
    for nothing in ([], [{"iteration": 1, "note": "x"}]):
        assert training.training_figures(nothing, 0.95, Selected()) == ({}, "")
        assert training.section(nothing, 0.95, Selected()) == ""
    many = [{f"metric_{i:02d}": 1.0 for i in range(20)}]
    found, note = training.training_figures(many, 0.95, Selected())
    assert len(found) == training.MAX_PANELS
    assert "metric_19" in note, "what is not drawn is named"


def test_what_selects_the_checkpoint_is_drawn_first_with_its_interval() -> None:
    rows = [{"iteration": i, "env_steps": 10 * i, "reward": 0.1 * i} for i in range(9)]
    for i, sharpe in ((2, 0.5), (4, 1.5), (6, 1.0)):
        rows[i] |= {"validation_sharpe": sharpe, "validation_sharpe_error": 0.5}
    rows[8] |= {"validation_sharpe": 0.0}
    found, note = training.training_figures(rows, 0.9, Selected(iteration=4))
    assert list(found) == ["validation_sharpe", "reward"]
    high, low, line, dot = found["validation_sharpe"].data
    assert list(line.x) == [20.0, 40.0, 60.0], "an idle account has no interval, and is not drawn"
    np.testing.assert_allclose(np.subtract(high.y, low.y), 2 * 1.6449 * 0.5, rtol=1e-4)
    assert (list(dot.x), list(dot.y)) == ([40.0], [1.5])
    assert "the dot the one that was selected" in note
    assert "90 % interval" in note
    unmarked, note = training.training_figures(rows, 0.9, Selected())
    assert len(unmarked["validation_sharpe"].data) == 3
    assert "the dot" not in note
    other = selected_of({"best_iteration": 2, "best_calm": 1.0, "evaluations": 3})
    assert other == Selected("validation_calm", 2)
    assert selected_of({}) == Selected()
    calm = [{"iteration": i, "reward": 1.0, "validation_calm": float(i)} for i in range(3)]
    found, _ = training.training_figures(calm, 0.95, other)
    assert list(found) == ["validation_calm", "reward"], "a metric of one's own"
    assert list(found["validation_calm"].data[-1].x) == [2.0]


def test_data_are_one_folded_table_with_a_row_for_each_symbol() -> None:
    extreme = {"value": -0.7312470267922285, "at": "2000-09-29"}
    report = {
        "sources": [{"name": "a.csv", "columns": {"time": "Date"}}],
        "bars": 3270,
        "rows_read": 12_154,
        "first": "2000-03-01",
        "last": "2013-03-01",
        "symbols": {
            "AAPL": {"bars": 3270, "largest_log_move": extreme, "floor_share": 0.27584, "volume_known": True},
            HOSTILE: {"bars": 196, "largest_log_move": None, "holes": 1},
        },
        "warnings": [HOSTILE],
    }
    text = data.section(report)
    page = Page(text)
    assert page.open == []
    assert text.startswith("<details><summary>Show what was read: 3,270 bars, 12,154 rows, 2 symbols, 2000-03-01 to")
    assert text.count("<table") == 1
    assert row(page, "AAPL", 5) == ["3,270", "-0.7312 (2000-09-29)", "0.2758", "yes", "-"]
    assert row(page, HOSTILE, 5) == ["196", "-", "-", "-", "1"]
    assert page.visible.count(HOSTILE) == 2
    assert "sources.columns.time Date" in page.visible
    assert data.section({}) == ""


def lines(*series: np.ndarray, **layout: str) -> go.Figure:
    figure = go.Figure([go.Scatter(x=np.arange(len(y)), y=y, mode="lines") for y in series])
    return figure.update_layout(**layout)


def dashes(figure: go.Figure) -> list:
    return [trace.line.dash for trace in figure.data]


WALK = 100.0 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.01, 900)))


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ((WALK, WALK), [None, "6px,8px"]),
        ((WALK, WALK, WALK), [None, "6px,8px", "6px,16px"]),
        ((WALK, WALK[::-1]), [None, None]),
        ((WALK, np.where(np.arange(900) < 450, WALK, WALK[::-1])), [None, "6px,8px"]),
        ((WALK, np.where(np.arange(900) < 90, WALK, WALK + np.ptp(WALK))), [None, None]),
        ((np.ones(900), np.ones(900)), [None, "6px,8px"]),
        ((WALK, np.full(900, np.nan)), [None, None]),
    ],
)
def test_a_line_that_hides_another_is_dashed(series, expected) -> None:
    figure = lines(*series)
    sentence = dash_covering_lines(figure)
    assert dashes(figure) == expected
    assert bool(sentence) == any(expected)


def test_lines_are_compared_as_they_are_drawn() -> None:
    small, large = np.full(900, 1.0), np.full(900, 2.0)
    tall = np.geomspace(1.0, 1e6, 900)
    linear, log = lines(tall, small, large), lines(tall, small, large, yaxis_type="log")
    for figure in (linear, log):
        dash_covering_lines(figure)
    assert [dash is None for dash in dashes(linear)] == [True, False, False], "all near the floor for most of the way"
    assert dashes(log) == [None, None, None]
    bands = go.Figure([go.Scatter(x=[0, 1], y=[0, 1], line_width=width) for width in (0, None, 0)])
    assert dash_covering_lines(bands) == "", "edges of bands are no lines"
    equal = {"agent": WALK, "hold": WALK}
    figure, caption = figures.equity_figure(np.arange(900), equity=equal)
    assert "dashed" in caption
    assert [trace.line.dash for trace in figure.data] == [None, None, "6px,8px", "6px,8px"], "in both panels"
    figure, caption = figures.positions_figure(np.arange(9), np.full((9, 1), 0.5), ("A",))
    assert figure.data[-1].line.dash, "net exposure lies on gross"


def test_ticks_have_as_many_digits_as_it_takes() -> None:
    figure, _ = figures.positions_figure(np.arange(9), np.full((9, 1), 1e-4), ("A",))
    assert {axis.tickformat for axis in figure.select_yaxes()} == {figures.SHARE}
    times = np.datetime64("2020-01-01T09:30", "s") + np.arange(30) * np.timedelta64(3600, "s")
    figure, _ = figures.equity_figure(times, {"agent": np.linspace(1e6, 1e6 + 1, 30)})
    assert figure.layout.yaxis.tickformat == figures.AMOUNT
    hours = [stop.value for stop in figure.layout.xaxis2.tickformatstops]
    assert all("%b %-d" in value for value in hours), "the same hour of two days"
