"""The register of trials: what a run records, once each, whatever is repeated, interrupted or done at once."""

import concurrent.futures
import json
import math
import pathlib
import re

import ffn
import numpy as np
import pandas as pd
import pytest
import quantstats
from tiny_run import STEPS_PER_ITERATION, command, write_config

from jaxppo import backtest
from jaxppo.backtest import selection as looks
from jaxppo.config import ConfigError
from jaxppo.report import selection
from jaxppo.run import trials

LOOK = {"content": "c", "seed": 0, "iteration": 2, "period": "test", "first": "2020-01-01", "last": "2020-09-01"}


def record(register: pathlib.Path, draw: int, n: int = 100, **changed) -> trials.Trial:
    returns = np.random.default_rng(draw).normal(0.0003, 0.01, n).astype(np.float32)
    return trials.record(register, returns, **{**LOOK, "run": f"run-{draw}", "periods": 252.0, **changed})


def many(register: pathlib.Path, worker: int) -> None:
    for number in range(20):
        record(register, number // 2 if worker else number, n=30)
        record(register, 1000 * (worker + 1) + number, n=30)


def test_a_look_is_recorded_once_with_its_returns(tmp_path) -> None:
    register = tmp_path / "trials.jsonl"
    assert trials.read(register) == []
    assert trials.table(register).empty
    first = record(register, 1)
    content = register.read_bytes()
    assert record(register, 1) == first
    assert register.read_bytes() == content, "nothing depends on the clock or the order"
    for changed in ({"iteration": 4}, {"fold": 0}, {"seed": 5}, {"period": "validation"}, {"content": "other costs"}):
        record(register, 1, **changed)
    assert len(trials.read(register)) == 6
    found = trials.table(register)
    assert found["annual_sharpe"][0] == pytest.approx(first.sharpe * math.sqrt(252))
    returns = trials.load_returns(register, [first])
    expected = np.random.default_rng(1).normal(0.0003, 0.01, 100).astype(np.float32)
    np.testing.assert_array_equal(returns[:, 0], expected)
    assert first.sharpe == pytest.approx(expected.mean() / expected.std(ddof=1), rel=1e-5)
    assert record(register, 7, run="idle", content="idle").sharpe != 0
    assert trials.record(register, np.zeros(5), **LOOK, run="flat", periods=252).sharpe == 0.0


def test_a_run_that_is_trained_anew_under_its_name_is_another_look(tmp_path) -> None:
    register = tmp_path / "trials.jsonl"
    first, second = (record(register, draw, run="same") for draw in (1, 2))
    assert (first.attempt, second.attempt) == (0, 1)
    shorter = record(register, 1, n=90, run="same")
    whole = [first, second, shorter]
    assert trials.read(register) == whole
    for draw, expected in ((1, first), (2, second)):
        kept = np.random.default_rng(draw).normal(0.0003, 0.01, 100).astype(np.float32)
        np.testing.assert_array_equal(trials.load_returns(register, [expected])[:, 0], kept)
        rounded = trials.record(register, kept * (1 + 1e-5), **LOOK, run="same", periods=252.0)
        assert rounded == expected, "another device rounds otherwise"
    assert record(register, 1, n=90, run="same") == shorter
    assert trials.read(register) == whole


def test_every_damage_of_a_file_is_one_line(tmp_path) -> None:
    register = tmp_path / "trials.jsonl"
    trial = record(register, 1)
    path, line = tmp_path / "trial_returns" / f"{trial.key}.npz", register.read_text()
    whole, expected = path.read_bytes(), trials.load_returns(register, [trial])
    refused = {}
    for place in range(0, len(whole), 3):
        flipped = whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]
        for damaged in (whole[:place], flipped):
            path.write_bytes(damaged)
            try:
                found = trials.load_returns(register, [trial])
            except ValueError as error:
                found, refused[str(error).partition(":")[0]] = expected, True
            np.testing.assert_array_equal(found, expected)
    assert set(refused) == {str(path)}
    for name, values in {
        "sharpe": ("null", "NaN", "1e999"),
        "periods": ("0", "-1", "NaN"),
        "n_bars": ("1", "null"),
    }.items():
        for value in values:
            register.write_text(re.sub(rf'"{name}": [^,}}]+', f'"{name}": {value}', line))
            with pytest.raises(ValueError, match=r"trials\.jsonl: line 1 (is no trial|has n_bars)"):
                trials.read(register)


def test_writers_at_once_lose_and_repeat_nothing(tmp_path) -> None:
    register = tmp_path / "trials.jsonl"
    # The lock belongs to an opened file, so threads exclude each other as processes do.
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(many, [register] * 3, range(3)))
    found = trials.read(register)
    assert len(found) == len({trial.key for trial in found}) == 20 + 3 * 20
    assert all(trials.load_returns(register, [trial]).shape == (30, 1) for trial in found)


def test_an_unfinished_line_is_dropped_and_a_changed_one_refused(tmp_path) -> None:
    register = tmp_path / "trials.jsonl"
    whole = [record(register, seed) for seed in (1, 2)]
    with open(register, "ab") as file:
        file.write(b'{"key": "ab')
    assert trials.read(register) == whole
    whole.append(record(register, 3))
    assert trials.read(register) == whole
    lines = register.read_text().splitlines()
    register.write_text("\n".join([lines[0], lines[1].replace('"seed": 0', '"seed": 9'), lines[2]]) + "\n")
    with pytest.raises(ValueError, match="line 2 was changed"):
        trials.read(register)
    register.write_text("nonsense\n")
    with pytest.raises(ValueError, match=r"trials\.jsonl: line 1 is no trial"):
        record(register, 4)
    with pytest.raises(ValueError, match="finite"):
        trials.record(tmp_path / "other", np.array([0.1, np.nan]), **LOOK, run="r", periods=252)
    (tmp_path / "trial_returns" / f"{whole[0].key}.npz").unlink()
    with pytest.raises(ValueError, match="run-1 are missing"):
        trials.load_returns(register, whole[:1])


