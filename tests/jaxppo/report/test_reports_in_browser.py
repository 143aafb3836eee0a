"""Reports in a real browser: no error, no request, every figure drawn, nothing wider than the screen."""

import pathlib

import jax
import numpy as np
import pandas as pd
import pytest
from browser import WIDTHS, faults
from monte_carlo_tables import made_up
from report_pages import CAPACITY, earned, example
from slowly import slow_after

from jaxppo.backtest.by_regime import Account, figures_by_regime
from jaxppo.monte_carlo import summarise_paths
from jaxppo.monte_carlo.report import write_paths_report
from jaxppo.report import page as report
from jaxppo.report.results import Inspection, MaskEffect, Selected
from jaxppo.walk_forward.section import section

REGIMES_SEEN = np.repeat([0, 2, 1, 3, -1, 0], [70, 60, 40, 12, 9, 60])
"""Of 251 marks."""


def inspection_of(n_assets: int) -> Inspection:
    """Two blocks of two heads over twelve bars and two coarser levels, numbers at random."""
    rng = np.random.default_rng(0)
    lag = rng.dirichlet(np.ones(12), (2, 2))
    return Inspection(
        bars=np.arange(30),
        lag=lag,
        levels=rng.dirichlet(np.ones(3), (2, 2)),
        pools=(5, 20),
        assets=rng.dirichlet(np.ones(n_assets), n_assets),
        regimes={name: rng.dirichlet(np.ones(12), (2, 2)) for name in ("calm", "usual", "turbulent")},
        hours={hour: rng.dirichlet(np.ones(12), (2, 2)) for hour in (10, 11)},
        rollout=rng.dirichlet(np.ones(24)).reshape(2, 12),
        entropy=rng.random((2, 2)),
        redundancy=rng.random(2),
        importance={"price": 0.2, "volume": 0.0},
        gradients=rng.random((2, 12)),
        features={f"feature {i}": float(i) for i in range(20)},
        gates={"price": 1.0, "volume": 0.5},
    )


def split_by_regime() -> dict:
    """Figures of three strategies, with a crisis that is too short to tell anything."""
    rng = np.random.default_rng(2)
    accounts = {name: Account(*rng.normal(0.001, 0.01, (5, 250))) for name in ("agent", "buy_and_hold", "flat")}
    return figures_by_regime(jax.random.key(0), accounts, REGIMES_SEEN[:-1], periods=252.0, n_resamples=100)


def write_run(path: pathlib.Path, n_assets: int = 3) -> None:
    """A run's report with every section there is, of small positions in an account that hardly moves."""
    plain, symbols = example(250, n_assets), tuple(f"SYM{i}" for i in range(n_assets))
    data = example(
        250,
        n_assets,
        weights=plain.weights * 1e-3,
        equity={name: 1e6 + (equity - 1e5) * 1e-5 for name, equity in plain.equity.items()},
        performance=earned(250, symbols),
        data_report={"bars": 250, "symbols": {symbol: {"bars": 250, "spread": "quoted"} for symbol in symbols}},
        selected=Selected(iteration=4),
        warnings=("Fills use the close.",),
        training=[
            {"iteration": i, "validation_sharpe": 0.1 * i, "validation_sharpe_error": 0.5, "metric": float(i)}
            for i in range(9)
        ],
        inspection=inspection_of(n_assets),
        masks={"no_short": MaskEffect(0.1, 0.2, 0.01, {"bull": {"bound": 0.1}, "crisis": {"exposure_removed": 0.3}})},
        monitored={
            name: {
                "loss": {
                    "limit": 0.1, "warning": 0.8, "stop": True, "worst": 0.12, "warned": 3, "breached": 1,
                    "first_breach": "2020-03-01",
                }
            }
            for name in ("agent", "buy_and_hold")
        },
        stopped={"limit": "loss", "allowed": 0.1, "level": 0.12, "at": "2020-03-01"},
        constraints={
            "turnover": {"limit": 20.0, "measured": 25.0, "multiplier": 1.0, "held": False, "infeasible": True}
        },
        regimes=REGIMES_SEEN,
        by_regime=split_by_regime(),
        selection={
            "superiority": {
                "no_better_than": {"buy_and_hold": 0.4, "flat": 0.01}, "trials": 12, "spa": 0.3, "reality_check": 0.4,
            },
            "out_of_sample": {
                "trials": 12, "effective_trials": 3.5, "sharpe": 1.2, "sharpe_ci": [-0.5, 2.9], "hurdle": 0.9,
                "psr": 0.9, "dsr": 0.6, "minimum_track_record": 800.0,
            }
        },
        capacity=CAPACITY,
    )  # fmt: skip
    report.write_report(path, data)


