"""The report is one HTML file that needs no network, hides no interval, and shows what it was given."""

import dataclasses
import html
import json
import math
import pathlib

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy
from report_pages import HOSTILE, Page, example, page_of, plain, row

from jaxppo.report import figures
from jaxppo.report import page as report


def test_one_file_without_a_network(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new" / "report.html"
    report.write_report(path, example())
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.addresses == []
    assert [len(script) > 1e6 for script in page.scripts] == [True, *[False] * 5], "plotly is there once"
    assert page.classes.count("plotly-graph-div") == 4
    assert {"equity", "positions", "costs", "training-0"} <= set(page.identifiers)
    after_library = text[text.index("</head>") :]
    assert "http" not in after_library, "nothing is fetched, and no figure is sent anywhere"
    assert "@import" not in text[: text.index("</style>")]
    report.write_report(path, example())
    assert path.read_text(encoding="utf-8") == text, "the same data give the same bytes"


def test_every_sharpe_ratio_has_its_interval() -> None:
    page = page_of(example(sharpe_differences={"buy_and_hold": (-1.0, 0.5)}))
    assert row(page, "Sharpe ratio, annual") == ["1.23 [-0.50, 2.97]", "1.23 [0.25, 2.25]", "- [-, -]"]
    assert row(page, "Sharpe ratio of the agent less this") == ["", "[-1.00, 0.50]", ""]
    assert page.visible.count("1.23 ") == 3, "the headline card and two table cells"
    assert page.visible.count("1.23 [") == 3
    for intervals in ({}, {"agent": {"sortino": (0.0, 1.0)}}):
        with pytest.raises(ValueError, match=r"sharpe of 'agent' has no interval"):
            example(intervals=intervals)
    with pytest.raises(ValueError, match=r"gross_sharpe of 'agent' has no interval"):
        example(metrics={"agent": {"gross_sharpe": 1.0}})
    assert example(metrics={"agent": {"probabilistic_sharpe": 0.9}}, intervals={})


def test_numbers_are_formatted_for_people() -> None:
    metrics = {
        "agent": {"total_return": 0.12345, "max_drawdown": -0.0, "n_bars": 12345.0, "calmar": -math.inf, "my_own": 0.5}
    }
    page = page_of(example(metrics=metrics))
    expected = {
        "Total return": "12.35 % [-10.00 %, 30.00 %]",
        "Maximum drawdown": "0.00 %",
        "Bars": "12,345",
        "Calmar ratio": "-∞",
        "My own": "0.5",
    }
    assert {label: row(page, label, 1)[0] for label in expected} == expected
    assert row(page, "total", 2) == ["300.00", "0.30 %"]
    for fact in ("repaired.sorted True", "rows 12,345", "48, 49 … and 20 more"):
        assert fact in page.visible


@pytest.mark.parametrize(
    ("interval", "value", "says", "tone"),
    [
        ((-0.5, 2.0), 0.7, "includes zero: this result is indistinguishable from luck", "open"),
        ((0.1, 2.0), 0.7, "lies above zero", "good"),
        ((-2.0, -0.1), -0.7, "lies below zero", "bad"),
        ((math.nan, math.nan), 0.7, "no usable interval", "open"),
        ((None, None), None, "no Sharpe ratio", "open"),
    ],
)
def test_verdict_on_luck(interval: tuple, value: float | None, says: str, tone: str) -> None:
    data = example(metrics={"agent": {"sharpe": value}}, intervals={"agent": {"sharpe": interval}})
    assert says in report.verdict(data)[0]
    page = page_of(data)
    assert says in page.visible
    assert tone in page.classes


def test_verdict_compares_and_counts_costs() -> None:
    equity = {"agent": [100.0, 110.0], "hold": [100.0, 105.0], "other": [100.0, 90.0]}
    data = example(
        n=1,
        n_assets=1,
        equity={name: np.array(values) for name, values in equity.items()},
        metrics={},
        costs={"spread": np.array([0.5])},
        sharpe_differences={"hold": (-1.0, 1.0), "other": (0.5, 1.0), "third": (0.1, 2.0), "last": (-2.0, -1.0)},
    )
    assert tuple(map(plain, report.verdict(data)[1:])) == (
        "Its Sharpe ratio is above that of other and third by more than luck explains.",
        "Its Sharpe ratio is below that of last by more than luck explains.",
        "Whether it is better or worse than hold cannot be told from this period.",
        "Over the period it returned 10.00 %, against 5.00 % for hold and -10.00 % for other.",
        "Costs took 0.50 % of the starting equity.",
    )


@pytest.mark.parametrize(
    ("difference", "own", "says", "tone"),
    [
        ((-1.0, 1.0), (0.2, 3.0), "better or worse than base cannot be told", "open"),
        ((0.1, 1.0), (0.2, 3.0), "is above that of base by more than luck", "good"),
        ((0.1, 1.0), (-0.2, 3.0), "is above that of base by more than luck", "open"),
        ((-1.0, -0.1), (0.2, 3.0), "is below that of base by more than luck", "bad"),
        (None, (0.2, 3.0), "learned nothing that shows", "open"),
    ],
)
def test_the_verdict_leads_with_what_the_agent_has_to_beat(difference, own, says, tone) -> None:
    """A gain that buy and hold makes as well is no green headline."""
    data = example(
        metrics={"agent": {"sharpe": 1.0}},
        intervals={"agent": {"sharpe": own}},
        sharpe_differences={"buy_and_hold": (0.5, 1.0), "base": difference or (-0.1, 0.1)},
        unlearned=difference is None,
    )
    first, second, *_ = report.verdict(data)
    assert says in first
    assert second.startswith("The interval of the Sharpe ratio")
    assert {"good", "bad", "open"} & set(page_of(data).classes) == {tone}


def test_what_a_user_wrote_is_shown_not_run() -> None:
    harmless = example(warnings=("w",))
    hostile = dataclasses.replace(
        harmless,
        title=HOSTILE,
        symbols=(HOSTILE, "<b>A", "C"),
        config_yaml=f"path: {HOSTILE}",
        warnings=(HOSTILE,),
        data_report={HOSTILE: HOSTILE},
        training=[{"iteration": i, HOSTILE: 1.0} for i in range(3)],
        costs={HOSTILE: np.ones(60)},
        equity={HOSTILE: harmless.equity["agent"], "hold": harmless.equity["flat"]},
        metrics={HOSTILE: {HOSTILE: 1.0}},
    )
    page = page_of(hostile)
    assert len(page.scripts) == len(page_of(harmless).scripts), "no script was smuggled in"
    assert page.visible.count(HOSTILE) >= 6
    drawn, _ = figures.positions_figure(np.arange(60), hostile.weights, hostile.symbols)
    assert html.unescape(drawn.data[1].name) == "<b>A"
    assert "<" not in drawn.data[1].name


def test_warnings_are_an_alert() -> None:
    assert "warnings" not in page_of(example()).classes
    page = page_of(example(warnings=("Fills use the close.",)))
    assert "warnings" in page.classes
    assert "Fills use the close." in page.visible


def test_what_is_told_ends_the_verdict_and_warns_of_nothing() -> None:
    data = example(told=("The best Sharpe ratio is 3.",))
    assert report.verdict(data)[-1] == "The best Sharpe ratio is 3."
    assert "warnings" not in page_of(data).classes


def test_smallest_run() -> None:
    """One bar, simulated, no training, no costs, nothing defined."""
    nothing = {"sharpe": math.nan, "calmar": None}
    page = page_of(
        example(
            n=1,
            n_assets=1,
            timestamps=np.empty(0, "datetime64[ns]"),
            training=[],
            costs={"commission": np.zeros(1)},
            metrics={"agent": nothing},
            data_report={},
        )
    )
    assert page.classes.count("plotly-graph-div") == 2
    assert "1 bar ·" in page.visible
    shown = ["Equity and drawdown", "Results", "Drawdowns and recovery", "Positions", "Configuration"]
    assert page.headings == shown, "nothing that is empty"
    assert "nan" not in page.visible.lower()


def test_lengths_must_fit() -> None:
    wrong = {
        r"equity\['agent'\] has 3": {"equity": {"agent": np.ones(3)}},
        r"timestamps has 60 points, not 61": {"timestamps": np.zeros(60, "datetime64[s]")},
        r"costs\['fee'\] has 61 bars, not 60": {"costs": {"fee": np.zeros(61)}},
        r"3 assets but there are 1 symbols": {"symbols": ("A",)},
        r"at least one strategy": {"equity": {}},
    }
    for message, changes in wrong.items():
        with pytest.raises(ValueError, match=message):
            example(**changes)


def traces(figure: go.Figure) -> list[dict]:
    return json.loads(figure.to_json())["data"]


def test_equity_and_drawdown_are_what_was_given() -> None:
    times = np.datetime64("2020-01-01", "ns") + np.arange(4) * np.timedelta64(1, "D")
    figure, caption = figures.equity_figure(times, {"agent": np.array([100.0, 80.0, 120.0, 60.0]), "flat": np.ones(4)})
    np.testing.assert_array_equal(figure.data[0].y, [100.0, 80.0, 120.0, 60.0])
    np.testing.assert_allclose(figure.data[1].y, [0.0, -0.2, 0.0, -0.5])
    assert traces(figure)[0]["x"] == [f"2020-01-0{i}T00:00:00" for i in (1, 2, 3, 4)]
    assert figure.layout.xaxis.matches == "x2", "drawdowns share the time axis"
    assert "Drawn from" not in caption
    with_gap = figures.drawdown_of_equity(np.array([100.0, np.nan, 50.0]))
    np.testing.assert_array_equal(with_gap, [0.0, np.nan, 0.5])
    growing, caption = figures.equity_figure(np.arange(3), {"agent": np.array([1.0, 5.0, 20.0])})
    assert growing.layout.yaxis.type == "log"
    assert "logarithmic" in caption


def test_long_series_are_thinned_and_say_so() -> None:
    n = 100_000
    rng = np.random.default_rng(0)
    equity = 1e5 * np.exp(np.cumsum(rng.normal(0, 1e-3, n + 1)))
    equity[31_337] *= 0.2
    figure, caption = figures.equity_figure(np.arange(n + 1), {"agent": equity})
    line, drawdown = figure.data
    assert len(line.x) <= figures.MAX_POINTS
    assert 31_337 in line.x
    assert (line.x[0], line.x[-1]) == (0, n)
    np.testing.assert_array_equal(line.y, equity[line.x])
    assert -min(drawdown.y) == figures.drawdown_of_equity(equity).max(), "the worst drawdown is drawn"
    assert "every 101 points, of 100,001" in caption


@settings(max_examples=50, deadline=None)
@given(
    values=hypothesis_numpy.arrays(np.float64, st.integers(1, 200), elements=st.floats(-1e6, 1e6) | st.just(math.nan)),
    limit=st.sampled_from([4, 8, 40]),
)
def test_thinning_keeps_ends_and_extremes(values: np.ndarray, limit: int) -> None:
    points = figures.drawn_points(values, limit)
    assert len(points) <= max(limit, min(len(values), limit))
    assert (np.diff(points) > 0).all()
    assert (points[0], points[-1]) == (0, len(values) - 1)
    if np.isfinite(values).any():
        assert np.nanmin(values[points]) == np.nanmin(values)
        assert np.nanmax(values[points]) == np.nanmax(values)


def test_positions_of_few_and_of_many_assets() -> None:
    rng = np.random.default_rng(0)
    few = rng.uniform(-0.5, 0.5, (20, 4))
    figure, _ = figures.positions_figure(np.arange(20), few, "ABCD")
    assert [trace.type for trace in figure.data] == ["scatter"] * 6
    np.testing.assert_allclose(figure.data[4].y, np.abs(few).sum(1))
    np.testing.assert_allclose(figure.data[5].y, few.sum(1))
    many = rng.uniform(-0.02, 0.02, (2500, 88))
    symbols = [f"S{i}" for i in range(88)]
    figure, caption = figures.positions_figure(np.arange(2500), many, symbols)
    heat = figure.data[0]
    assert heat.type == "heatmap"
    assert list(heat.y) == symbols
    assert heat.z.shape == (88, 834)
    np.testing.assert_allclose(heat.z[5, 2], many[6:9, 5].mean(), rtol=1e-5)
    np.testing.assert_allclose(heat.z[5, -1], many[2499, 5], rtol=1e-5)
    assert heat.zmax == -heat.zmin, "white is no position"
    assert "mean of 3 bars" in caption
    assert figure.layout.height > 1000, "room for 88 names"


def test_costs_are_cumulative() -> None:
    figure, _ = figures.costs_figure(np.arange(3), {"fee": np.array([1.0, 2.0, 3.0]), "spread": np.zeros(3)})
    np.testing.assert_array_equal(figure.data[0].y, [1.0, 3.0, 6.0])
    assert figure.data[0].stackgroup == "costs"
    earned, caption = figures.costs_figure(np.arange(3), {"rebate": np.array([-1.0, 2.0, 3.0])})
    assert earned.data[0].stackgroup is None
    assert "not stacked" in caption


def test_constraints_of_training_are_shown_with_their_verdict() -> None:
    row_of = {"limit": 0.1, "measured": 0.0912, "multiplier": 0.5, "held": True, "infeasible": False}
    limits = {
        "max_drawdown": row_of,
        "turnover": {**row_of, "limit": 20.0, "held": False},
        "cvar": {**row_of, "held": False, "infeasible": True},
    }
    page = page_of(example(constraints=limits))
    assert row(page, "max_drawdown", 4) == ["0.1", "0.0912", "0.5", "held"]
    assert row(page, "turnover", 4)[-1] == "not held"
    assert row(page, "cvar", 4)[-1] == "infeasible"
    assert "Constraint" not in page_of(example()).cells
