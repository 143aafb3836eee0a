"""Parts of a run that are a user's own code: what its functions return, named and of the right kind."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

from jaxppo.arguments import parameters_of
from jaxppo.config import Config
from jaxppo.config.items import OWN, Item, OwnFunction
from jaxppo.config.own import is_own
from jaxppo.envs.trading.transform import Transform
from jaxppo.errors import ConfigError
from jaxppo.own_code import Call, call_of, find, meant_by, said, type_shown
from jaxppo.policy.networks.own import SHAPE, OwnNetwork, own_network
from jaxppo.policy.protocol import Policy

Part = TypeVar("Part")


def own_part(values: OwnFunction, key: str, kind: type[Part], **from_run: Any) -> Part:
    """What a function of a user's own returns.

    Args:
      values: its name and options.
      key: that names it, for messages.
      kind: what it has to return.
      **from_run: arguments that the run gives to functions that take them.

    Raises:
      ConfigError: it is not found, does not take its options, fails, or returns something else.
    """
    code = find(values.path, key)
    call = call_of(code, key, values.options or {}, given=from_run)
    taken = parameters_of(code.function)
    given = {name: value for name, value in from_run.items() if name in taken}
    try:
        made = call(**given) if given else _made(call)
    except (Exception, SystemExit) as error:  # whatever the code of a user raises is a mistake of the user
        raise ConfigError(f"{key} {values.path}: {said(error)}") from error
    if not isinstance(made, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise ConfigError(
            f"{key} {values.path} returns {type_shown(made)}; {article} {kind.__name__} is expected{meant_by(key)}"
        )
    return made


@functools.lru_cache
def _made(call: Call) -> Any:
    """What a call returns: one object for equal calls, so that it is compiled once."""
    return call()


def own_transform(values: OwnFunction, key: str, **from_run: Any) -> Any:
    """A mask, sizing or reward of a user's own, which bears the name of its function.

    Args:
      values: see `own_part`, as the others.
      key: that names it.
      **from_run: arguments that the run gives.
    """
    return own_part(values, key, Transform, **from_run)._replace(name=_name(values.path))


def own_policy(values: OwnFunction, key: str) -> Policy:
    """A policy of a user's own, which bears the name of its function.

    Args:
      values: see `own_part`, as the other.
      key: that names it.
    """
    return own_part(values, key, Policy)._replace(name=_name(values.path))


def network_of(config: Config, precision: str) -> OwnNetwork | None:
    """The network of a user's own that `policy.kind` names; None for one that ships.

    Args:
      config: of the run.
      precision: compute dtype.

    Raises:
      ConfigError: see `own_network`.
    """
    policy, key = config.policy, "policy.kind"
    if not is_own(policy.kind):
        return None
    shape = {"dtype": precision, **policy.model_dump(include=set(SHAPE))}
    return own_network(find(policy.kind, key), key, policy.options or {}, shape)


def own_policies(config: Config, *, traded: bool = False) -> dict[str, Policy]:
    """All policies of a user's own that a configuration names: key and function -> policy.

    Args:
      config: of the run.
      traded: whether what only stands beside the agent is left out.
    """
    found: list[tuple[str, Item]] = [] if config.policy.base is None else [("policy.base", config.policy.base)]
    for place, item in enumerate(config.sizing):
        strategies = item.values.strategies if item.kind == "book" else ()
        found += [(f"sizing[{place}].book.strategies[{number}]", one) for number, one in enumerate(strategies)]
    if not traded:
        found += [(f"evaluation.baselines[{number}]", one) for number, one in enumerate(config.evaluation.baselines)]
    return {f"{key} {item.label}": own_policy(item.values, key) for key, item in found if item.kind == OWN}


def part_of(chain: Any, item: Item) -> Transform:
    """The transform of an item of own code in the chain that was made of its list.

    Args:
      chain: of masks, sizing or rewards.
      item: of the configuration.
    """
    return next(part for part in chain.parts if part.name == _name(item.label))


def _name(path: str) -> str:
    """What `module:function` is called among metrics."""
    return path.replace(":", ".")
