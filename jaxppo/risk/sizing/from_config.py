"""The sizing of a configuration."""

from __future__ import annotations

from collections.abc import Sequence

from jaxppo.config_sizing import SizingConfig
from jaxppo.risk.sizing.drawdown import drawdown_control
from jaxppo.risk.sizing.kelly import kelly
from jaxppo.risk.sizing.parity import equal_risk_contribution
from jaxppo.risk.sizing.projection import projection
from jaxppo.risk.sizing.transform import Sizing, chain
from jaxppo.risk.sizing.volatility import volatility_target

FACTORIES = {
    factory.__name__: factory
    for factory in (kelly, volatility_target, equal_risk_contribution, projection, drawdown_control)
}


def make_sizing(configs: Sequence[SizingConfig]) -> Sizing | None:
    """The chain of the configured transforms, None for none.

    Raises:
      ValueError: names the transform whose keys do not fit together.
    """
    parts = []
    for number, config in enumerate(configs):
        try:
            parts.append(FACTORIES[config.kind](**dict(config.values)))
        except ValueError as error:
            raise ValueError(f"sizing[{number}].{config.kind}: {error}") from None
    return chain(*parts) if parts else None
