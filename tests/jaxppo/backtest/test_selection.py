"""Figures adjusted for selection: against other libraries, and of whole runs beside each other."""

import json
import math
import pathlib

import ffn
import numpy as np
import pandas as pd
import pytest
import quantstats
from made_up_trials import record
from tiny_run import STEPS_PER_ITERATION, command, write_config

from jaxppo import backtest
from jaxppo.backtest import selection
from jaxppo.run import trials


def test_figures_equal_ffn_and_quantstats(tmp_path) -> None:
    register = tmp_path / "trials.jsonl"
    evaluations = [record(register, seed, period="validation") for seed in range(12)]
    record(register, 50, period="test", n=90, last="2021-01-01")
    best = max(evaluations, key=lambda trial: trial.sharpe)
    figures = selection.selection_figures(register, best, best)["validation"]
    returns = trials.load_returns(register, evaluations).astype(np.float64)
    index = pd.bdate_range("2020-01-01", periods=100)
    frame = pd.DataFrame(returns, index=index)
    assert figures["pbo"] == pytest.approx(ffn.core.calc_prob_backtest_overfitting(frame, 10), abs=1e-3)
    assert figures["trials"] == 12
    assert 11 < figures["effective_trials"] <= 12
    spread = np.std([trial.sharpe for trial in evaluations], ddof=1)
    hurdle = ffn.core.calc_expected_max_sharpe(figures["effective_trials"], spread)
    assert figures["hurdle"] == pytest.approx(hurdle * math.sqrt(252), rel=1e-4)
    series = pd.Series(returns[:, evaluations.index(best)], index=index)
    theirs = quantstats.stats.probabilistic_sharpe_ratio(series)
    assert figures["psr"] == pytest.approx(theirs, abs=5e-3), "they correct skewness and kurtosis for bias"
    assert figures["dsr"] < 0.8 < figures["psr"]
    low, high = figures["sharpe_ci"]
    assert low < figures["sharpe"] < high
    correlation = [series.autocorr(lag) for lag in range(1, 5)]
    variance = 252 + 2 * sum((252 - lag) * rho for lag, rho in enumerate(correlation, 1))
    lo = 252 / math.sqrt(variance) * series.mean() / series.std()
    assert figures["adjusted_sharpe"] == pytest.approx(lo, rel=0.05), "pandas takes means of each part"


def test_hourly_and_daily_trials_stand_side_by_side_by_the_year(tmp_path) -> None:
    register = tmp_path / "trials.jsonl"
    daily = record(register, 1)
    record(register, 2, periods=252.0 * 7, first=0, last=100)
    alone = selection.selection_figures(register, daily)["out_of_sample"]
    annual = [trial.sharpe * math.sqrt(trial.periods) for trial in trials.read(register)]
    assert alone["effective_trials"] == 2.0
    expected = ffn.core.calc_expected_max_sharpe(2, np.std(annual, ddof=1))
    assert alone["hurdle"] == pytest.approx(expected, rel=1e-4)


