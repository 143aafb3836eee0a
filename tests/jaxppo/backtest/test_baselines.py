"""What stands beside the agent: configured baselines, the untrained agent, and what so many years can show."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from tiny_run import STEPS_PER_ITERATION, command, prices, write_config

from jaxppo import backtest
from jaxppo.backtest import baselines, evaluation
from jaxppo.backtest.beside import UNTRAINED, unlearned_sentences
from jaxppo.config import validate_config
from jaxppo.run.setup import first_policy
from jaxppo.statistics.detectable import correlation, detectable_difference

SHORT = {"steps": 2 * STEPS_PER_ITERATION}
INDEX_FROM, INDEX_TO = "2014-12-01", "2016-12-30"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("baselines")


@pytest.fixture(scope="module")
def index(folder):
    """Closes of an index on calendar days, and another column."""
    days = pd.date_range(INDEX_FROM, INDEX_TO, freq="D")
    closes = 100.0 * np.exp(np.cumsum(np.random.default_rng(4).normal(0.0, 0.01, len(days))))
    frame = pd.DataFrame({"date": days.strftime("%Y-%m-%d"), "close": closes, "total": closes * 2.0 + 5.0})
    frame.to_csv(folder / "index.csv", index=False)
    return frame


@pytest.fixture(scope="module")
def other(folder):
    """A run on other symbols, to compare with."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    config = write_config(elsewhere, training=SHORT)
    frame = prices(seed=5)
    frame["symbol"] = frame["symbol"].map({"AAA": "CCC", "BBB": "DDD"})
    frame.to_csv(elsewhere / "prices.csv", index=False)
    assert command("train", "--config", config, "--output", elsewhere / "other") == 0
    return elsewhere / "other"


@pytest.fixture(scope="module")
def run(folder, index, other):
    """A run beside everything that can be named."""
    named = [
        "trend",
        {"volatility_target": {"target": 0.2, "name": "louder"}},
        "equal_weight",
        {"run": str(other)},
        {"benchmark": {"symbol": "BBB"}},
        {"benchmark": {"path": str(folder / "index.csv")}},
        {"benchmark": {"path": str(folder / "index.csv"), "column": "total", "name": "total"}},
    ]
    config = write_config(folder, training=SHORT, evaluation={"baselines": named})
    assert command("train", "--config", config, "--output", folder / "run") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def saved(run):
    return backtest.load_run(run)


@pytest.fixture(scope="module")
def result(saved):
    return evaluation.evaluate(saved.setup, saved.network, saved.params)


NAMES = ["trend", "louder", "equal_weight", "other", "BBB", "index", "total", UNTRAINED]


def test_all_stand_beside_the_agent_in_summary_console_and_report(run, result):
    summary = json.loads((run / "summary.json").read_text())
    rows = summary["out_of_sample"]["baseline"]
    assert list(rows) == NAMES
    assert rows == json.loads(json.dumps(result.summary["baseline"]))
    assert list(summary["selection"]["superiority"]["no_better_than"]) == NAMES
    printed, page = backtest.describe(summary["out_of_sample"]), (run / "report.html").read_text()
    for name in NAMES:
        assert f"\n{name} " in printed
        assert f">{name}</th>" in page
        assert {"sharpe_difference_ci", "detectable", "by_regime"} <= rows[name].keys()
    assert "Smallest difference that shows" in page
    assert f"{rows['trend']['detectable']:.2f} (trend)" in printed


def test_a_rule_of_ones_own_bears_the_name_of_its_policy_where_no_other_does():
    plain, other = "own_parts:named_rule", {"own_parts:named_rule": {"name": "trend"}}
    for own, name in ((plain, "news rule"), (other, plain)):
        tree = {"training": {"steps": 1}, "evaluation": {"baselines": [{"trend": {}}, own]}}
        assert baselines._titles(validate_config(tree).evaluation.baselines) == ["trend", name]


def test_an_index_is_its_returns_at_the_marks(result, index):
    marks = pd.DatetimeIndex(result.times)
    closes = index.set_index(pd.to_datetime(index.date))
    for name, column in (("index", "close"), ("total", "total")):
        known = closes[column].reindex(marks, method="ffill")
        np.testing.assert_allclose(result.ledgers[name].returns, known.pct_change().to_numpy()[1:], atol=2e-6)
        assert result.summary["baseline"][name]["costs"] == 0.0


def test_a_held_asset_is_bought_once(result):
    ledger = result.ledgers["BBB"]
    assert np.count_nonzero(ledger.quantity) == 1
    assert ledger.quantity[0, 1] > 0
    np.testing.assert_allclose(ledger.weights[-1, 0], 0.0)


