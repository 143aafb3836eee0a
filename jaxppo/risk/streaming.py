"""Risk metrics in constant memory: a state that takes one bar at a time, for loops that never keep their returns.

Mean and shape, shortfalls, drawdowns, Gaussian and Cornish-Fisher tails need no ordering of the returns. Names, values
and conventions are those of `jaxppo.risk.metrics`. Quantiles, and so historical VaR, CVaR and CDaR, need all returns.

    stream = streaming.start((n_accounts,))
    stream = stream.update(returns_of_this_bar)        # inside a scan
    stream.sharpe(periods=252.0)                       # [n_accounts]

Reference for the moments: Pebay, "Formulas for Robust, One-Pass Parallel Computation of Covariances and Arbitrary-Order
Statistical Moments", Sandia 2008, equations 2.1, 3.1 with one new value.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.risk.metrics import tails
from jaxppo.risk.metrics.common import TRADING_DAYS, choice, log_growth, ratio, tail_count


class Stream(struct.PyTreeNode):
    """Running sums from which the metrics follow; build with `start`. Fields are `[...]` where not said.

    Attributes:
      target: `[]` return per bar that divides gain from shortfall (`downside_deviation`, `sortino`, `omega`).
      count: bars.
      mean: of the returns.
      moments: `[3, ...]` sums of the second to fourth powers of the deviations from it.
      least: smallest return; equal to the largest for a constant series.
      most: largest return.
      growth: `[2, ...]` log growth of the equity, and its compensation for rounding.
      peak: largest log growth so far, that of the start, 0, included.
      depth: largest log drawdown.
      squares: sum of the squared drawdowns.
      since: bars since the peak.
      longest: bars of the longest drawdown.
      gain: sum of the returns beyond the target.
      loss: sum of the shortfalls below it.
      shortfall: sum of their squares.
      won: `[2, ...]` bars with a gain, and bars with a return other than 0.
      earned: `[2, ...]` sums of the gains and of the losses.
    """

    target: jax.Array
    count: jax.Array
    mean: jax.Array
    moments: jax.Array
    least: jax.Array
    most: jax.Array
    growth: jax.Array
    peak: jax.Array
    depth: jax.Array
    squares: jax.Array
    since: jax.Array
    longest: jax.Array
    gain: jax.Array
    loss: jax.Array
    shortfall: jax.Array
    won: jax.Array
    earned: jax.Array

    def update(self, returns: jax.Array) -> Stream:
        """Takes another bar with simple returns `[...]`."""
        count = self.count + 1
        step = returns - self.mean
        part = step / count
        product = step * part * self.count
        second, third, fourth = self.moments
        n = count.astype(step.dtype)
        fourth += product * part**2 * (n * n - 3.0 * n + 3.0) + 6.0 * part**2 * second - 4.0 * part * third
        third += product * part * (n - 2.0) - 3.0 * part * second
        second += product

        # Compensated: the sum of 100,000 small steps, each of which would be rounded.
        level, lost = self.growth
        term = log_growth(returns) - lost
        total = level + term
        lost = jnp.where(jnp.isfinite(total), (total - level) - term, 0.0)
        peak = jnp.maximum(self.peak, total)
        depth = peak - total
        slack = 16.0 * jnp.finfo(step.dtype).eps * jnp.maximum(jnp.abs(peak), 1.0)
        under = depth > slack
        since = jnp.where(under | (self.since > 0), self.since + 1, 0)
        drawdown = -jnp.expm1(-depth)

        excess = returns - self.target
        short = jnp.maximum(-excess, 0.0)
        return dataclasses.replace(
            self,
            count=count,
            mean=self.mean + part,
            moments=jnp.stack([second, third, fourth]),
            least=jnp.minimum(self.least, returns),
            most=jnp.maximum(self.most, returns),
            growth=jnp.stack([total, lost]),
            peak=peak,
            depth=jnp.maximum(self.depth, depth),
            squares=self.squares + jnp.square(drawdown),
            since=jnp.where(under, since, 0),
            longest=jnp.maximum(self.longest, since),
            gain=self.gain + jnp.maximum(excess, 0.0),
            loss=self.loss + short,
            shortfall=self.shortfall + jnp.square(short),
            won=self.won + jnp.stack([returns > 0, returns != 0]),
            earned=self.earned + jnp.stack([jnp.maximum(returns, 0.0), jnp.maximum(-returns, 0.0)]),
        )

    def total_return(self) -> jax.Array:
        """Total return so far."""
        return jnp.expm1(self.growth[0])

    def annual_return(self, *, periods: float = TRADING_DAYS) -> jax.Array:
        """Compound annual growth rate."""
        return self._known(jnp.expm1(self.growth[0] * (periods / jnp.maximum(self.count, 1))), 1)

    def volatility(self, *, periods: float = TRADING_DAYS, ddof: int = 1) -> jax.Array:
        """Annualised standard deviation.

        Args:
          periods: bars per year.
          ddof: the variance divides by `n - ddof`.
        """
        variance = self.moments[0] / jnp.maximum(self.count - ddof, 1)
        return self._known(jnp.where(self._constant, 0.0, jnp.sqrt(variance)) * math.sqrt(periods), 2)

    def downside_deviation(self, *, periods: float = TRADING_DAYS) -> jax.Array:
        """Annualised root mean square shortfall below the target."""
        return self._known(jnp.sqrt(self.shortfall / jnp.maximum(self.count, 1)) * math.sqrt(periods), 2)

    def sharpe(self, *, periods: float = TRADING_DAYS, risk_free: float = 0.0, ddof: int = 1) -> jax.Array:
        """Sharpe ratio.

        Args:
          periods: bars per year.
          risk_free: return per bar of the safe asset.
          ddof: the variance divides by `n - ddof`.
        """
        return ratio((self._mean - risk_free) * periods, self.volatility(periods=periods, ddof=ddof))

    def sortino(self, *, periods: float = TRADING_DAYS) -> jax.Array:
        """Sortino ratio, with the target as the required return."""
        return ratio((self._mean - self.target) * periods, self.downside_deviation(periods=periods))

    def omega(self) -> jax.Array:
        """Omega ratio at the target."""
        return self._known(jnp.where(self.loss > 0, ratio(self.gain, self.loss), jnp.nan), 2)

    def max_drawdown(self) -> jax.Array:
        """Maximum drawdown."""
        return -jnp.expm1(-self.depth)

    def max_drawdown_duration(self) -> jax.Array:
        """Duration of the longest drawdown, bars."""
        return jnp.where(jnp.isnan(self.mean), jnp.nan, self.longest.astype(self.mean.dtype))

    def calmar(self, *, periods: float = TRADING_DAYS) -> jax.Array:
        """Calmar ratio."""
        drawdown = self.max_drawdown()
        return jnp.where(drawdown > 0, ratio(self.annual_return(periods=periods), drawdown), jnp.nan)

    def ulcer_index(self, *, ddof: int = 0) -> jax.Array:
        """Ulcer index."""
        return self._known(jnp.sqrt(self.squares / jnp.maximum(self.count - ddof, 1)), max(1 + ddof, 1))

    def skewness(self, *, bias: bool = True) -> jax.Array:
        """Skewness."""
        n = self.count.astype(self.mean.dtype)
        skew = self._shape[0]
        if bias:
            return self._known(skew, 1)
        return self._known(skew * jnp.sqrt(n * (n - 1.0)) / jnp.maximum(n - 2.0, 1.0), 3)

    def kurtosis(self, *, excess: bool = True, bias: bool = True) -> jax.Array:
        """Kurtosis.

        Args:
          excess: subtract 3.
          bias: moments divide by n; otherwise the adjusted estimator `G2`.
        """
        n = self.count.astype(self.mean.dtype)
        beyond = self._shape[1]
        if not bias:
            beyond = (n - 1.0) / jnp.maximum((n - 2.0) * (n - 3.0), 1.0) * ((n + 1.0) * beyond + 6.0)
        return self._known(beyond if excess else beyond + 3.0, 1 if bias else 4)

    def value_at_risk(
        self, *, level: float = 0.95, method: Literal["gaussian", "cornish_fisher"] = "gaussian"
    ) -> jax.Array:
        """Value at risk.

        Args:
          level: confidence in (0, 1).
          method: from mean and standard deviation, or corrected for skewness and kurtosis.
        """
        return tails.value_at_risk_of(*self._of_method(level, method), level)

    def conditional_value_at_risk(
        self, *, level: float = 0.95, method: Literal["gaussian", "cornish_fisher"] = "gaussian"
    ) -> jax.Array:
        """Conditional value at risk.

        Args:
          level: confidence in (0, 1).
          method: from mean and standard deviation, or corrected for skewness and kurtosis.
        """
        return tails.conditional_value_at_risk_of(*self._of_method(level, method), level)

    def win_rate(self, *, count_flat: bool = False) -> jax.Array:
        """Share of bars with a gain."""
        counted = self.count if count_flat else self.won[1]
        share = ratio(*(x.astype(self.mean.dtype) for x in (self.won[0], counted)))
        return jnp.where(jnp.isnan(self.mean), jnp.nan, share)

    def profit_factor(self) -> jax.Array:
        """Sum of the gains over the sum of the losses."""
        return ratio(*self.earned)

    @property
    def _mean(self) -> jax.Array:
        """A constant series is its mean exactly."""
        return jnp.where(self._constant, self.least, self.mean)

    @property
    def _constant(self) -> jax.Array:
        return self.least == self.most

    @property
    def _shape(self) -> tuple[jax.Array, jax.Array]:
        """Skewness and excess kurtosis, dividing by n; NaN for a constant series."""
        n = jnp.maximum(self.count, 1).astype(self.mean.dtype)
        deviation = jnp.where(self._constant, jnp.nan, jnp.sqrt(self.moments[0] / n))
        unit = jnp.where(deviation > 0, deviation, jnp.nan)
        skew, kurt = self.moments[1] / n / unit / unit / unit, self.moments[2] / n / unit / unit / unit / unit
        return skew, kurt - 3.0

    def _of_method(self, level: float, method: str) -> tuple[jax.Array, jax.Array, Any, Any]:
        """Mean, standard deviation, skewness and excess kurtosis for a method."""
        tail_count(level, 1)
        if choice("method", method, ("gaussian", "cornish_fisher")) == "gaussian":
            return self._mean, self.volatility(periods=1.0), None, None
        skew, excess = (jnp.where(self._constant, 0.0, x) for x in self._shape)
        return self._mean, self.volatility(periods=1.0, ddof=0), skew, excess

    def _known(self, value: jax.Array, n: int) -> jax.Array:
        """Turns `value` into NaN before the n-th bar."""
        return jnp.where(self.count >= n, value, jnp.nan)


def start(shape: tuple[int, ...] = (), *, target: float = 0.0, dtype: Any = jnp.float32) -> Stream:
    """Starts a stream before the first bar, of a batch of any shape.

    Args:
      shape: of the returns of one bar.
      target: return per bar that divides gain from shortfall.
      dtype: of all sums; float32 or float64.
    """
    zero, count, two = jnp.zeros(shape, dtype), jnp.zeros(shape, jnp.int32), jnp.zeros((2, *shape), dtype)
    return Stream(
        target=jnp.asarray(target, dtype), count=count, mean=zero, moments=jnp.zeros((3, *shape), dtype),
        least=zero + jnp.inf, most=zero - jnp.inf, growth=two, peak=zero, depth=zero, squares=zero, since=count,
        longest=count, gain=zero, loss=zero, shortfall=zero, won=jnp.zeros((2, *shape), jnp.int32), earned=two,
    )  # fmt: skip
