"""An exported policy: weights, step, rules and model card in one folder, sealed; and how it is loaded."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from jax import export as jax_export

from jaxppo import __version__
from jaxppo.config import dump_config
from jaxppo.deploy.drift.of_run import training_reference
from jaxppo.deploy.live import live_parts, rules_for
from jaxppo.deploy.live_step import LiveStep
from jaxppo.deploy.load import BATCH, CONFIG, PLATFORMS, REFERENCE, RULES, STATE, STEP, WEIGHTS, numbered
from jaxppo.deploy.manifest import write_manifest
from jaxppo.deploy.model_card import model_card
from jaxppo.deploy.program import Program, program_of
from jaxppo.envs.market.market_data import MarketData
from jaxppo.errors import ConfigError
from jaxppo.run import folder as run_folder
from jaxppo.run.files import write_text
from jaxppo.run.progress import announce
from jaxppo.run.saved import SavedRun, load_run

CARD = "model_card.md"


def export_run(
    folder: str | pathlib.Path,
    output: str | pathlib.Path,
    *,
    overrides: Sequence[str] = (),
    market: MarketData | None = None,
    onnx: bool = False,
) -> dict[str, Any]:
    """Writes what of a run trades into a folder from which `load_policy` trades it, without run and trainer.

    Args:
      folder: the run.
      output: new folder.
      overrides: dotted keys, for example `("--costs.lot_size", "1")`.
      market: prices that the run was trained on, where those were given in Python.
      onnx: whether the step is written as ONNX too; needs the extra `onnx`.

    Returns:
      The manifest: `files` with size and SHA-256 each, versions, features, platforms.

    Raises:
      ConfigError: not a run, one that cannot be live or as ONNX, or a folder that has something in it.
    """
    run_folder.check_output(output)
    run = load_run(folder, overrides=overrides, market=market)
    announce("making the step of a bar")
    live, about = live_parts(run)
    program = program_of(live)
    converted = _converted(live, program) if onnx else {}  # before anything is written
    target = run_folder.make_folder(output, "export")
    if any(target.iterdir()):
        raise ConfigError(f"--output {target}: has something in it; an export needs a new folder")
    _write(run, program, about, target)
    for name, content in converted.items():
        (target / name).write_bytes(content)
    return write_manifest(target, _about(run, live))


def _converted(live: LiveStep, program: Program) -> dict[str, bytes]:
    """Files of the step as ONNX."""
    from jaxppo.deploy.onnx.step import GRAPH, ONNX_REFERENCE, onnx_step

    found = onnx_step(live, program)
    return {GRAPH: found.graph, ONNX_REFERENCE: found.reference}


def _write(run: SavedRun, program: Program, about: dict[str, Any], target: pathlib.Path) -> None:
    """Writes all files of JAX but the manifest."""
    many = tuple(jax_export.symbolic_shape("accounts"))
    side_by_side = jax.vmap(program.step, in_axes=(None, 0, 0))
    announce("exporting for CPU, CUDA and TPU")
    for name, step, batch in ((STEP, program.step, ()), (BATCH, side_by_side, many)):
        shapes = [_shapes(program.weights, ()), *(_shapes(x, batch) for x in (program.state, program.bar.values()))]
        exported = jax_export.export(jax.jit(step), platforms=PLATFORMS)(*shapes)
        (target / name).write_bytes(bytes(exported.serialize()))
    names = dict(enumerate(program.weight_names))
    weights = {f"{place} {names[int(place)]}": x for place, x in numbered(program.weights).items()}
    (target / WEIGHTS).write_bytes(safetensors.numpy.save(weights))
    (target / STATE).write_bytes(safetensors.numpy.save(numbered(program.state) | {
        f"bar {name}": np.asarray(x, order="C") for name, x in program.bar.items()
    }))  # fmt: skip
    rules = dataclasses.asdict(rules_for(program, about))
    write_text(target / RULES, json.dumps(rules, indent=2) + "\n")
    announce("measuring the training, for drift")
    reference = training_reference(run.setup).as_dict()
    write_text(target / REFERENCE, json.dumps(reference, allow_nan=False) + "\n")
    write_text(target / CONFIG, dump_config(run.setup.config))
    write_text(target / CARD, model_card(run, about["identity"]))


def _shapes(arrays: Iterable[Any], batch: tuple[Any, ...]) -> list[jax.ShapeDtypeStruct]:
    """Shapes and types of arrays, with leading axes."""
    return [jax.ShapeDtypeStruct((*batch, *np.shape(x)), np.asarray(x).dtype) for x in arrays]


def _about(run: SavedRun, live: LiveStep) -> dict[str, Any]:
    """What the manifest says beside the files."""
    return {
        "name": run.folder.resolve().name,
        "jaxppo": __version__,
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")},
        "python": platform.python_version(),
        "platforms": list(PLATFORMS),
        "features": list(run.setup.env.features.names),
        "symbols": list(run.setup.market.info.symbols),
        "first_decision": run.setup.env.first_decision,
        "data_fingerprint": run_folder.data_report(run.setup.market)["fingerprint"],
    }