def test_the_untrained_agent_trades_its_first_parameters(saved, result):
    setup = saved.setup
    net = first_policy(setup)[1]
    mine = evaluation.evaluate(setup, saved.network, net)
    np.testing.assert_array_equal(mine.ledgers["agent"].equity, result.ledgers[UNTRAINED].equity)
    assert any("learned nothing that shows" in note for note in mine.summary["notes"])
    assert "learned nothing" in backtest.describe(mine.summary)


def test_only_accounts_that_hold_the_same_are_said_to(result):
    agent = result.ledgers["agent"]
    away = agent.replace(weights=np.asarray(agent.weights) + 0.2)
    assert not unlearned_sentences({"agent": agent, UNTRAINED: away})
    assert not unlearned_sentences({"agent": agent})
    idle = jax.tree.map(jnp.zeros_like, agent).replace(equity=np.ones_like(agent.equity))
    assert "it never trades" in unlearned_sentences({"agent": idle, UNTRAINED: idle})[0]


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_the_detectable_difference_is_found_four_times_in_five(rho):
    rng, years, periods = np.random.default_rng(1), 10, 52
    n, trials = years * periods, 4000
    one, other = rng.normal(size=(2, trials, n))
    other = rho * one + np.sqrt(1 - rho**2) * other
    least = detectable_difference(one.ravel()[: 10**6], other.ravel()[: 10**6], periods) * np.sqrt(10**6 / n)
    assert least == pytest.approx(2.49 * np.sqrt(2 * (1 - rho) / years), rel=0.02)
    one = one + least / np.sqrt(periods)
    difference = (one.mean(axis=1) / one.std(axis=1) - other.mean(axis=1) / other.std(axis=1)) * np.sqrt(periods)
    error = np.sqrt(2 * (1 - rho) / years)
    assert np.mean(difference > 1.645 * error) == pytest.approx(0.8, abs=0.05)


def test_a_series_that_never_changes_has_no_correlation():
    x = np.random.default_rng(0).normal(size=50)
    y = x + np.random.default_rng(1).normal(size=50)
    assert correlation(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert correlation(x, np.zeros(50)) is None
    assert detectable_difference(x, np.zeros(50), 252.0) is None
    assert detectable_difference(x, 2 * x, 252.0) == 0.0


@pytest.mark.parametrize(
    ("baselines", "said"),
    [
        ("[trend, trend]", "evaluation.baselines[0]: the name 'trend' is there twice"),
        ("[{trend: {name: agent}}]", "evaluation.baselines[0]: the name 'agent' is taken"),
        ("[{trend: {lookbak: 5}}]", "unknown key 'evaluation.baselines[0].trend.lookbak'; did you mean lookback?"),
        ("[{mean_reversion: {leave: 3.0}}]", "evaluation.baselines[0].mean_reversion: leave is 3.0"),
        ("[{benchmark: {}}]", "evaluation.baselines[0].benchmark has neither of symbol and path"),
        ("[{benchmark: {symbol: SPY}}]", "benchmark.symbol is 'SPY'; the assets are AAA, BBB"),
        ("[{benchmark: {path: no.csv}}]", "no.csv: no such file"),
        ("[{benchmark: {path: INDEX, column: nav}}]", "column is 'nav'; the columns are date, close, total"),
        ("[{benchmark: {path: SHORT}}]", "is known from 2015-03-02 to 2015-04-30; the test needs it from"),
        ("[{run: nowhere}]", "nowhere"),
        ("[{run: SEEN}]", "which was trained and selected on bars of the test period"),
    ],
    ids=lambda value: value[:40],
)
def test_mistakes_are_one_line(folder, run, index, tmp_path, capsys, baselines, said):
    index[index.date.between("2015-03-02", "2015-04-30")].to_csv(folder / "short.csv", index=False)
    names = {"INDEX": folder / "index.csv", "SHORT": folder / "short.csv", "SEEN": run}
    for name, path in names.items():
        baselines = baselines.replace(name, str(path))
    config = write_config(tmp_path)
    capsys.readouterr()
    periods = ["--data.train", "0.3"] if "trained" in said else []
    code = command(
        "train", "--config", config, "--output", tmp_path / "out", "--evaluation.baselines", baselines, *periods
    )
    error = capsys.readouterr().err
    assert (code, error.count("\n"), error[:7]) == (2, 1, "error: ")
    assert said in error
