"""Exports what of a run trades: jaxppo export --run runs/NAME --output DIR [--costs.lot_size 1 ...]"""

from collections.abc import Sequence

import jaxppo
from jaxppo.cli import OneLineParser, showing_phases


def main(arguments: Sequence[str]) -> None:
    parser = OneLineParser(
        "export", __doc__, epilog="Keys of the costs, masks and limits are options: jaxppo help costs."
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="run folder")
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder of the exported policy")
    parser.add_argument("--onnx", action="store_true", help="write the step as ONNX too; needs the extra onnx")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    known, overrides = parser.parse_known_args(arguments)
    with showing_phases(known.quiet):
        manifest = jaxppo.deploy.export_run(known.run, known.output, overrides=overrides, onnx=known.onnx)
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    print(f"exported {manifest['name']} to {known.output}: {len(manifest['files'])} files, {size / 1e6:.1f} MB")
    print(f"load it with jaxppo.deploy.load_policy({known.output!r})")
