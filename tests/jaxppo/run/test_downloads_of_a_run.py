"""A run finds the prices that it was started with: downloads, patterns of files, tables of databases."""

import json

import numpy as np
import pandas as pd
import pytest

from jaxppo.cli.checks.training import check_training_of
from jaxppo.config import load_config
from jaxppo.config.own import own_names
from jaxppo.envs.data.sources import yahoo
from jaxppo.envs.data.sources.series import Series
from jaxppo.errors import DataError
from jaxppo.run.data import load_data, recorded_path
from jaxppo.run.folder import check_same_data, data_report
from jaxppo.run.title import _prices

DAYS = pd.bdate_range("2019-01-01", periods=200)


def prices(level=100.0):
    close = level * (1 + 0.01 * (np.arange(len(DAYS)) % 7))
    return pd.DataFrame({"time": DAYS, "open": close, "high": close, "low": close, "close": close, "volume": 1e6})


@pytest.fixture
def vendor(monkeypatch, tmp_path):
    """Prices that are others each time they are asked for."""
    asked = []

    def bars_of(request):
        asked.append(request)
        return [Series(symbol, prices(100.0 * len(asked))) for symbol in request.symbols]

    monkeypatch.setenv("JAXPPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(yahoo, "bars_of", bars_of)
    return asked


def config_of(path, *overrides):
    return load_config(overrides=["--data.path", path, *overrides])


def started(folder, config):
    """What a run writes of its data when it starts."""
    data = {**data_report(load_data(config)), "path": recorded_path(config)}
    (folder / "metadata.json").write_text(json.dumps({"data": data}))
    return data


def test_a_run_keeps_to_the_download_that_it_was_started_with(vendor, tmp_path):
    config = config_of("yfinance:SPY,QQQ", "--data.refresh", "true")
    data = started(tmp_path, config)
    load_data(config)
    assert len(vendor) == 2, "a newer download is there"
    market = load_data(config, tmp_path)
    check_same_data(tmp_path, data_report(market))
    assert len(vendor) == 2
    for file in (tmp_path / "cache").rglob(data["downloads"][0]["sha256"][:16] + ".*"):
        file.unlink()
    with pytest.raises(DataError, match=r"are no longer in .*/cache/prices; .*give --data yfinance:SPY,QQQ"):
        load_data(config, tmp_path)
    assert len(vendor) == 2


def test_another_period_is_another_download(vendor, tmp_path):
    started(tmp_path, config_of("yfinance:SPY"))
    load_data(config_of("yfinance:SPY", "--data.start", "2019-03-01"), tmp_path)
    assert [request.start for request in vendor] == [None, "2019-03-01"]


def test_one_of_several_sources(vendor, tmp_path):
    prices(50.0).to_csv(tmp_path / "OWN.csv", index=False)
    config = config_of(f"[yfinance:SPY, {tmp_path}/OWN.csv]")
    assert started(tmp_path, config)["symbols"].keys() == {"OWN", "SPY"}
    load_data(config_of(config.data.path[0], "--data.refresh", "true"))
    check_same_data(tmp_path, data_report(load_data(config, tmp_path)))


def test_the_doctor_downloads_only_what_it_is_asked_for(vendor):
    quickstart = ["--data.path", "yfinance:SPY"]
    [finding] = check_training_of("quickstart", None, quickstart)
    assert (finding.level, len(vendor)) == ("warn", 0)
    assert "jaxppo doctor --data yfinance:SPY" in str(finding)
    assert next(check_training_of(None, "yfinance:SPY")).level == "ok"
    assert len(vendor) == 1
    assert next(check_training_of("quickstart", None, quickstart)).level == "ok", "which is kept now"
    assert len(vendor) == 1


def test_sources_are_no_own_code_and_have_their_name_in_titles():
    config = config_of("yfinance:SPY")
    assert not list(own_names(config))
    assert _prices(config) == ["yfinance:SPY"]
    assert _prices(config_of("ccxt:binance:BTC/USDT:1h")) == ["ccxt:binance:BTC/USDT:1h"]


@pytest.mark.parametrize("what", ["pattern", "database"])
def test_relative_patterns_and_databases_are_found_from_elsewhere(what, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    if what == "pattern":
        (tmp_path / "lake" / "symbol=A").mkdir(parents=True)
        prices().to_parquet("lake/symbol=A/0.parquet")
        path, there = "lake/**/*.parquet", f"{tmp_path}/lake/**/*.parquet"
    else:
        duckdb = pytest.importorskip("duckdb", reason="needs the extra duckdb")
        with duckdb.connect("prices.db") as database:
            database.register("frame", prices())
            database.execute("CREATE TABLE bars AS SELECT * FROM frame")
        path, there = "duckdb:prices.db:bars", f"duckdb:{tmp_path}/prices.db:bars"
    config = config_of(path)
    assert started(tmp_path, config)["path"] == there
    monkeypatch.chdir(tmp_path / "elsewhere")
    check_same_data(tmp_path, data_report(load_data(config, tmp_path)))
    with pytest.raises(DataError):
        load_data(config)


def test_dates_of_the_configuration_are_checked_when_it_is_read():
    with pytest.raises(ValueError, match=r"data\.start is .*; allowed: date such as 2010-12-31"):
        config_of("us5_1d", "--data.start", "yesterday")
