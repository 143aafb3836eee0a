"""Runs on a simulated market: from the YAML alone, repeated from the folder, and pointed at real prices."""

import json

import numpy as np
import pandas as pd
import pytest
from tiny_run import ROOT, STEPS_PER_ITERATION, command, tiny_config, write_config, write_prices

from jaxppo import backtest
from jaxppo.config import load_config
from jaxppo.envs import simulators
from jaxppo.envs.market import features
from jaxppo.envs.market.periods import periods_per_year
from jaxppo.errors import ConfigError
from jaxppo.run.data import load_data
from jaxppo.run.folder import data_report
from jaxppo.run.simulation import factor_strength

pytestmark = pytest.mark.slow

GBM = {"kind": "gbm", "n_bars": 400, "n_assets": 2}


def market_of(seed=0, **simulation):
    return load_data(tiny_config(seed=seed, data={"path": "simulated"}, simulation=simulation))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two iterations on a simulated market."""
    folder = tmp_path_factory.mktemp("simulated")
    config = write_config(folder, training={"steps": 2 * STEPS_PER_ITERATION}, simulation=GBM)
    data = ("--data.path", "simulated")
    assert command("train", "--config", config, *data, "--output", folder / "run") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def summary(run):
    return json.loads((run / "summary.json").read_text())["out_of_sample"]


def test_the_market_repeats_from_the_folder(run, summary):
    assert backtest.run(run) == summary
    data = json.loads((run / "metadata.json").read_text())["data"]
    assert data["fingerprint"] == data_report(market_of(seed=7, **GBM))["fingerprint"]
    assert data["learned_from"]["symbols"] == ["SIM1", "SIM2"]
    assert data["learned_from"]["last"].startswith("2001-")
    assert summary["first_bar"].startswith("2001-")


@pytest.mark.slow
def test_another_market_and_real_prices(run, summary, tmp_path):
    other = backtest.run(run, overrides=["--simulation.seed", "8"])
    assert other["n_bars"] == summary["n_bars"]
    assert other["baseline"]["buy_and_hold"]["total_return"] != summary["baseline"]["buy_and_hold"]["total_return"]
    real = backtest.run(run, data=write_prices(tmp_path / "real.csv", symbols=("SOLO",)))
    assert real["last_bar"].startswith("2016-")
    with pytest.raises(ConfigError, match="the prices are not those that the run was started with"):
        backtest.run(run, overrides=["--seed", "8"])


def test_seeds_of_the_market():
    """The run's own seed unless it has one of its own."""
    one, two = market_of(seed=1, **GBM), market_of(seed=2, **GBM)
    assert np.abs(np.asarray(one.close - two.close)).max() > 1
    for seed in (1, 2):
        config = tiny_config(seed=seed, data={"path": "simulated"}, simulation={**GBM, "seed": 1})
        np.testing.assert_array_equal(load_data(config).close, one.close)


@pytest.mark.parametrize("kind", ["gbm", "regime_switching", "stochastic_volatility_jumps"])
def test_every_kind(kind):
    market = market_of(kind=kind, n_bars=300, n_assets=3, half_spread=0.002)
    assert market.close.shape == (300, 3)
    assert np.unique(market.half_spread) == pytest.approx([0.002])
    assert market.info.symbols == ("SIM1", "SIM2", "SIM3")
    times = pd.DatetimeIndex(market.info.timestamps)
    assert list(times) == list(pd.bdate_range("2000-01-03", periods=300))
    np.testing.assert_array_equal(times.day_of_week, market.day_of_week)
    seconds = np.diff(market.info.timestamps) / np.timedelta64(1, "s")
    np.testing.assert_array_equal(seconds, market.seconds_since_previous[1:])


def test_the_longest_market_has_times():
    assert str(market_of(kind="gbm", n_bars=2**16, n_assets=1).info.timestamps[-1]).startswith("2251-")


def test_the_target_scenario_is_what_it_says():
    """Sharpe 4 after all the costs that are charged; the volume features show the factor."""
    config = load_config(ROOT / "configs" / "target.yaml")
    chosen, costs = config.simulation, config.costs
    assert (costs.slippage, costs.impact, costs.borrow_rate, costs.commission_minimum) == (0.0, 0.0, 0.0, 0.0)
    assert (costs.commission_bps, costs.spread_multiplier) == (chosen.commission_bps, 1.0)
    market = load_data(config)
    options = {"persistence": chosen.persistence, "volatility": chosen.volatility}
    best = simulators.solve_costly_factor(
        factor_strength(chosen), cost=chosen.half_spread + 1e-4 * chosen.commission_bps, **options
    )
    assert best.sharpe_per_bar * (chosen.n_assets * periods_per_year(market)) ** 0.5 == pytest.approx(4.0, rel=2e-4)
    assert np.unique(market.half_spread) == pytest.approx([chosen.half_spread])
    groups, window = config.features.groups, config.features.normalisation_window
    table = features.compute_features(market, groups=groups, normalisation_window=window)
    column = features.feature_names(groups).index("relative_volume")
    formed = slice(2 * features.warmup(groups, window), None)
    factor = np.asarray(simulators.revealed_factor(market))[formed].ravel()
    assert np.corrcoef(np.asarray(table)[formed, :, column].ravel(), factor)[0, 1] > 0.97
