"""Repeating an evaluation: the same numbers, other costs, other prices."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from tiny_run import (
    N_BARS,
    SHARED_DATA,
    STEPS_PER_ITERATION,
    command,
    prices,
    snapshot,
    write_config,
    write_prices,
)

import jaxppo
from jaxppo import backtest
from jaxppo.backtest import by_regime, evaluation
from jaxppo.config import load_config
from jaxppo.envs import simulators
from jaxppo.envs.market.features import REGIMES
from jaxppo.errors import ConfigError
from jaxppo.run import folder as run_folder
from jaxppo.run.lock import owned


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    """The finished run, in a folder of its own."""
    return pathlib.Path(shutil.copytree(finished / "run", tmp_path_factory.mktemp("backtest") / "run"))


@pytest.fixture(scope="module")
def summary(run):
    return json.loads((run / "summary.json").read_text())["out_of_sample"]


def test_the_numbers_repeat_exactly_and_the_run_is_left_alone(run, summary):
    before = snapshot(run)
    assert backtest.run(run) == summary
    assert snapshot(run) == before


def test_with_an_output_folder(run, summary, tmp_path, capfd):
    assert command("backtest", "--run", run, "--output", tmp_path / "again") == 0
    assert json.loads((tmp_path / "again" / "summary.json").read_text())["out_of_sample"] == summary
    assert {path.name for path in (tmp_path / "again").iterdir()} == {"summary.json", "report.html"}
    printed = capfd.readouterr().out
    assert printed == f"{backtest.describe(summary)}\nreport: {tmp_path / 'again' / 'report.html'}\n"
    assert f"{summary['n_bars']} bars, {summary['first_bar']} to {summary['last_bar']}" in printed
    assert all(name in printed for name in ("agent", "buy_and_hold", "flat", "volatility_target"))


def test_an_output_folder_has_one_owner(run, tmp_path):
    with owned(tmp_path), pytest.raises(ConfigError, match="another process is writing into it"):
        backtest.run(run, output=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_report_of_a_run_that_is_not_finished_says_so(run, tmp_path, capfd):
    copy = tmp_path / "runs" / "copy"
    shutil.copytree(run, copy)
    run_folder.write_metadata(copy, run_folder.read_metadata(copy), finished=False)
    backtest.run(copy, output=tmp_path / "again")
    assert "copy: is not finished; its policy is the best on validation so far" in capfd.readouterr().err
    assert "is not finished" in (tmp_path / "again" / "report.html").read_text(encoding="utf-8")


def test_bars_belong_to_the_regime_in_which_they_were_decided(run, summary):
    """Adds up to the whole; the regime of the bar's own close is another split."""
    saved = backtest.load_run(run)
    regimes = by_regime.regimes_over(saved.setup, saved.setup.periods["test"])
    result = evaluation.evaluate(saved.setup, saved.network, saved.params)
    annual, n = saved.setup.periods_per_year, summary["n_bars"]
    assert len(set(regimes)) > 1
    for name, own in {"agent": summary, **summary["baseline"]}.items():
        returns, found = result.ledgers[name].returns, own["by_regime"]
        assert sum(row["n_bars"] for row in found.values()) == n
        assert sum(row["share"] * row["turnover"] for row in found.values()) == pytest.approx(own["turnover"])
        for number, regime in enumerate(REGIMES):
            inside = regimes[:-1] == number
            assert (regime in found) == inside.any()
            if inside.any():
                mean = returns[inside].mean() * annual
                assert found[regime].get("annual_return", mean) == pytest.approx(mean)
        ledger = result.ledgers[name]
        weights, equity = np.asarray(ledger.weights), np.asarray(ledger.equity, np.float64)
        paid = np.asarray(ledger.paid, np.float64).sum(axis=1) + np.asarray(ledger.financing)
        for figure, expected in (
            ("gross", np.abs(weights).sum(axis=1).mean()),
            ("net", weights.sum(axis=1).mean()),
            ("costs", (paid / equity[:-1]).mean() * annual),
        ):
            assert sum(row["share"] * row[figure] for row in found.values()) == pytest.approx(expected, rel=1e-4)