def test_figures_equal_ffn_and_quantstats(tmp_path) -> None:
    register = tmp_path / "trials.jsonl"
    looks = [record(register, seed, period="validation") for seed in range(12)]
    record(register, 50, period="test", n=90, last="2021-01-01")
    best = max(looks, key=lambda trial: trial.sharpe)
    figures = selection.selection_figures(register, best, best)["validation"]
    returns = trials.load_returns(register, looks).astype(np.float64)
    index = pd.bdate_range("2020-01-01", periods=100)
    frame = pd.DataFrame(returns, index=index)
    assert figures["pbo"] == pytest.approx(ffn.core.calc_prob_backtest_overfitting(frame, 10), abs=1e-3)
    assert figures["trials"] == 12
    assert 11 < figures["effective_trials"] <= 12
    spread = np.std([trial.sharpe for trial in looks], ddof=1)
    hurdle = ffn.core.calc_expected_max_sharpe(figures["effective_trials"], spread)
    assert figures["hurdle"] == pytest.approx(hurdle * math.sqrt(252), rel=1e-4)
    series = pd.Series(returns[:, looks.index(best)], index=index)
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


def test_warnings_say_what_it_means() -> None:
    figures = {"out_of_sample": {"trials": 40, "dsr": 0.6, "hurdle": 1.3}, "validation": {"pbo": 0.7}}
    luck, overfit = selection.luck_warnings(figures, 0.95)
    assert "indistinguishable from the best of 40 trials" in luck
    assert "1.30 a year" in luck
    assert "70.00 %" in overfit
    fine = {"out_of_sample": {"trials": 40, "dsr": 0.99, "hurdle": 1.3}, "validation": {"pbo": None}}
    assert selection.luck_warnings(fine, 0.95) == ()
    assert selection.luck_warnings({"out_of_sample": {"trials": 1, "dsr": 0.2, "hurdle": 0.0}}, 0.95) == ()


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


def test_every_run_seed_and_checkpoint_that_was_looked_at_is_there(workplace) -> None:
    found = trials.table(workplace / "trials.jsonl")
    looks = found[found["period"] == "validation"]
    assert sorted(zip(looks["run"], looks["seed"], looks["iteration"], strict=True)) == [
        *(("seed-7", 7, iteration) for iteration in (2, 4, 6)),
        *(("seed-8", 8, iteration) for iteration in (2, 4)),
    ]
    tests = found[found["period"] == "test"]
    assert list(tests["run"]) == ["seed-7", "seed-8"]
    for run in ("seed-7", "seed-8"):
        best = json.loads((workplace / run / "summary.json").read_text())["validation"]
        assert tests.set_index("run").loc[run, "iteration"] == best["best_iteration"]
        look = looks[(looks["run"] == run) & (looks["iteration"] == best["best_iteration"])]
        assert look["annual_sharpe"].item() == pytest.approx(best["best_sharpe"], abs=1e-9)
    first, second = (figures_of(workplace / run) for run in ("seed-7", "seed-8"))
    assert (first["out_of_sample"]["trials"], first["validation"]["trials"]) == (1, 3)
    assert (second["out_of_sample"]["trials"], second["validation"]["trials"]) == (2, 5)
    assert first["out_of_sample"]["dsr"] == first["out_of_sample"]["psr"], "one look: nothing to deflate"
    assert 1 <= second["out_of_sample"]["effective_trials"] < 1.5, "the two are the same portfolio, nearly"
    report = (workplace / "seed-8" / "report.html").read_text()
    assert "Could it be luck?" in report
    assert "Probability that it exceeds that of luck (DSR)" in report
    alone, both = first["superiority"], second["superiority"]
    assert list(both["no_better_than"]) == ["buy_and_hold", "flat", "volatility_target"]
    assert (alone["looks"], both["looks"]) == (1, 2), "the second run is tested with the first"
    assert alone["spa"] == pytest.approx(alone["no_better_than"]["buy_and_hold"], abs=0.15), "one strategy, other draws"
    assert "None of 2 looks at these bars earns more than buy_and_hold" in report
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
    assert len(after) == before.count(b"\n") + 1, "other costs are another look"


def test_without_a_register_to_read_an_evaluation_stands_alone(workplace, capfd) -> None:
    register, kept = workplace / "trials.jsonl", workplace / "kept.jsonl"
    first = figures_of(workplace / "seed-7")["out_of_sample"]
    register.rename(kept)
    register.mkdir()
    try:
        run = backtest.load_run(workplace / "seed-7")
        returns = trials.load_returns(kept, [t for t in trials.read(kept) if t.period == "test"][:1])[:, 0]
        alone = looks.judge(run.setup, run.folder, 2, returns, "c")
    finally:
        register.rmdir()
        kept.rename(register)
    assert "this look could not be recorded in" in capfd.readouterr().err
    assert set(alone) == {"out_of_sample"}
    assert set(alone["out_of_sample"]) == set(first)
    for name, value in first.items():
        assert alone["out_of_sample"][name] == (value if value is None else pytest.approx(value, rel=1e-4)), name


def test_a_register_that_is_damaged_is_a_users_mistake(workplace, tmp_path) -> None:
    (tmp_path / "seed-7").symlink_to(workplace / "seed-7")
    register = workplace / "trials.jsonl"
    content = register.read_bytes()
    try:
        register.write_bytes(b"nonsense\n" + content)
        with pytest.raises(ConfigError, match="line 1 is no trial"):
            backtest.run(workplace / "seed-7")
    finally:
        register.write_bytes(content)
