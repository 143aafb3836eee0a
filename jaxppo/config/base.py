"""Keys of what a policy tilts around."""

from __future__ import annotations

from typing import Any

from jaxppo.arguments import NonNegativeRatio, PositiveInt, PositiveRatio
from jaxppo.config.book import OwnPolicy, RunStrategy, with_folders
from jaxppo.config.from_signature import keys_of
from jaxppo.config.items import Item, Keys, written_out
from jaxppo.policy import rules

RULES = (
    "flat",
    "buy_and_hold",
    "volatility_target",
    "inverse_volatility",
    "trend",
    "mean_reversion",
    "feature_portfolios",
)


class BaseConfig(Item, kinds={name: keys_of(getattr(rules, name)) for name in RULES}, own=OwnPolicy):
    """What a policy tilts around: a name and its keys."""

    run: RunStrategy | None = None


class FeaturePortfoliosStart(Keys):
    """The linear policy of feature portfolios, fitted on the training period (`jaxppo.policy.feature_portfolios`)."""

    target: PositiveRatio = 0.1
    """Volatility per year of the mixture, fraction of equity; decisions beyond `env.levels` are cut."""
    span: PositiveInt = 63
    """Own bars of the exponential forecast of volatility."""
    spread: NonNegativeRatio = 1.0
    """Share of the half-spread that a portfolio is charged for its trades."""
    commission_bps: NonNegativeRatio = 0.0
    """Basis points of the traded notional that it is charged."""


class StartConfig(Item):
    """What the network is fitted to before it learns: a name and its keys."""

    feature_portfolios: FeaturePortfoliosStart | None = None


def start_written_out(item: Any) -> Any:
    """The mapping that a short form stands for: `feature_portfolios`.

    Args:
      item: as given.
    """
    return item if item is None or isinstance(item, StartConfig) else written_out([item])[0]


def base_written_out(item: Any) -> Any:
    """The mapping that a short form stands for: `trend`, `module:function` or `{run: FOLDER}`.

    Args:
      item: as given.
    """
    return item if item is None or isinstance(item, BaseConfig) else with_folders([item])[0]
