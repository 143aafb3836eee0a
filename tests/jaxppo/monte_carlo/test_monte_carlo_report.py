"""What a Monte Carlo report says: sentences, tables, figures against the paths, time to recovery against scipy."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
from monte_carlo_tables import BARS, N_PATHS, made_up
from report_pages import HOSTILE, Page, row

from jaxppo.monte_carlo import MonteCarlo, Table, summarise_paths
from jaxppo.monte_carlo.report import render_paths, verdict


def page_of(table: Table) -> Page:
    return Page(render_paths(table, summarise_paths(table)))


def share(hits: np.ndarray) -> str:
    """As the report prints it, Wilson's interval from scipy."""
    ends = scipy.stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(0.95, method="wilson")
    return " ".join(f"{100 * x:.2f} %" for x in (hits.mean(), ends.low, ends.high))


@pytest.fixture(scope="module")
def table() -> Table:
    return made_up()


def test_sentences_say_what_the_paths_do(table):
    total, depth, ruined = (table.column(name) for name in ("total_return", "max_drawdown", "ruined"))
    text = verdict(summarise_paths(table))
    estimate, low, high = share(total < 0).replace(" %", "").split()
    assert text[0] == f"{estimate} % of the paths ({low} % to {high} %) end with a loss."
    deep = np.quantile(depth, [0.95, 0.5])
    assert f"more than {100 * deep[0]:.2f} %, one in two of more than {100 * deep[1]:.2f} %" in text[1]
    assert f"The median path returns {100 * np.median(total):.2f} %" in text[2]
    assert f"nine in ten lie between {100 * np.quantile(total, 0.05):.2f} %".replace("-", "\N{MINUS SIGN}") in text[2]
    assert text[3] == f"{share(ruined).replace(' %', '').split()[0]} % of the paths" + text[3][text[3].index(" (") :]
    assert "Half of the deepest drawdowns take more than" in text[4]
    safe = verdict(summarise_paths(made_up(ruined=np.zeros(N_PATHS, bool), recovered=np.zeros(N_PATHS, bool))))
    assert safe[3] == "No path is ruined: at 95 % the probability is at most 0.26 %."
    assert safe[4] == "Fewer than half of the deepest drawdowns recover before their path ends."


def test_tables_and_figures_are_there(table):
    page, total, depth = page_of(table), table.column("total_return"), table.column("max_drawdown")
    for name, hits in {
        "A loss: the path ends below its capital": total < 0,
        "Ruin: liquidated, or a close at or below 50 % of the capital": table.column("ruined"),
        "A drawdown of 20 % or more": depth >= 0.2,
    }.items():
        estimate, ends = row(page, name, 2)
        assert f"{estimate} {ends}".translate(str.maketrans("", "", "[],")) == share(hits), name
    sharpe = table.column("sharpe").astype(np.float64)
    half = 1.96 * sharpe.std(ddof=1) / np.sqrt(N_PATHS)
    mean, _, first, *_ = row(page, "Sharpe ratio, annual", 4)
    assert mean == f"{sharpe.mean():z.2f} [{sharpe.mean() - half:z.2f}, {sharpe.mean() + half:z.2f}]"
    assert first == f"{np.quantile(sharpe, 0.01):z.2f}"
    drawn = {"fan", "drawdowns", "recovery", *(f"distribution-{x}" for x in ("total_return", "sharpe", "max_drawdown"))}
    assert drawn <= set(page.identifiers)
    assert (
        "costs times 0.5 to 2 · 25 % of fills missed · begun up to 3 bars later · filled 1 to 4 bars after the decision"
        in page.visible
    )
    for text in ("Monte Carlo error", "drawn from one history by garch", "liquidated"):
        assert text in page.visible, text
    assert page.addresses == []
    text = render_paths(table, summarise_paths(table))
    assert HOSTILE not in text
    assert "http" not in text[text.index("</head>") :]
    assert text == render_paths(table, summarise_paths(table))


def test_a_job_fits_a_screen(table):
    first, *lines = repr(MonteCarlo(table, summarise_paths(table))).splitlines()
    assert (first, repr(table)) == ("MonteCarlo('in memory')", f"Table({N_PATHS:,} paths in memory)")
    assert any(line.startswith("total_return") for line in lines)
    assert len(lines) < 20


def test_the_worst_paths_by_their_numbers():
    numbers = 10 * np.arange(N_PATHS) + 3
    table = made_up(numbers=numbers)
    worst = numbers[np.argmin(table.column("total_return"))]
    page = page_of(table)
    assert page.cells[page.cells.index("Recovered") + 1 :][:2] == [
        str(worst), f"{100 * table.column('total_return').min():.2f} %"
    ]  # fmt: skip
    assert f"path {worst}" in "".join(page.scripts)


def test_the_curve_of_recovery_equals_scipy(table):
    found = summarise_paths(table)["recovery"]
    bars, recovered = table.column("deepest_bars"), table.column("recovered")
    under = bars > 0
    data = scipy.stats.CensoredData(uncensored=bars[under & recovered], right=bars[under & ~recovered])
    curve = scipy.stats.ecdf(data).sf
    np.testing.assert_allclose(found["unrecovered"], curve.evaluate(np.array(found["bars"])), rtol=1e-12)
    ends = curve.confidence_interval(0.95, method="log-log")
    known = [i for i, low in enumerate(found["low"]) if low is not None]
    for name, end in (("low", ends.low), ("high", ends.high)):
        np.testing.assert_allclose(
            np.array(found[name], float)[known], end.evaluate(np.array(found["bars"], float)[known]), rtol=1e-9
        )
    assert found["n_drawdowns"] == under.sum()
    assert found["n_censored"] == (under & ~recovered).sum()
    assert found["median"] == curve.quantiles[np.flatnonzero(curve.probabilities <= 0.5)[0]]


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    bars = np.arange(1, N_PATHS + 1)
    found = summarise_paths(made_up(deepest_bars=bars, recovered=np.ones(N_PATHS, bool)))["recovery"]
    assert len(found["bars"]) == 200
    np.testing.assert_allclose(found["unrecovered"], 1.0 - np.array(found["bars"]) / N_PATHS, atol=1e-9)
    assert (found["bars"][0], found["bars"][-1], found["low"][-1]) == (1, N_PATHS, None)


def test_paths_without_movement():
    """An account that does nothing on any path: no Sharpe ratio, no drawdown, and still a report."""
    none = {"sharpe": np.full(20, np.nan, np.float32), "recovered": np.ones(20, bool)}
    none |= {name: np.zeros(20, np.float32) for name in ("total_return", "max_drawdown")}
    none |= {name: np.zeros(20, bool) for name in ("liquidated", "ruined")}
    none |= {f"equity_{bar}": np.ones(20, np.float32) for bar in BARS}
    table = made_up(20, deepest_bars=np.zeros(20, np.int32), **none)
    shard = dataclasses.replace(table, settings=table.settings | {"shard": [1, 3], "stress": None})
    page = page_of(shard)
    assert summarise_paths(table)["recovery"] is None
    for text in ("No path has a drawdown", "Only 20 paths", "20 paths have no Sharpe ratio", "One shard of a job"):
        assert text in page.visible, text
    assert "Accounts were liquidated" not in page.visible
