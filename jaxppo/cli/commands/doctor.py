"""Checks what a training needs, and says how to mend what is wrong: jaxppo doctor [--config my.yaml] [--data my.csv]

A line a check: ok, warn (works, but look at it) or fix. The exit code is 2 if something must be fixed.
"""

import sys
from collections.abc import Iterator, Sequence

from jaxppo.cli.checks.finding import Finding
from jaxppo.cli.checks.installation import check_installation
from jaxppo.cli.checks.machine import check_devices, check_memory, check_output
from jaxppo.cli.checks.training import check_training_of
from jaxppo.cli.command import OneLineParser
from jaxppo.errors import ConfigError

BUDGETS = ("steps", "episodes", "minutes")
"""Options of a training that stand for keys of `training`."""


def main(arguments: Sequence[str]) -> None:
    parser = OneLineParser("doctor", __doc__, epilog="With --config or --data keys are options, as of jaxppo train.")
    parser.add_argument("--config", metavar="FILE", help="YAML, or the name of one that ships")
    parser.add_argument("--data", metavar="FILE", help="prices, in place of those of --config (default: quickstart)")
    parser.add_argument("--output", default="runs", metavar="DIR", help="folder for runs, or of one (default: runs)")
    for budget in BUDGETS:
        parser.add_argument(f"--{budget}", metavar="N", help="as of jaxppo train")
    known, overrides = parser.parse_known_args(arguments)
    for budget in BUDGETS:
        if getattr(known, budget) is not None:
            overrides += [f"--training.{budget}", getattr(known, budget)]
    if any(one.partition("=")[0] == "--run" for one in overrides):
        parser.error("doctor has no --run: it checks what a training needs; jaxppo watch RUN says how far a run is")
    if overrides and known.config is None and known.data is None:
        parser.error(f"{overrides[0]}: keys need --config or --data")
    for name in ("data", "output"):
        if getattr(known, name) == "":  # as of an unset variable of a shell
            parser.error(f"--{name} is empty")
    fixes = []
    for finding in _findings(known.config, known.data, known.output, overrides):
        print(finding, flush=True)
        fixes += [finding.about] if finding.level == "fix" else []
    if fixes:
        raise ConfigError(f"{len(fixes)} to fix: {', '.join(dict.fromkeys(fixes))}")
    print("nothing has to be fixed")


def _findings(config: str | None, data: str | None, output: str, overrides: Sequence[str]) -> Iterator[Finding]:
    """All checks, those first without which later ones make no sense."""
    installation = list(check_installation())
    yield from installation
    yield check_output(output)
    if any(finding.level == "fix" for finding in installation):
        return
    device = check_devices()
    yield device
    if device.level == "fix":
        return
    yield from check_memory()
    if config is not None or data is not None:
        print("checking prices, and what a training would refuse: about half a minute", file=sys.stderr, flush=True)
        yield from check_training_of(config, data, overrides)