def test_drawdowns_one_by_one(run, summary):
    rows = summary["drawdowns"]
    assert rows[0]["depth"] == pytest.approx(summary["max_drawdown"], rel=1e-4)
    assert [row["depth"] for row in rows] == sorted((row["depth"] for row in rows), reverse=True)
    assert all(summary["first_bar"] <= row["peak"] < row["trough"] <= summary["last_bar"] for row in rows)
    report = (run / "report.html").read_text()
    for title in ("By regime", "Drawdowns and recovery", "Shaded: the regime of the market"):
        assert title in report


def test_the_parts_add_up_to_the_whole(run, summary):
    earned = summary["contribution"]
    whole = sum(earned["assets"].values()) + earned["financing"] + earned["other"]
    assert whole == pytest.approx(summary["total_return"], abs=1e-6)
    assert abs(earned["other"]) < 1e-5
    assert np.prod([1.0 + change for change in summary["monthly"].values()]) == pytest.approx(
        1.0 + summary["total_return"], abs=1e-6
    )
    assert summary["annual_return"] == pytest.approx(summary["calmar"] * summary["max_drawdown"], rel=1e-4)
    report, page = (run / "report.html").read_text(), (run / "metrics.jsonl").read_text()
    assert "<h1>run on prices.csv, costs." not in report, "costs as they come are not named"
    assert "<h1>run on prices.csv</h1>" in report
    assert '"validation_sharpe_error": ' in page
    assert "<h3>validation sharpe</h3>" in report


def test_too_few_bars_to_tell_are_absent(summary):
    for own in (summary, *summary["baseline"].values()):
        for figures in own["by_regime"].values():
            known = figures["n_bars"] >= by_regime.LEAST_BARS
            assert known or not {"sharpe", "sharpe_ci", "annual_return", "annual_return_ci"} & set(figures)
            assert None not in figures.get("annual_return_ci", [])


def test_the_number_of_devices_does_not_matter(run, summary, tmp_path):
    """A run of 64 devices can be evaluated on a laptop."""
    text = (run / "config.yaml").read_text().rpartition("# sha256: ")[0]
    assert load_config(run / "config.yaml").training.devices == 1
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "config.yaml").write_text(text.replace("devices: 1", "devices: 64"))
    assert backtest.run(copy) == summary


def test_other_costs(run, summary):
    assert "notes" not in summary
    free = [f"--costs.{name}=0" for name in ("commission_bps", "spread_multiplier", "slippage", "impact")]
    without = backtest.run(run, overrides=[*free, "--costs.borrow_rate", "0", "--costs.margin_rate", "0"])
    assert without["costs"] == 0
    holding, free_holding = summary["baseline"]["buy_and_hold"], without["baseline"]["buy_and_hold"]
    assert holding["costs"] > 0 == free_holding["costs"]
    assert free_holding["total_return"] > holding["total_return"]
    opened = backtest.load_run(run, overrides=["--costs.impact", "1.5", "--costs.slippage", "0.05"])
    assert opened.title == (
        "run on prices.csv, costs.slippage 0.05 (trained with 0.02), costs.impact 1.5 (trained with 0.6)"
    )
    dear = backtest.run(run, overrides=["--costs.commission-bps", "100"])["baseline"]["buy_and_hold"]
    assert dear["costs"] - holding["costs"] == pytest.approx(0.0099 * 1.0, rel=0.02), "1 % instead of 1 bp, once"


@pytest.mark.slow
def test_an_evaluation_can_size_positions(run, summary):
    floor = "[{volatility_target: {target: 0.05}}, {drawdown_control: {limit: 0.01, move: 0.1}}]"
    sized = backtest.run(run, overrides=["--sizing", floor])
    assert sized["max_drawdown"] <= 0.01 < summary["max_drawdown"]
    assert sized["turnover"] > 0
    assert sized["baseline"] != summary["baseline"], "the intervals of differences are those to the sized account"
    held = [each["baseline"]["buy_and_hold"]["total_return"] for each in (sized, summary)]
    assert held[0] == held[1]


@pytest.mark.parametrize(
    ("option", "named"),
    [("--ppo.learning-rate=1", "--ppo.learning_rate is 1.0"), ("--policy.width=32", "--policy.width is 32")],
)
def test_what_was_learned_cannot_be_changed(option, named, run):
    with pytest.raises(ConfigError, match=f"{named}, but the run was trained with .* cannot change policy, ppo"):
        backtest.run(run, overrides=[option])


