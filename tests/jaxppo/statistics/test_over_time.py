"""Returns by month and moving Sharpe ratios, against pandas and scipy."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from jaxppo import statistics


def walk(n: int, start: str, step: str) -> pd.Series:
    """Equity at `n + 1` times."""
    growth = np.random.default_rng(0).normal(0.0005, 0.01, n)
    return pd.Series(np.cumprod(np.r_[1e5, 1.0 + growth]), pd.date_range(start, periods=n + 1, freq=step))


@pytest.mark.parametrize(("start", "step"), [("2020-01-31", "B"), ("2019-12-30 14:30", "5h"), ("2020-02-01", "17D")])
def test_months_are_those_of_pandas_and_compound_to_the_total(start, step) -> None:
    equity = walk(400, start, step)
    found = statistics.monthly_returns(equity.to_numpy(), equity.index.to_numpy())
    # The first close is where the account starts: its month begins there, or has no bar of its own.
    closes = equity.iloc[1:].resample("ME").last().dropna()
    expected = pd.concat([equity.iloc[:1], closes]).pct_change().iloc[1:]
    assert list(found) == list(expected.index.strftime("%Y-%m"))
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-12)
    total = equity.iloc[-1] / equity.iloc[0]
    assert np.prod(1.0 + np.array(list(found.values()))) == pytest.approx(total, rel=1e-12)


def test_months_of_no_times_and_of_a_lost_account() -> None:
    assert statistics.monthly_returns(np.ones(5), np.empty(0, "datetime64[ns]")) == {}
    times = np.array(["2020-01-31", "2020-02-28", "2020-03-31"], "datetime64[ns]")
    lost = statistics.monthly_returns(np.array([1.0, -0.5, -0.5]), times)
    assert lost == {"2020-02": -1.5, "2020-03": 0.0}


def test_moving_sharpe_ratios_are_those_of_pandas_and_look_at_nothing_later() -> None:
    returns = np.random.default_rng(1).standard_t(4, 300) * 0.01
    returns[100:170] = 0.0
    ends = np.arange(59, 300, 7)
    found = statistics.rolling_sharpe(returns, 60, ends)
    series = pd.Series(returns)
    moving = series.rolling(60)
    ratio = (moving.mean() / moving.std())[ends].to_numpy()
    still = (moving.max() == moving.min())[ends].to_numpy()
    assert still.any()
    assert (np.isnan(found.ratio) == still).all()
    assert (np.isnan(found.error) == still).all()
    np.testing.assert_allclose(found.ratio[~still], ratio[~still], rtol=1e-3, atol=1e-5)
    for end in ends[~still][::5]:
        own, sharpe = returns[end - 59 : end + 1], ratio[list(ends).index(end)]
        skew, kurtosis = scipy.stats.skew(own), scipy.stats.kurtosis(own, fisher=False)
        error = np.sqrt((1.0 - skew * sharpe + (kurtosis - 1.0) / 4.0 * sharpe**2) / 59)
        assert float(found.error[list(ends).index(end)]) == pytest.approx(error, rel=1e-3)
    later = np.where(np.arange(300) > 150, 0.5, returns)
    again = statistics.rolling_sharpe(later, 60, ends)
    np.testing.assert_array_equal(again.ratio[ends <= 150], found.ratio[ends <= 150])
    for window, last in ((2, 299), (301, 299), (60, 300), (60, 58)):
        with pytest.raises(ValueError, match="must"):
            statistics.rolling_sharpe(returns, window, np.array([last]))
