"""Intervals, tests and corrections for having tried many strategies.

Returns are simple, per bar and net of costs; Sharpe ratios are per bar unless a name says `annual`.
"""

from jaxppo.statistics.autocorrelation import AnnualSharpe, autocorrelation_adjusted_sharpe
from jaxppo.statistics.block_length import optimal_block_length
from jaxppo.statistics.bootstrap import Metric, bootstrap_difference_interval, bootstrap_interval
from jaxppo.statistics.calibration import bootstrap_variance, lost_spread, widened_level, widening
from jaxppo.statistics.comparison import (
    PairedTest,
    SuperiorAbility,
    paired_test,
    reality_check,
    superior_predictive_ability,
)
from jaxppo.statistics.conditional import ConditionalIntervals, conditional_intervals
from jaxppo.statistics.deflated import deflated_sharpe, effective_trials, expected_maximum_sharpe
from jaxppo.statistics.monthly import monthly_returns
from jaxppo.statistics.overfitting import Overfitting, probability_of_backtest_overfitting
from jaxppo.statistics.resampling import stationary_bootstrap_indices
from jaxppo.statistics.sharpe import (
    RollingSharpe,
    minimum_track_record,
    probabilistic_sharpe,
    probabilistic_sharpe_of,
    rolling_sharpe,
    sharpe_error,
)
from jaxppo.statistics.summary import sharpe_per_bar, summarise
from jaxppo.statistics.superiority import superiority_figures

__all__ = [
    "AnnualSharpe",
    "ConditionalIntervals",
    "Metric",
    "Overfitting",
    "PairedTest",
    "RollingSharpe",
    "SuperiorAbility",
    "autocorrelation_adjusted_sharpe",
    "bootstrap_difference_interval",
    "bootstrap_interval",
    "bootstrap_variance",
    "conditional_intervals",
    "deflated_sharpe",
    "effective_trials",
    "expected_maximum_sharpe",
    "lost_spread",
    "minimum_track_record",
    "monthly_returns",
    "optimal_block_length",
    "paired_test",
    "probabilistic_sharpe",
    "probabilistic_sharpe_of",
    "probability_of_backtest_overfitting",
    "reality_check",
    "rolling_sharpe",
    "sharpe_error",
    "sharpe_per_bar",
    "stationary_bootstrap_indices",
    "summarise",
    "superior_predictive_ability",
    "superiority_figures",
    "widened_level",
    "widening",
]
