"""Writes a configuration with the ten keys that matter, explained: jaxppo init [--data prices.csv]"""

import pathlib
from collections.abc import Sequence

from jaxppo.cli.command import OneLineParser
from jaxppo.errors import ConfigError

OUTPUT = "my.yaml"


def main(arguments: Sequence[str]) -> None:
    parser = OneLineParser("init", __doc__)
    parser.add_argument("--output", default=OUTPUT, metavar="FILE", help=f"new file (default: {OUTPUT})")
    parser.add_argument("--data", metavar="FILE", help="your prices, which are read and checked (default: us5_1d)")
    known = parser.parse_args(arguments)
    path = pathlib.Path(known.output)
    if not str(path).isprintable():  # it stands in a comment of the file
        raise ConfigError(f"--output is {path}; a name of printable characters is expected")
    if path.exists() or path.is_symlink():
        raise ConfigError(f"--output is {path}, which exists and is not overwritten; give another name")
    if not path.parent.is_dir():
        raise ConfigError(f"--output is {path}, but there is no folder {path.parent}")
    from jaxppo.cli.first_config import as_text, as_tree, first_values  # imports JAX, which --help does not need
    from jaxppo.config import load_config

    values = first_values(known.data)
    config = load_config(as_tree(values))
    if known.data is not None:
        from jaxppo.envs.data.report import format_report
        from jaxppo.run.data import load_data

        report = load_data(config).info.report
        if report:
            print(format_report(report))
    try:
        file = path.open("x", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--output is {path}, but {path.parent.absolute()} cannot be written: {error.strerror}; give --output "
            "another folder"
        ) from None
    with file:
        file.write(as_text(values, path))
    print(f"wrote {path}; next: jaxppo doctor --config {path}, then jaxppo train --config {path}")