def write_run_of_many_assets(path: pathlib.Path) -> None:
    """Its positions and attention are heat maps with many rows."""
    write_run(path, n_assets=88)


def write_training(path: pathlib.Path) -> None:
    """The report of a run that is not about trading."""
    rows = [{"iteration": i, "reward": float(i)} for i in range(5)]
    path.write_text(report.render_training("pole", {"reward": 4.0}, rows, "seed: 0\n"), encoding="utf-8")


def write_monte_carlo(path: pathlib.Path) -> None:
    table = made_up()
    write_paths_report(path, table, summarise_paths(table))


def write_walk_forward(path: pathlib.Path) -> None:
    """Three folds, two seeds, with a test in which nothing was traded."""
    data, rng = example(90), np.random.default_rng(1)
    rows = [
        {
            "fold": fold, "path": 0, "seed": seed, "selected": seed == fold % 2, "best_iteration": 5,
            "validation_sharpe": rng.normal(), "first": data.timestamps[30 * fold],
            "last": data.timestamps[30 * fold + 30], "n_bars": 30, "sharpe": rng.normal() * (fold > 0),
            "sharpe_low": -2.0 if fold else None, "sharpe_high": 2.0 if fold else None, "total_return": 0.1,
            "max_drawdown": 0.05, "turnover": 3.0, "costs": 0.01,
        }
        for fold in range(3)
        for seed in range(2)
    ]  # fmt: skip
    folds, worth = pd.DataFrame(rows), {"rank_correlation": 0.1, "gain": 0.2, "gain_ci": [-0.1, 0.5]}
    worth |= {"tests": 3, "won": 1, "idle": 1}
    equity = {"selected": data.equity["agent"], "seed 0": data.equity["flat"], "buy and hold": data.equity["flat"]}
    html = section("Rolling windows.", folds, worth, data.timestamps, equity, np.array([30, 60]))
    report.write_report(path, example(90, sections={"Walk-forward": html}))


REPORTS = slow_after(2, (write_run, write_monte_carlo, write_training, write_walk_forward, write_run_of_many_assets))


@pytest.mark.parametrize("write", REPORTS, ids=lambda write: write.__name__)
def test_a_report_is_drawn(write, tmp_path):
    write(tmp_path / "report.html")
    assert faults(tmp_path / "report.html") == []


END = "</main>"
BROKEN = {
    "an error in a script": (END, f"<script>undefined_function()</script>{END}", "undefined_function"),
    "something from a network": (END, f'<img src="https://example.invalid/a.png">{END}', "asks for https://"),
    "a page that is too wide": (END, f'<div style="width: 2000px">wide</div>{END}', "pixels too wide"),
    "a figure without numbers": ('"y":{', '"y":[],"text":{', "training-0: nothing is drawn"),
    "labels that repeat": (
        '"tickformat":".12~s"',
        '"tickvals":[1,2],"ticktext":["a","a"]',
        "two ticks are labelled xtick a",
    ),
    "no library": ("Plotly.newPlot", "Plotly.oldPlot", "is not a function"),
    "no figure": ('class="figure"', 'class="figures"', "has no figure"),
    "a figure that is wider than its place": (
        END,
        f"<script>document.querySelector('.figure').style.width = '60%'</script>{END}",
        "beyond its place",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_is_wrong_is_found(fault, tmp_path):
    """The test above would fail."""
    old, new, says = BROKEN[fault]
    write_training(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    head, body = text[: text.index("</head>")], text[text.index("</head>") :]
    assert old in body
    (tmp_path / "report.html").write_text(head + body.replace(old, new), encoding="utf-8")
    assert says in "; ".join(faults(tmp_path / "report.html", WIDTHS[:1]))
