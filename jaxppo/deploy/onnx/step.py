"""A live step as ONNX: converted, and checked in onnxruntime against JAX before anything is written."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy

from jaxppo.deploy.live_step import LiveStep
from jaxppo.deploy.onnx.plain import plain
from jaxppo.deploy.program import Program
from jaxppo.errors import ConfigError

GRAPH, ONNX_REFERENCE = "step.onnx", "step_onnx_reference.safetensors"
TOLERANCE = 1e-5
"""Of a number, as a fraction of the largest of its array, or of 1."""
CHECKED = 32
"""Bars with decisions on which the two are compared."""
DECIDED = "decided."
"""How names of outputs begin that mean something once the account is open."""
REST_OF = {"equity_error": "equity", "unfilled": "shares"}
"""What rounding leaves of large numbers -> these numbers, by which a difference is measured."""
ORDERS, MONEY = ("ordered", "filled"), ("cost", "paid")
"""Shares that are bought or sold, and currency: what they are worth is measured, as a fraction of equity."""


class OnnxStep(NamedTuple):
    """A converted step.

    Attributes:
      graph: the ONNX model; inputs `state.NAME` and `bar.NAME`, outputs `after.NAME` and those of `Program`.
      reference: safetensors of the inputs and outputs of one bar, by name.
    """

    graph: bytes
    reference: bytes


def onnx_step(live: LiveStep, program: Program) -> OnnxStep:
    """Converts the step of a live account, weights included.

    Args:
      live: of a run.
      program: of `live`.

    Raises:
      ConfigError: the extra is missing, an operation cannot be converted, or onnxruntime says other than JAX.
    """
    try:
        import onnxruntime
        from jax2onnx import to_onnx
    except ImportError:
        raise ConfigError("--onnx needs the extra `onnx`: pip install 'jaxppo[onnx]'") from None
    n_state = len(program.state)
    state, bar = [np.asarray(x) for x in program.state], list(program.bar.values())
    inputs = [*(f"state.{name}" for name in program.state_names), *(f"bar.{name}" for name in program.bar)]
    outputs = [*(f"after.{name}" for name in program.state_names), *program.output]

    def step(*arrays: Any) -> tuple[Any, ...]:
        after, said = program.step(program.weights, arrays[:n_state], arrays[n_state:])
        return (*after, *said)

    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (*state, *bar)]
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    try:
        model = to_onnx(plain(step, *shapes), shapes, model_name="step", input_names=inputs)
        graph: bytes = _named(model, outputs).SerializeToString()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        reference = _checked(session, jax.jit(step), _bars(live), inputs, state, outputs)
    except ConfigError:
        raise
    except Exception as error:  # of a converter and a runtime that raise all sorts
        what = " ".join(str(error).split())[:200]
        raise ConfigError(f"--onnx: {_operation(error)} cannot be converted: {what}") from None
    return OnnxStep(graph, safetensors.numpy.save(reference))


def _named(model: Any, outputs: list[str]) -> Any:
    """A model whose outputs have names of their own, where several are one value too."""
    import onnx

    for place, name in zip(model.graph.output, outputs, strict=True):
        model.graph.node.append(onnx.helper.make_node("Identity", [place.name], [name]))
        place.name = name
    return model


def _bars(live: LiveStep) -> Iterator[list[np.ndarray]]:
    """What a step is told, bar by bar of the market of the run."""
    like, market = live.bar_like(), live.setup.market
    rows = jax.device_get(({name: getattr(market, name) for name in like.fields}, live._host_rows()))
    for number in range(min(live.setup.env.first_decision + CHECKED, market.n_bars)):
        fields, masks = jax.tree.map(lambda x, number=number: x[number], rows)
        yield [np.asarray(x) for x in jax.tree.leaves(like.replace(fields=fields, host_masks=masks))]


def _checked(
    session: Any, step: Any, bars: Iterator[list[np.ndarray]], inputs: list[str], state: list[Any], outputs: list[str]
) -> dict[str, np.ndarray]:
    """Compares the two on every bar, from the same state each; returns the last one with its names.

    Raises:
      ConfigError: a number differs.
    """
    largest, worst = dict.fromkeys(outputs, 1.0), dict.fromkeys(outputs, 0.0)
    price, equity = (next(name for name in outputs if name.endswith(f"portfolio.{x}")) for x in ("price", "equity"))
    for number, bar in enumerate(bars):
        told = dict(zip(inputs, [*state, *bar], strict=True))
        said = dict(zip(outputs, map(np.asarray, step(*state, *bar)), strict=True))
        found = dict(zip(outputs, session.run(outputs, told), strict=True))
        for name, ours in said.items():
            if name.startswith(DECIDED) and not said["opened"]:
                continue  # features are unknown, and nothing reads what the network makes of them
            if not _is_same_kind(ours, found[name]):
                raise ConfigError(
                    f"--onnx: onnxruntime has another {name} than JAX at bar {number}; nothing is written"
                )
            if ours.dtype.kind == "f" and ours.size:
                known = np.isfinite(ours)
                off = np.abs(ours - found[name], where=known, out=np.zeros_like(ours))
                last = name.rpartition(".")[2]
                if last in ORDERS + MONEY:
                    off *= (said[price] if last in ORDERS else 1.0) / (abs(float(said[equity])) or 1.0)
                else:
                    largest[name] = max(largest[name], float(np.max(np.abs(ours), where=known, initial=0.0)))
                worst[name] = max(worst[name], float(off.max()))
        state = [said[name] for name in outputs[: len(state)]]
    for name in outputs:
        before, _, last = name.rpartition(".")
        largest[name] = largest.get(f"{before}.{REST_OF.get(last)}", largest[name])
    name = max(outputs, key=lambda name: worst[name] / largest[name])
    if worst[name] > TOLERANCE * largest[name]:
        raise ConfigError(f"--onnx: {name} of onnxruntime is off by {worst[name]:.3g}, of at most {largest[name]:.3g}; "
                          "nothing is written")  # fmt: skip
    return {key: np.asarray(x, order="C") for key, x in (told | found).items()}


def _is_same_kind(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether two arrays have one shape and type, the same numbers that are not finite, and equal ones if not float."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    if ours.dtype.kind != "f":
        return np.array_equal(ours, theirs)
    odd = ~np.isfinite(ours)
    return np.array_equal(odd, ~np.isfinite(theirs)) and np.array_equal(ours[odd], theirs[odd], equal_nan=True)


def _operation(error: BaseException) -> str:
    """The operation of JAX that a converter was at."""
    name, trace = "an operation", error.__traceback__
    while trace is not None:
        at = trace.tb_frame.f_locals.get("eqn")
        name = getattr(getattr(at, "primitive", None), "name", name)
        trace = trace.tb_next
    return name
