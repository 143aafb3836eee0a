"""Keys of what a policy tilts around."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from jaxppo.config.book import RunStrategy, with_folders
from jaxppo.config.from_signature import keys_of
from jaxppo.config.items import Item, Keys
from jaxppo.policy import rules

RULES = ("flat", "buy_and_hold", "volatility_target", "inverse_volatility", "trend", "mean_reversion")


class FunctionBase(Keys):
    """A policy of your own."""

    path: Annotated[str, Field(pattern=r"^[\w.]+:\w+$", max_length=200)]
    """`module:function`, which returns a `jaxppo.policy.protocol.Policy`; that alone for short."""


class BaseConfig(Item, kinds={name: keys_of(getattr(rules, name)) for name in RULES}):
    """What a policy tilts around: a name and its keys."""

    run: RunStrategy | None = None
    function: FunctionBase | None = None


def base_written_out(item: Any) -> Any:
    """The mapping that a short form stands for: `trend`, `module:function` or `{run: FOLDER}`.

    Args:
      item: as given.
    """
    if isinstance(item, str) and ":" in item:
        return {"function": {"path": item}}
    return item if item is None or isinstance(item, BaseConfig) else with_folders([item])[0]
