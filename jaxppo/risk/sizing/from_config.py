"""The sizing of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxppo.config.sizing import SizingConfig
from jaxppo.risk.sizing.drawdown import drawdown_control
from jaxppo.risk.sizing.kelly import kelly
from jaxppo.risk.sizing.parity import equal_risk_contribution
from jaxppo.risk.sizing.projection import projection
from jaxppo.risk.sizing.transform import Sizing, SizingTransform, chain
from jaxppo.risk.sizing.volatility import volatility_target

FACTORIES = {
    factory.__name__: factory
    for factory in (kelly, volatility_target, equal_risk_contribution, projection, drawdown_control)
}


def make_sizing(configs: Sequence[SizingConfig], make_book: Callable[..., Sizing]) -> Sizing | None:
    """The chain of the configured transforms, None for none.

    Args:
      configs: in order.
      make_book: of a `BookSizing` and the transforms `before` and `after` it; see `jaxppo.book.from_config`.

    Raises:
      ValueError: names the transform whose keys do not fit together.
    """
    kinds = [config.kind for config in configs]
    at = kinds.index("book") if "book" in kinds else len(kinds)
    before, after = _transforms(configs[:at], 0), _transforms(configs[at + 1 :], at + 1)
    if at == len(kinds):
        return chain(*before) if before else None
    try:
        return make_book(configs[at].book, before=before, after=after)
    except ValueError as error:
        raise ValueError(f"sizing[{at}].book: {error}") from None


def _transforms(configs: Sequence[SizingConfig], first: int) -> list[SizingTransform]:
    """Those of `configs`, the first of which has the number `first` in the list; see `make_sizing`."""
    parts = []
    for number, config in enumerate(configs, start=first):
        try:
            parts.append(FACTORIES[config.kind](**dict(config.values)))
        except ValueError as error:
            raise ValueError(f"sizing[{number}].{config.kind}: {error}") from None
    return parts
