"""Performance and risk metrics: jittable functions of per-bar simple returns.

Every function takes `returns`, an array of simple returns `equity_t / equity_{t-1} - 1`, and reduces `axis`; the other
axes are a batch. Arguments that choose a convention are static Python values.

Conventions, everywhere:
  * losses are positive: `max_drawdown`, `value_at_risk` and `conditional_value_at_risk` of a losing strategy are > 0;
  * the equity path includes its start, so a loss in the first bar is a drawdown;
  * `periods` is bars per year and `risk_free` a return *per bar*;
  * a return of -1 or less is ruin: the equity is zero from there on.

Degenerate series, everywhere: a ratio whose denominator is zero is +-inf when its numerator is not zero and NaN when
it is, so that a strategy that never traded has no Sharpe ratio rather than a good or a bad one. Dispersion needs two
bars: below that `volatility`, `sharpe` and `sortino` are NaN. `calmar` is NaN without a drawdown. These are the
choices of empyrical-reloaded. A sample whose values are all equal has zero dispersion exactly, whatever its mean rounds
to. A NaN among the returns makes every metric NaN: missing bars are for the caller to drop.

References: Sharpe, "The Sharpe Ratio", JPM 1994; Sortino & van der Meer, "Downside Risk", JPM 1991; Young, "Calmar
Ratio", Futures 1991; Rockafellar & Uryasev, "Conditional value-at-risk for general loss distributions", JBF 2002.
"""

from jaxppo.risk.metrics.common import TRADING_DAYS
from jaxppo.risk.metrics.drawdowns import (
    calmar,
    conditional_drawdown_at_risk,
    drawdown_path,
    max_drawdown,
    max_drawdown_duration,
    ulcer_index,
)
from jaxppo.risk.metrics.performance import (
    annual_return,
    downside_deviation,
    information_ratio,
    omega,
    sharpe,
    sortino,
    total_return,
    volatility,
)
from jaxppo.risk.metrics.tails import conditional_value_at_risk, kurtosis, skewness, tail_ratio, value_at_risk
from jaxppo.risk.metrics.trades import (
    RoundTripBars,
    RoundTrips,
    exposure,
    profit_factor,
    round_trip_bars,
    round_trips,
    turnover,
    win_rate,
)

__all__ = [
    "TRADING_DAYS",
    "RoundTripBars",
    "RoundTrips",
    "annual_return",
    "calmar",
    "conditional_drawdown_at_risk",
    "conditional_value_at_risk",
    "downside_deviation",
    "drawdown_path",
    "exposure",
    "information_ratio",
    "kurtosis",
    "max_drawdown",
    "max_drawdown_duration",
    "omega",
    "profit_factor",
    "round_trip_bars",
    "round_trips",
    "sharpe",
    "skewness",
    "sortino",
    "tail_ratio",
    "total_return",
    "turnover",
    "ulcer_index",
    "value_at_risk",
    "volatility",
    "win_rate",
]