def test_trials_on_other_markets_change_nothing(tmp_path) -> None:
    register, market = tmp_path / "trials.jsonl", {"fingerprint": "a", "symbols": ("AAPL", "IBM")}
    tests = [record(register, seed, **market) for seed in range(3)]
    scores = [record(register, seed, period="validation", **market) for seed in range(3)]
    alone = selection.selection_figures(register, tests[0], scores[0])
    assert (alone["out_of_sample"]["trials"], alone["validation"]["trials"]) == (3, 3)
    for seed in range(10, 30):
        for period in ("test", "validation"):
            record(register, seed, period=period, fingerprint="b", symbols=("EURUSD",))
    assert selection.selection_figures(register, tests[0], scores[0]) == alone, "over the same bars, another market"
    record(register, 40, n=90, fingerprint="c", symbols=("IBM", "MSFT"), first="2020-03-01")
    more = selection.selection_figures(register, tests[0], scores[0])
    assert more["out_of_sample"]["trials"] == 4, "a symbol and dates are shared"
    assert more["out_of_sample"]["dsr"] < alone["out_of_sample"]["dsr"]
    assert more["validation"] == alone["validation"]
    lone = record(register, 50, period="validation", fingerprint="d")
    assert not {"pbo", "degradation", "probability_of_loss"} & set(
        selection.selection_figures(register, lone, lone)["validation"]
    ), "one trial tells nothing of overfitting"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Two runs of six iterations beside each other, evaluated on validation every other iteration."""
    folder = tmp_path_factory.mktemp("runs")
    config = write_config(folder)
    for seed, steps in ((7, 6), (8, 4)):
        budget = ["--training.steps", str(steps * STEPS_PER_ITERATION), "--seed", str(seed)]
        assert command("train", "--config", config, "--output", folder / f"seed-{seed}", *budget) == 0
    return folder


def figures_of(run: pathlib.Path) -> dict:
    return json.loads((run / "summary.json").read_text())["selection"]


def test_every_evaluated_run_seed_and_checkpoint_is_there(workplace) -> None:
    found = trials.table(workplace / "trials.jsonl")
    scores = found[found["period"] == "validation"]
    assert sorted(zip(scores["run"], scores["seed"], scores["iteration"], strict=True)) == [
        *(("seed-7", 7, iteration) for iteration in (2, 4, 6)),
        *(("seed-8", 8, iteration) for iteration in (2, 4)),
    ]
    tests = found[found["period"] == "test"]
    assert list(tests["run"]) == ["seed-7", "seed-8"]
    for run in ("seed-7", "seed-8"):
        best = json.loads((workplace / run / "summary.json").read_text())["validation"]
        assert tests.set_index("run").loc[run, "iteration"] == best["best_iteration"]
        score = scores[(scores["run"] == run) & (scores["iteration"] == best["best_iteration"])]
        assert score["annual_sharpe"].item() == pytest.approx(best["best_sharpe"], abs=1e-9)
    first, second = (figures_of(workplace / run) for run in ("seed-7", "seed-8"))
    assert (first["out_of_sample"]["trials"], first["validation"]["trials"]) == (1, 3)
    assert (second["out_of_sample"]["trials"], second["validation"]["trials"]) == (2, 5)
    assert first["out_of_sample"]["dsr"] == first["out_of_sample"]["psr"], "one evaluation: nothing to deflate"
    symbols = set(found["symbols"])
    assert len(symbols) == len(set(found["fingerprint"])) == 1
    assert symbols.pop()
    assert 1 <= second["out_of_sample"]["effective_trials"] < 1.5, "the two are the same portfolio, nearly"
    report = (workplace / "seed-8" / "report.html").read_text()
    assert "Could it be luck?" in report
    assert "Probability that it exceeds that of luck (DSR)" in report
    alone, both = first["superiority"], second["superiority"]
    assert list(both["no_better_than"]) == ["buy_and_hold", "flat", "volatility_target", "untrained"]
    assert (alone["trials"], both["trials"]) == (1, 2), "the second run is tested with the first"
    assert alone["spa"] == pytest.approx(alone["no_better_than"]["buy_and_hold"], abs=0.15), "one strategy, other draws"
    assert "None of 2 trials on these bars earns more than buy_and_hold" in report
    assert (second["out_of_sample"]["dsr"] < 0.95) == ("indistinguishable from the best of 2 trials" in report)
    for figures in (first["out_of_sample"], second["validation"]):
        low, high = figures["adjusted_sharpe_ci"]
        assert low < figures["adjusted_sharpe"] < high


def test_resuming_and_repeating_count_nothing_twice(workplace, capfd) -> None:
    before, figures = (workplace / "trials.jsonl").read_bytes(), figures_of(workplace / "seed-8")
    config = workplace / "tiny.yaml"
    budget = ["--training.steps", str(4 * STEPS_PER_ITERATION), "--seed", "8"]
    assert command("train", "--config", config, "--output", workplace / "seed-8", "--resume", *budget) == 0
    backtest.run(workplace / "seed-8")
    assert (workplace / "trials.jsonl").read_bytes() == before
    assert figures_of(workplace / "seed-8") == figures
    assert "could it be luck: PSR" in capfd.readouterr().out
    backtest.run(workplace / "seed-8", overrides=["--costs.impact", "1.0"])
    after = trials.read(workplace / "trials.jsonl")
    assert len(after) == before.count(b"\n") + 1, "other costs are another trial"


def test_without_a_register_to_read_an_evaluation_stands_alone(workplace, capfd) -> None:
    register, kept = workplace / "trials.jsonl", workplace / "kept.jsonl"
    first = figures_of(workplace / "seed-7")["out_of_sample"]
    register.rename(kept)
    register.mkdir()
    try:
        run = backtest.load_run(workplace / "seed-7")
        returns = trials.load_returns(kept, [t for t in trials.read(kept) if t.period == "test"][:1])[:, 0]
        test = selection.record_evaluation(run.setup, run.folder, 2, "test", returns, "c")
        alone = selection.adjust_for_selection(run.setup, run.folder, test, returns)
    finally:
        register.rmdir()
        kept.rename(register)
    assert "this evaluation could not be recorded in" in capfd.readouterr().err
    assert set(alone) == {"out_of_sample"}
    assert set(alone["out_of_sample"]) == set(first)
    for name, value in first.items():
        assert alone["out_of_sample"][name] == (value if value is None else pytest.approx(value, rel=1e-4)), name


def test_a_damaged_line_of_a_register_is_left_out(workplace, tmp_path) -> None:
    (tmp_path / "seed-7").symlink_to(workplace / "seed-7")
    register = workplace / "trials.jsonl"
    content = register.read_bytes()
    try:
        register.write_bytes(b"nonsense\n" + content)
        with pytest.warns(UserWarning, match="line 1 is no trial; it is left out"):
            backtest.run(workplace / "seed-7")
    finally:
        register.write_bytes(content)
