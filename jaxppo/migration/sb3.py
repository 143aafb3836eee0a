"""Checkpoints of Stable-Baselines3: PPO and sb3-contrib's MaskablePPO with a perceptron policy, without torch."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import pathlib
import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxppo.errors import ConfigError
from jaxppo.migration.archive import Archive, open_archive, read_file
from jaxppo.migration.model import Sb3Model
from jaxppo.migration.network import ACTIVATIONS, Dense, Network, Params, Scale
from jaxppo.migration.normalisation import Normalisation, checked_normalisation, read_normalisation
from jaxppo.migration.pickled import Name, read_pickle
from jaxppo.migration.spaces import Space, read_space
from jaxppo.migration.torch_file import read_state_dict

PPO, MASKABLE = (
    "stable_baselines3.common.policies.ActorCriticPolicy",
    "sb3_contrib.common.maskable.policies.MaskableActorCriticPolicy",
)
IMPORTED = "PPO and MaskablePPO with MlpPolicy can be imported"
ACTIVATION = re.compile(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>")
FLATTEN = "<class 'stable_baselines3.common.torch_layers.FlattenExtractor'>"
LAYER = re.compile(r"mlp_extractor\.(policy_net|value_net)\.(\d+)\.(weight|bias)")
HEADS = ("action_net", "value_net")
NOISE = "log_std"
"""Spread of continuous actions, which a deterministic one does not read."""


def load_sb3(path: str | os.PathLike, *, normalisation: str | os.PathLike | Normalisation | None = None) -> Sb3Model:
    """Reads what `PPO.save` or `MaskablePPO.save` wrote (Stable-Baselines3 2.0 or later), without torch.

    The file is read as data: no pickle in it is executed, no file of it is unpacked to disk.

    Args:
      path: the .zip file, with or without that ending.
      normalisation: what observations went through in training: the file that `VecNormalize.save` wrote, or mean and
        variance; None where observations were not normalised.

    Raises:
      ConfigError: no such file, damaged, hostile, or a policy that is not a perceptron with separate networks for actor
        and critic; says what was found.
    """
    file = _file(path)
    where = str(file)
    archive = open_archive(read_file(file, "a .zip that PPO.save or MaskablePPO.save wrote"), where)
    data = _read_data(archive)
    maskable = _is_maskable(data, where)
    observation, _ = read_space(data.get("observation_space"), f"{where}: observation_space")
    action, bounds = read_space(data.get("action_space"), f"{where}: action_space")
    options = data.get("policy_kwargs", {})
    if not isinstance(options, dict):
        raise ConfigError(f"{where}: policy_kwargs is no mapping")
    extractor = str(options.get("features_extractor_class", FLATTEN))
    if extractor != FLATTEN:
        raise ConfigError(f"{where}: features_extractor_class is {extractor}; only FlattenExtractor can be imported")
    squashed = bool(data.get("use_sde")) and options.get("squash_output") is True
    network = Network(observation, action, _activation(options, where), maskable, squashed)
    tensors = read_state_dict(archive.read("policy.pth"), f"{where}: policy.pth")
    actor, critic = _layers(tensors, network, f"{where}: policy.pth")
    scale = _scale(normalisation, network, where)
    low, high = map(jnp.asarray, bounds or (np.zeros(0), np.zeros(0)))
    version = archive.read("_stable_baselines3_version") if "_stable_baselines3_version" in archive.names() else b""
    params = Params(actor, critic, scale, low, high)
    return Sb3Model(network, params, file.stem, version.decode("ascii", "replace").strip())


def _file(path: str | os.PathLike) -> pathlib.Path:
    """The file, or the one with .zip behind its name, which Stable-Baselines3 appends."""
    named = pathlib.Path(path)
    with contextlib.suppress(OSError, ValueError):  # a name that is too long, or empty
        if not named.exists() and (longer := named.with_name(f"{named.name}.zip")).exists():
            return longer
    return named


def _read_data(archive: Archive) -> dict[str, Any]:
    """Attributes of the algorithm, as Stable-Baselines3 wrote them."""
    names = archive.names()
    if "data" not in names or "policy.pth" not in names:
        raise ConfigError(f"{archive.where}: has no data and policy.pth, as a checkpoint of Stable-Baselines3 does")
    try:
        data = json.loads(archive.read("data"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{archive.where}: data is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{archive.where}: data is no mapping")
    return data


def _is_maskable(data: dict[str, Any], where: str) -> bool:
    """Whether the policy is that of MaskablePPO instead of that of PPO."""
    entry = data.get("policy_class")
    try:
        pickle = base64.b64decode(entry[":serialized:"], validate=True) if isinstance(entry, dict) else b""
    except (KeyError, TypeError, ValueError, binascii.Error):
        pickle = b""
    found = None
    with contextlib.suppress(ConfigError):
        # A class that can be imported is pickled by its name. Whatever else this is, it is none of the two.
        found = read_pickle(pickle, lambda name: True, where) if pickle else None
    name = found.text if isinstance(found, Name) else "a class of your own" if pickle else "missing"
    if name not in (PPO, MASKABLE):
        raise ConfigError(f"{where}: policy_class is {name}; {IMPORTED}")
    return name == MASKABLE


def _activation(options: dict[str, Any], where: str) -> str:
    """Name of the activation, that of torch."""
    text = str(options.get("activation_fn", "<class 'torch.nn.modules.activation.Tanh'>"))
    found = ACTIVATION.fullmatch(text)
    if found is None or found[1] not in ACTIVATIONS:
        raise ConfigError(f"{where}: activation_fn is {text}; one of {', '.join(ACTIVATIONS)} can be imported")
    return found[1]


def _layers(
    tensors: dict[str, np.ndarray], network: Network, where: str
) -> tuple[tuple[Dense, ...], tuple[Dense, ...]]:
    """Layers of actor and critic, whose shapes fit each other and the spaces."""
    known = {f"{head}.{part}" for head in HEADS for part in ("weight", "bias")} | {NOISE}
    other = next((name for name in tensors if name not in known and not LAYER.fullmatch(name)), None)
    if other is not None:
        raise ConfigError(f"{where}: holds {other}, which a perceptron does not have; {IMPORTED}")
    numbers = {
        net: sorted({int(found[2]) for name in tensors if (found := LAYER.fullmatch(name)) and found[1] == net})
        for net in ("policy_net", "value_net")
    }
    stacks = []
    for net, head, outputs in (("policy_net", "action_net", network.n_outputs), ("value_net", "value_net", 1)):
        inputs, layers = network.n_inputs, []
        for prefix in (*(f"mlp_extractor.{net}.{i}" for i in numbers[net]), head):
            layer = _dense(tensors, prefix, inputs, where)
            inputs = layer.bias.shape[0]
            layers.append(layer)
        if inputs != outputs:
            raise ConfigError(
                f"{where}: {head} has {inputs} outputs; the action space {network.action} needs {outputs}"
            )
        stacks.append(tuple(layers))
    return stacks[0], stacks[1]


def _dense(tensors: dict[str, np.ndarray], prefix: str, inputs: int, where: str) -> Dense:
    """One layer, of so many inputs."""
    weight, bias = tensors.get(f"{prefix}.weight"), tensors.get(f"{prefix}.bias")
    if weight is None or bias is None:
        raise ConfigError(f"{where}: has no {prefix}.{'weight' if weight is None else 'bias'}")
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or weight.shape[1] != inputs:
        raise ConfigError(f"{where}: {prefix} has weights {weight.shape} and biases {bias.shape}, for {inputs} inputs")
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ConfigError(f"{where}: {prefix} holds numbers that are not finite")
    return Dense(jnp.asarray(weight.T, jnp.float32), jnp.asarray(bias, jnp.float32))


def _scale(given: str | os.PathLike | Normalisation | None, network: Network, where: str) -> Scale | tuple[()]:
    """The normalisation of observations in float32, which keeps the digits of a large mean."""
    if given is None:
        return ()
    space: Space = network.observation
    if space.sizes:
        raise ConfigError(f"{where}: observations are categories ({space}), which are not normalised")
    try:
        found = checked_normalisation(given) if isinstance(given, Normalisation) else read_normalisation(given)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"normalisation: {error}") from None
    if found is None:
        return ()
    if found.mean.size != space.n_values:
        raise ConfigError(f"normalisation is of {found.mean.size} numbers, an observation has {space.n_values}")
    mean = found.mean.ravel().astype(np.float32)
    rest = (found.mean.ravel() - mean).astype(np.float32)
    scale = (1.0 / np.sqrt(found.variance.ravel() + found.epsilon)).astype(np.float32)
    return Scale(*(jnp.asarray(x, jnp.float32) for x in (mean, rest, scale, found.clip)))
