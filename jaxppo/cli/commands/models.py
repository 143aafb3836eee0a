"""Keeps models and promotes them: jaxppo models add|list|show|compare|promote|rollback ...

VERSION is semantic, such as 1.2.0, or a stage; compare takes NAME@VERSION, or NAME for its version in production.
"""

from collections.abc import Callable, Sequence

import jaxppo
from jaxppo.cli import OneLineParser, showing_phases

OPTIONS = {
    "add": {"run": "run folder", "name": "of the model (default: that of the run)", "version": "semantic version",
            "bump": "raise major, minor or patch (default: minor)", "parent": "version that it comes from"},
    "list": {}, "show": {}, "compare": {},
    "promote": {"to": "staging or production", "reason": "kept in the history"},
    "rollback": {"reason": "kept in the history"},
}  # fmt: skip
PLACES = {"list": ["name?"], "show": ["name", "version?"], "compare": ["first", "second"],
          "promote": ["name", "version"], "rollback": ["name"]}  # fmt: skip
HELP = {"add": "export a run as a new version", "list": "all versions", "show": "all that is known of a version",
        "compare": "two versions, with a paired test", "promote": "to staging or production, if it has shown enough",
        "rollback": "to the version that was in production before"}  # fmt: skip
WRITES = ("add", "promote", "rollback")


def main(arguments: Sequence[str]) -> None:
    given = vars(_parser().parse_args(arguments))
    verb, registry = given.pop("verb"), jaxppo.deploy.Registry(given.pop("registry"))
    with showing_phases():
        done = getattr(registry, verb)(**given)
    describe: dict[str, Callable[..., str]] = {
        "list": jaxppo.deploy.describe_models,
        "compare": jaxppo.deploy.describe_comparison,
    }
    describe |= {"add": jaxppo.deploy.describe_model, "show": jaxppo.deploy.describe_model}
    print(describe.get(verb, jaxppo.deploy.describe_line)(done))


def _parser() -> OneLineParser:
    parser = OneLineParser("models", __doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, options in OPTIONS.items():
        command = verbs.add_parser(verb, help=HELP[verb], description=HELP[verb])
        for place in PLACES.get(verb, ()):
            name, optional = place.strip("?"), place.endswith("?")
            command.add_argument(name, nargs="?" if optional else None, metavar=name.upper())
        command.add_argument("--registry", default="models", metavar="DIR", help="of the models (default: models)")
        signed = {"by": "who does it (default: the user)"} if verb in WRITES else {}
        for name, meaning in (options | signed).items():
            default = "minor" if name == "bump" else None
            needed = name in ("run", "to")
            command.add_argument(f"--{name}", required=needed, default=default, metavar=name.upper(), help=meaning)
        if verb == "promote":
            command.add_argument("--level", type=float, default=0.95, metavar="P", help="of the deflated Sharpe ratio")
            command.add_argument("--force", action="store_true", help="whatever was measured; needs --reason")
    return parser
