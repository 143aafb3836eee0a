"""Coarser bars in a run: refused where they cannot be made, and the same bar by bar."""

import functools

import numpy as np
import pandas as pd
import pytest
from tiny_run import command, tiny_config, write_config

from jaxppo.backtest import conditions_of, load_run, simulate
from jaxppo.backtest.shipping import decided, shipped_of
from jaxppo.config import load_config
from jaxppo.deploy import live_policy
from jaxppo.envs import load_market
from jaxppo.errors import ConfigError
from jaxppo.run.build import build


def prices() -> pd.DataFrame:
    """Hours of two stocks, from half past nine on in New York; Wednesdays close early."""
    rng = np.random.default_rng(3)
    days = pd.bdate_range("2021-01-04", periods=90)
    local = [day + pd.Timedelta(hours=9.5 + n) for day in days for n in range(3 if day.weekday() == 2 else 7)]
    times = pd.DatetimeIndex(local).tz_localize("America/New_York").tz_convert("UTC")
    frames = []
    for symbol in ("AAA", "BBB"):
        close = 100 * np.exp(np.cumsum(0.004 * rng.standard_normal(len(times))))
        bars = {"open": close, "high": 1.002 * close, "low": 0.998 * close, "close": close, "volume": 1e6}
        frames.append(pd.DataFrame({"date": times.strftime("%Y-%m-%d %H:%M:%S+00:00"), "symbol": symbol, **bars}))
    return pd.concat(frames)


@functools.cache
def market():
    return load_market(prices(), timezone="America/New_York")


def config_of(*timeframes, groups=("price", "calendar")):
    features = {"groups": list(groups), "normalisation_window": 12, "timeframes": list(timeframes)}
    return tiny_config(features=features)


def test_the_network_reads_a_group_more_and_decides_later():
    one, other = build(config_of(), market()), build(config_of("2h"), market())
    assert other.env.features.slices["price@2h"] == slice(15, 23)
    assert other.env.first_decision == (63 + 2 + 1) * 2 + other.env.window - 1
    assert one.env.first_decision < other.env.first_decision


@pytest.mark.parametrize(
    ("timeframes", "groups", "words"),
    [
        (["1h"], ["price"], "features.timeframes: 1h is not longer than a bar of these prices, which has 60 minutes"),
        (["1d"], ["price"], "usable of the 558 bars; it needs .* after 462 bars of history"),
    ],
)
def test_what_the_prices_do_not_have_is_refused(timeframes, groups, words):
    with pytest.raises(ConfigError, match=words):
        build(config_of(*timeframes, groups=groups), market())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["--features.timeframes", "[7m]"], r'features.timeframes is \["7m"\]; allowed: list of 5m, 10m'),
        (["--features.timeframes", "[1d, 1d]"], r"features.timeframes \['1d', '1d'\] must name each length once"),
        (["--features.timeframes", "[1d]", "--features.groups", "[calendar]"], "none of which features.groups names"),
    ],
)
def test_keys_that_mean_nothing_are_refused(overrides, words):
    with pytest.raises(ConfigError, match=words):
        load_config(overrides=overrides)


@pytest.mark.slow
def test_a_live_policy_decides_as_the_backtest(tmp_path):
    features = {"groups": ["price", "calendar"], "normalisation_window": 12, "timeframes": ["2h"]}
    data = {"path": str(tmp_path / "hours.csv"), "timezone": "America/New_York", "validation": 0.15}
    config = write_config(tmp_path, data=data, features=features)
    frame = prices()
    frame.to_csv(tmp_path / "hours.csv", index=False)
    assert command("train", "--config", config, "--output", tmp_path / "run") == 0
    run, policy = load_run(tmp_path / "run"), live_policy(tmp_path / "run")
    first = run.setup.env.first_decision
    ledger = simulate(shipped_of(decided(run)), run.setup.market, conditions=conditions_of(run), first=first).ledger
    names = ["open", "high", "low", "close", "volume"]
    for bar, (time, part) in enumerate(frame.groupby("date", sort=True)):
        decision = policy.step({"time": time, "bars": part.set_index("symbol")[names].to_dict("index")})
        if bar >= first and bar < run.setup.market.n_bars - 1:
            found, expected = decision.values["ordered"], ledger.ordered[bar - first]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3, err_msg=str(time))
    assert np.abs(ledger.ordered).sum() > 0
