"""Every risk metric beside the library that owns it, on random and degenerate series.

    python tests/metric_oracles.py

prints the largest difference of each pair, in double and in single precision, and writes the table beside the other
results.
"""

import dataclasses
import warnings
from collections.abc import Callable

import empyrical
import ffn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import quantstats.stats as qs
import scipy.stats
import skfolio.measures as sk

from jaxppo.risk import metrics

PERIODS = 252.0


def heavy_tailed_series() -> np.ndarray:
    """756 daily returns with fat tails, a loss in the first bar and a crash of 30 bars."""
    rng = np.random.default_rng(7)
    returns = rng.standard_t(5, 756) * 0.008 + 0.0005
    returns[0] = -0.03
    returns[400:430] -= 0.006
    return returns


def _random(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale = 10 ** rng.uniform(-3, -1)
    return np.maximum(rng.standard_t(4, n) * scale + rng.normal() * 0.1 * scale, -0.9)


SERIES = {
    "heavy tails": heavy_tailed_series(),
    **{f"random {seed}": _random(seed, n) for seed, n in enumerate((37, 252, 252, 252, 1000))},
    "mostly flat": np.where(np.arange(252) % 5, 0.0, _random(9, 252)),
    "five bars": np.array([0.01, -0.02, 0.005, 0.0, -0.001]),
    "two bars": np.array([0.01, -0.02]),
    "one bar": np.array([0.013]),
    "one losing bar": np.array([-0.013]),
    "flat": np.zeros(20),
    "constant gain": np.full(20, 0.001),
    "constant loss": np.full(20, -0.1),
    "only gains": np.array([0.01, 0.02, 0.005, 0.001, 0.03]),
    "only losses": np.array([-0.01, -0.02, -0.005, -0.001, -0.03]),
}
BENCHMARK = {name: np.random.default_rng(99).normal(0.0004, 0.01, len(x)) for name, x in SERIES.items()}
DRAWN = tuple(name for name in SERIES if name.startswith(("heavy", "random")))
VARIED = (*DRAWN, "mostly flat", "five bars")


@dataclasses.dataclass(frozen=True)
class Pair:
    """A metric and its owner's.

    Attributes:
      metric: name in `jaxppo.risk.metrics`, with the arguments that choose the owner's convention.
      library: the owner.
      ours: of jax returns `[n]` (and the benchmark's).
      theirs: of NumPy returns.
      series: where the owner defines the number; all series unless said otherwise.
    """

    metric: str
    library: str
    ours: Callable[..., jax.Array]
    theirs: Callable[..., float]
    series: tuple[str, ...] = tuple(SERIES)


def _prices(returns: np.ndarray) -> pd.Series:
    index = pd.date_range("2021-01-04", periods=len(returns) + 1)
    return pd.Series(100.0 * np.cumprod(np.r_[1.0, 1.0 + returns]), index=index)


def _dated(returns: np.ndarray) -> pd.Series:
    return pd.Series(returns, index=pd.date_range("2021-01-05", periods=len(returns)))


def _longest_drawdown(returns: np.ndarray) -> float:
    """ffn lists drawdowns with their calendar days, which are bars here, from the first one below the peak."""
    details = ffn.drawdown_details(ffn.to_drawdown_series(_prices(returns)))
    return 1.0 + float(details["Length"].max())


def _more_than(n: int) -> tuple[str, ...]:
    return tuple(name for name, x in SERIES.items() if len(x) > n)


m = metrics
PAIRS = (
    Pair("total_return", "empyrical", m.total_return, empyrical.cum_returns_final),
    Pair("annual_return", "empyrical", m.annual_return, empyrical.annual_return),
    Pair("volatility", "empyrical", m.volatility, empyrical.annual_volatility),
    # Of one bar, empyrical has a downside risk but no Sortino ratio; here neither is defined.
    Pair("downside_deviation", "empyrical", m.downside_deviation, empyrical.downside_risk, _more_than(1)),
    Pair(
        "downside_deviation(about=mean, ddof=1)",
        "skfolio",
        lambda r: m.downside_deviation(r, about="mean", ddof=1, periods=1.0),
        sk.semi_deviation,
        _more_than(1),
    ),
    Pair("sharpe", "empyrical", m.sharpe, empyrical.sharpe_ratio),
    Pair(
        "sharpe(risk_free)",
        "quantstats",
        lambda r: m.sharpe(r, risk_free=1.02 ** (1 / PERIODS) - 1),
        lambda r: qs.sharpe(_dated(r), rf=0.02),
        VARIED,
    ),
    Pair("sortino", "empyrical", m.sortino, empyrical.sortino_ratio),
    Pair("sortino", "ffn", m.sortino, lambda r: ffn.calc_sortino_ratio(pd.Series(r), nperiods=252), VARIED),
    Pair("calmar", "empyrical", m.calmar, empyrical.calmar_ratio),
    Pair("omega", "empyrical", m.omega, empyrical.omega_ratio),
    Pair(
        "omega(threshold)",
        "empyrical",
        lambda r: m.omega(r, threshold=0.002),
        lambda r: empyrical.omega_ratio(r, 0.002),
    ),
    Pair("omega", "quantstats", m.omega, lambda r: qs.omega(_dated(r)), VARIED),
    Pair("information_ratio", "empyrical", m.information_ratio, empyrical.excess_sharpe),
    Pair(
        "information_ratio",
        "quantstats",
        m.information_ratio,
        lambda r, b: qs.information_ratio(_dated(r), _dated(b), prepare_returns=False),
        VARIED,
    ),
    Pair("max_drawdown", "empyrical", m.max_drawdown, lambda r: -empyrical.max_drawdown(r)),
    Pair("max_drawdown", "ffn", m.max_drawdown, lambda r: -ffn.calc_max_drawdown(_prices(r))),
    Pair("max_drawdown_duration", "ffn", m.max_drawdown_duration, _longest_drawdown, DRAWN),
    Pair(
        "ulcer_index(compounded=False)",
        "skfolio",
        lambda r: m.ulcer_index(r, compounded=False),
        lambda r: sk.ulcer_index(sk.get_drawdowns(np.r_[0.0, r])[1:]),
        VARIED,
    ),
    Pair(
        "ulcer_index(ddof=1)",
        "quantstats",
        lambda r: m.ulcer_index(r, ddof=1),
        lambda r: qs.ulcer_index(_dated(r)),
        VARIED,
    ),
    Pair(
        "100 ulcer_index(ddof=-1)",
        "ffn",
        lambda r: 100.0 * m.ulcer_index(r, ddof=-1),
        lambda r: ffn.to_ulcer_index(_prices(r)),
    ),
    *(
        Pair(
            f"conditional_drawdown_at_risk(compounded={compounded}, level={level})",
            "skfolio",
            lambda r, c=compounded, q=level: m.conditional_drawdown_at_risk(r, compounded=c, level=q),
            lambda r, c=compounded, q=level: sk.cdar(sk.get_drawdowns(np.r_[0.0, r], compounded=c)[1:], beta=q),
            VARIED,
        )
        for compounded, level in ((False, 0.95), (True, 0.95), (True, 0.8))
    ),
    *(
        Pair(
            f"value_at_risk(level={level})",
            "skfolio",
            lambda r, q=level: m.value_at_risk(r, level=q),
            lambda r, q=level: sk.value_at_risk(r, beta=q),
            VARIED,
        )
        for level in (0.95, 0.9)
    ),
    Pair(
        "value_at_risk(linear)",
        "empyrical",
        lambda r: m.value_at_risk(r, method="linear"),
        lambda r: -empyrical.value_at_risk(r),
    ),
    Pair(
        "value_at_risk(gaussian)",
        "quantstats",
        lambda r: m.value_at_risk(r, method="gaussian"),
        lambda r: -qs.value_at_risk(_dated(r)),
        VARIED,
    ),
    *(
        Pair(
            f"conditional_value_at_risk(level={level})",
            "skfolio",
            lambda r, q=level: m.conditional_value_at_risk(r, level=q),
            lambda r, q=level: sk.cvar(r, beta=q),
            VARIED,
        )
        for level in (0.95, 0.9)
    ),
    Pair(
        "conditional_value_at_risk(lowest)",
        "empyrical",
        lambda r: m.conditional_value_at_risk(r, method="lowest"),
        lambda r: -empyrical.conditional_value_at_risk(r),
    ),
    Pair(
        "conditional_value_at_risk(gaussian)",
        "quantstats",
        lambda r: m.conditional_value_at_risk(r, method="gaussian"),
        lambda r: -qs.conditional_value_at_risk(_dated(r), method="parametric"),
        VARIED,
    ),
    Pair("tail_ratio", "empyrical", m.tail_ratio, empyrical.tail_ratio),
    Pair("tail_ratio", "quantstats", m.tail_ratio, lambda r: qs.tail_ratio(_dated(r), prepare_returns=False), DRAWN),
    Pair("skewness", "scipy", m.skewness, scipy.stats.skew),
    Pair("skewness(bias=False)", "pandas", lambda r: m.skewness(r, bias=False), lambda r: pd.Series(r).skew(), VARIED),
    Pair("kurtosis", "scipy", m.kurtosis, scipy.stats.kurtosis),
    Pair("kurtosis(excess=False)", "skfolio", lambda r: m.kurtosis(r, excess=False), sk.kurtosis, VARIED),
    Pair(
        "kurtosis(bias=False)",
        "quantstats",
        lambda r: m.kurtosis(r, bias=False),
        lambda r: qs.kurtosis(_dated(r), prepare_returns=False),
        VARIED,
    ),
    Pair("win_rate", "quantstats", m.win_rate, lambda r: qs.win_rate(_dated(r), prepare_returns=False), VARIED),
    Pair(
        "profit_factor",
        "quantstats",
        m.profit_factor,
        lambda r: qs.profit_factor(_dated(r), prepare_returns=False),
        VARIED,
    ),
)


def values(pair: Pair, name: str, dtype: type) -> tuple[float, float]:
    """Ours and theirs of a series."""
    arrays = [SERIES[name]]
    arrays += [BENCHMARK[name]] if pair.metric.startswith("information_ratio") else []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        theirs = float(pair.theirs(*arrays))
    with jax.enable_x64(dtype == np.float64):
        return float(pair.ours(*(jnp.asarray(x, dtype) for x in arrays))), theirs


def table() -> list[dict]:
    """A row each pair: largest relative difference over its series in double and in single precision."""
    rows = []
    for pair in PAIRS:
        row = {"metric": pair.metric, "library": pair.library, "series": len(pair.series)}
        for dtype in (np.float64, np.float32):
            both = np.asarray([values(pair, name, dtype) for name in pair.series])
            ours, theirs = both[np.isfinite(both[:, 1])].T
            row[np.dtype(dtype).name] = float(np.max(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-3)))
        rows.append(row)
    return rows


if __name__ == "__main__":
    import pathlib
    import sys

    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
    from benchmarks.recording import record

    rows = table()
    for row in rows:
        print("| {metric} | {library} | {series} | {float64:.0e} | {float32:.0e} |".format(**row))
    print(record("metric_oracles", {"pairs": rows}))
