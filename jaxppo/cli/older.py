"""The older style of commands: `--model-type ppo --use-transformer --transformer-layers N --d-model N`.

Its flags stand for keys of the configuration; `--episodes`, `--minutes` and `--output` are the same in both styles.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Callable, Sequence

from jaxppo.errors import ConfigError

CONFIG = "quickstart"
"""What is trained where flags of the older style are given without a configuration."""
TRANSFORMER = "transformer_ppo"
MODELS = {
    "ppo": {"policy.kind": "mlp"},
    "maskable_ppo": {"policy.kind": "mlp", "env.actions": "discrete"},
    TRANSFORMER: {"policy.kind": "transformer"},
}
"""Model type -> the keys that it stands for. Masks apply to every kind of policy."""
SIZES = {"transformer_layers": ("policy.layers", 256), "d_model": ("policy.width", 2**20)}
"""Flag -> the key that it stands for, and the largest value that key accepts."""


def add_older_options(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the older style to a parser.

    Args:
      parser: of the command.
    """
    group = parser.add_argument_group("older style", f"without --config: {CONFIG}, which ships")
    group.add_argument(
        "--model-type", choices=MODELS, help="perceptron, the same with discrete actions, or transformer"
    )
    group.add_argument("--use-transformer", action="store_true", help="a transformer, whatever the model type")
    for flag, (key, largest) in SIZES.items():
        name = flag.replace("_", "-")
        group.add_argument(f"--{name}", metavar="N", type=_whole_number(largest), help=f"{key} of a transformer")


def older_overrides(known: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """The keys that flags of the older style stand for, as overrides; none without such flags.

    Args:
      known: parsed flags.
      overrides: keys that are given by name.

    Raises:
      ConfigError: two of the flags, or a flag and a key, contradict each other.
    """
    sizes = {flag: getattr(known, flag) for flag in SIZES if getattr(known, flag) is not None}
    transformer = known.use_transformer or known.model_type in (None, TRANSFORMER)
    if sizes and not transformer:
        flag, value = next(iter(sizes.items()))
        raise ConfigError(
            f"--{flag.replace('_', '-')} is {value}, but --model-type {known.model_type} is a perceptron; add "
            f"--use-transformer, or use --model-type {TRANSFORMER}"
        )
    keys: dict[str, tuple[str, str]] = {}
    if known.model_type is not None:
        keys |= {key: (value, f"--model-type {known.model_type}") for key, value in MODELS[known.model_type].items()}
    if known.use_transformer or sizes:
        named = "--use-transformer" if known.use_transformer else "--" + next(iter(sizes)).replace("_", "-")
        keys["policy.kind"] = ("transformer", named)
    for flag, value in sizes.items():
        keys[SIZES[flag][0]] = (str(value), f"--{flag.replace('_', '-')} {value}")
    given = _given(overrides)
    for key, (value, named) in keys.items():
        if key in given and given[key] != value:
            raise ConfigError(f"--{key} is {given[key]}, but {named} stands for {key} {value}; give one of them")
    return [word for key, (value, _) in keys.items() for word in (f"--{key}", value)]


def as_given(message: str, known: argparse.Namespace) -> str:
    """An error message whose keys are named as the flags that were given for them.

    Args:
      message: of the configuration.
      known: parsed flags; may be without those of the older style.
    """
    for flag, (key, _) in SIZES.items():
        if getattr(known, flag, None) is not None:
            message = re.sub(rf"(--)?{re.escape(key)}\b", f"--{flag.replace('_', '-')}", message)
    return message


def _given(overrides: Sequence[str]) -> dict[str, str]:
    """Dotted key -> value, as text, of overrides."""
    found = {}
    for word, following in itertools.zip_longest(overrides, overrides[1:], fillvalue=""):
        if word.startswith("--"):
            option, equals, value = word[2:].partition("=")
            found[option.replace("-", "_")] = value if equals else following
    return found


def _whole_number(largest: int) -> Callable[[str], int]:
    """A parser of whole numbers from 1 on."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(largest)) and 1 <= int(text) <= largest):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number in [1, {largest}]")
        return int(text)

    return parse