def test_what_a_reader_must_know_is_in_red(run, tmp_path):
    options = ["--env.fill-price", "decision_close", "--data.volume", "none"]
    result = backtest.run(run, overrides=options, output=tmp_path / "again")
    page = (tmp_path / "again" / "report.html").read_text()
    assert "not attainable" in page
    without = (
        "No usable volume of 2 of 2 symbols (AAA, BBB): no participation limit and no market impact applies there."
    )
    assert result["notes"] == [without]
    assert f"<li>{without}</li>" in page
    assert without in backtest.describe(result).splitlines()


def test_other_prices_are_evaluated_as_a_whole(run, tmp_path):
    """One other symbol instead of two; from the first bar that has its history to the last."""
    path = write_prices(tmp_path / "other.csv", symbols=("SOLO",), seed=5)
    result = backtest.run(run, data=path)
    assert result["last_bar"][:10] == prices()["date"].iloc[-1]
    first = prices()["date"].iloc[N_BARS - 1 - result["n_bars"]]
    assert result["first_bar"][:10] == first
    assert result["n_bars"] > 300
    table = prices(symbols=("SOLO",), seed=5).set_index("date")
    at = table.index.get_loc(first)
    plain = table["close"].iloc[-1] / table["open"].iloc[at + 1] - 1
    assert result["baseline"]["buy_and_hold"]["total_return"] == pytest.approx(plain, abs=0.02)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED_DATA / "us88_1d.parquet").exists(), reason="the folder of external data is absent")
def test_many_real_stocks(run):
    result = backtest.run(
        run, data=SHARED_DATA / "us88_1d.parquet", overrides=["--evaluation.bootstrap-resamples", "100"]
    )
    assert result["n_bars"] > 1000
    assert result["baseline"]["buy_and_hold"]["sharpe"] > 0
    assert np.isfinite(result["total_return"])


def test_figures_that_do_not_exist_are_said_to_be_undefined(summary):
    flat = summary["baseline"]["flat"]
    assert flat["sharpe"] is None
    line = next(line for line in backtest.describe(summary).splitlines() if line.startswith("flat"))
    assert "undefined" in line
    assert ".." not in line
    assert "0.0%" in line


def test_bars_that_the_run_has_learned_from_are_not_evaluated(run, summary, tmp_path):
    """The run's own file again: what is left begins after validation and the purge, as its own test period does."""
    path = write_prices(tmp_path / "same.csv")
    result = backtest.run(run, data=path)
    assert (result["first_bar"], result["n_bars"]) == (summary["first_bar"], summary["n_bars"])
    early = prices().groupby("symbol").head(N_BARS * 7 // 10)
    early.to_csv(tmp_path / "early.csv", index=False)
    with pytest.raises(ConfigError, match=r"the run was trained and selected on .* give later prices or other symbols"):
        backtest.run(run, data=tmp_path / "early.csv")


def test_overrides_do_not_move_the_test_onto_bars_that_were_learned_from(run, summary):
    pattern = r"^--data.train 0.2, --data.validation 0.1: the test period would begin on .* selected on bars up to"
    with pytest.raises(ConfigError, match=pattern):
        backtest.run(run, overrides=["--data.train", "0.2", "--data.validation", "0.1"])
    later = backtest.load_run(run, overrides=["--data.train", "0.75", "--data.validation", "0.1"])
    assert later.setup.periods["test"].first > backtest.load_run(run).setup.periods["test"].first


@pytest.mark.slow
def test_nor_on_a_market_without_times(tmp_path):
    market = simulators.gbm(jax.random.key(3), N_BARS, 2)
    config = load_config(write_config(tmp_path, training={"steps": STEPS_PER_ITERATION}))
    result = jaxppo.train(config, output=tmp_path / "run", market=market, progress=False)
    assert backtest.run(tmp_path / "run", market=market) == result.summary["out_of_sample"]
    with pytest.raises(ConfigError, match=r"^--data.train 0.5: the test period would begin on bar \d+, but"):
        backtest.run(tmp_path / "run", market=market, overrides=["--data.train", "0.5"])
