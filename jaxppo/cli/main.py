"""`jaxppo COMMAND ...`: finds the command and runs it. JAX is imported when a command runs, not before."""

from __future__ import annotations

import difflib
import importlib
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from jaxppo.cli.command import run
from jaxppo.errors import ConfigError


class Command(NamedTuple):
    """A command; its body is `main` of the module of its name in `jaxppo.cli.commands`.

    Attributes:
      name: as it is typed.
      group: heading in the overview.
      meaning: what it does, in a few words.
    """

    name: str
    group: str
    meaning: str


COMMANDS = (
    Command("init", "begin", "write a configuration with the keys that matter, explained"),
    Command("doctor", "begin", "check Python, JAX, devices, memory, prices and a configuration"),
    Command("help", "begin", "explain a key, a section or a command: jaxppo help costs"),
    Command("train", "train and validate", "train an agent and test it once"),
    Command("watch", "train and validate", "show how far a run is"),
    Command("backtest", "train and validate", "repeat the test of a run, also at other costs or on other prices"),
    Command("monte-carlo", "train and validate", "trade a run on many drawn markets"),
    Command("walk-forward", "train and validate", "train anew for every fold and trade what follows it"),
    Command("sweep", "train and validate", "try values of hyper-parameters and test the best agent once"),
    Command("trade", "trade", "orders of the last close; paper and live trading"),
    Command("export", "trade", "write what of a run trades as files that need no trainer"),
    Command("models", "trade", "keep versions of models, compare and promote them"),
)
"""All commands, in the order of the overview."""
USAGE = """\
usage: jaxppo COMMAND [OPTIONS]
       jaxppo COMMAND --help
       jaxppo --version

Train, validate and ship PPO trading agents in JAX.
"""
FIRST_STEPS = """\
first steps:
  jaxppo train --config quickstart        on prices that ship
  jaxppo init --data my_prices.csv        a configuration for your own prices: my.yaml
  jaxppo doctor --config my.yaml          what is missing, and how to mend it

documentation: docs/ of the checkout, begin with docs/index.md; jaxppo help all explains every key
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `jaxppo`.

    Args:
      arguments: of the command line; None takes those of the process.

    Returns:
      The exit code, see `jaxppo.cli.run`.
    """
    return run(dispatch, arguments)


def dispatch(arguments: Sequence[str]) -> int | None:
    """Runs the command that is named first.

    Args:
      arguments: its name, and its own.

    Returns:
      Number of the signal that stopped it, if one did.

    Raises:
      ConfigError: there is no such command.
    """
    name, *rest = arguments or [""]
    if name in ("-h", "--help"):
        print(overview(), end="")
        return None
    if name == "--version":
        from jaxppo._version import __version__

        print(f"jaxppo {__version__}")
        return None
    names = [command.name for command in COMMANDS]
    if name not in names:
        near = difflib.get_close_matches(name.replace("_", "-"), names, 1)
        guess = f"did you mean {near[0]}?" if near else f"there is {', '.join(names)}"
        raise ConfigError(f"{f'no command {name!r}' if name else 'no command is given'}; {guess} (jaxppo --help)")
    return importlib.import_module(f"jaxppo.cli.commands.{name.replace('-', '_')}").main(rest)


def overview() -> str:
    """All commands by group, and how to begin."""
    lines = [USAGE]
    for group, commands in itertools.groupby(COMMANDS, lambda command: command.group):
        lines += [f"{group}:", *(f"  {command.name:<14}{command.meaning}" for command in commands), ""]
    return "\n".join([*lines, FIRST_STEPS])
