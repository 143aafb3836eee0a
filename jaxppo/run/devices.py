"""Choices that a configuration leaves to the devices: which ones, precision, kernel of attention, micro-batch."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from jaxppo.config import Config, PPOConfig
from jaxppo.envs.market import features
from jaxppo.errors import ConfigError
from jaxppo.policy.networks.attention import fused_window_attention
from jaxppo.policy.networks.config import EncoderConfig
from jaxppo.ppo.learner import shuffle_groups
from jaxppo.run.own import network_of

_SHAPE = {
    "kind", "width", "layers", "heads", "window", "expansion", "asset_attention", "positions", "coarse_pools",
    "coarse_window", "rematerialise", "portfolio",
}  # fmt: skip
"""Keys of `policy` that the encoder takes as they are."""


def select_devices(config: Config) -> list[jax.Device]:
    """Selects the devices to train on, of this process.

    Raises:
      ConfigError: the platform is absent, or has fewer devices than asked for.
    """
    devices = [device for device in _of_kind(config) if device.process_index == jax.process_index()]
    wanted = config.training.devices
    if wanted is not None and wanted > len(devices):
        raise ConfigError(
            f"training.devices is {wanted}; this machine has {len(devices)} of kind {devices[0].platform}"
        )
    return list(devices[:wanted])


def shared_devices(config: Config) -> list[jax.Device]:
    """Selects the devices that several processes spread the paths of a training over: of each process as many.

    Raises:
      ConfigError: the platform is absent, or `training.devices` or the paths cannot be divided among the processes.
    """
    found: dict[int, list[jax.Device]] = {}
    for device in _of_kind(config):
        found.setdefault(device.process_index, []).append(device)
    n, most, wanted = len(found), min(map(len, found.values())), config.training.devices
    if wanted is not None and (wanted % n or wanted > n * most):
        raise ConfigError(f"training.devices is {wanted}; {n} processes need a multiple of {n} up to {n * most}")
    each = [wanted // n] if wanted is not None else [k for k in range(1, most + 1) if _divide(config.ppo, n * k)]
    if not each:
        raise ConfigError(
            f"ppo.paths / ppo.minibatches = {config.ppo.paths // config.ppo.minibatches} cannot be split evenly over "
            f"{n} processes"
        )
    return [device for _, devices in sorted(found.items()) for device in devices[: max(each)]]


def _of_kind(config: Config) -> list[jax.Device]:
    """All devices of the platform, of all processes.

    Raises:
      ConfigError: it is absent.
    """
    try:
        return list(jax.devices() if config.device == "auto" else jax.devices(config.device))
    except RuntimeError as error:
        raise ConfigError(f"device is {config.device!r}; {_present(error)}") from None


def training_devices(config: Config) -> list[jax.Device]:
    """Selects the devices that training spreads its paths over; logs why some are left where all would be taken.

    Raises:
      ConfigError: see `select_devices`.
    """
    devices = select_devices(config)
    if config.training.devices is not None:
        return devices
    n = max(n for n in range(1, len(devices) + 1) if _divide(config.ppo, n))
    if n < len(devices):
        per_minibatch = config.ppo.paths // config.ppo.minibatches
        for_all = next(
            paths
            for paths in (
                config.ppo.minibatches * len(devices) * k for k in itertools.count(-(-per_minibatch // len(devices)))
            )
            if _divide(config.ppo.model_copy(update={"paths": paths}), len(devices))
        )
        logging.getLogger(__name__).warning(
            "training on %d of %d devices: ppo.paths / ppo.minibatches = %d cannot be split evenly over more; "
            "ppo.paths %d would use all",
            n, len(devices), per_minibatch, for_all,
        )  # fmt: skip
    return devices[:n]


def _divide(ppo: PPOConfig, n_devices: int) -> bool:
    """Whether the paths of a minibatch can be split over the devices."""
    try:
        shuffle_groups(ppo, n_devices)
    except ValueError:
        return False
    return True


def _present(error: RuntimeError) -> str:
    """What there is instead of a device that JAX cannot use, for messages."""
    try:
        return f"this machine has {', '.join(sorted({device.platform for device in jax.devices()}))}"
    except RuntimeError:
        return f"JAX finds no device: {error}"


def encoder_config(config: Config, device: jax.Device) -> EncoderConfig:
    """Resolves shape, precision and kernels of the network.

    Args:
      config: of the run.
      device: that it runs on, and all others are like.
    """
    precision = config.precision
    if precision == "auto":
        precision = "float32" if device.platform == "cpu" else "bfloat16"
    asked = config.features
    slices = features.group_slices(asked.groups, asked.own_groups, asked.timeframes)
    encoder = EncoderConfig(
        groups=tuple(s.stop - s.start for s in slices.values()),
        dtype=jnp.dtype(precision),
        bar_seconds=config.policy.bar_seconds or 1.0,
        own=network_of(config, precision),
        **config.policy.model_dump(include=_SHAPE),
    )
    return dataclasses.replace(encoder, attention=_attention(config, encoder, device))


def _attention(config: Config, encoder: EncoderConfig, device: jax.Device) -> str:
    """The kernel of attention; logs why it is not the one that was asked for."""
    if config.policy.attention == "xla" or encoder.kind != "transformer":
        return "xla"
    why_not = "" if device.platform == "gpu" else f"needs a GPU, not a {device.platform}"
    if config.ppo.direction == "natural":
        why_not = why_not or "has no second derivatives, which ppo.direction natural needs"
    why_not = why_not or encoder.not_fused or _cudnn_error(encoder, config.ppo.chunk, device)
    if why_not and (config.policy.attention == "cudnn" or device.platform == "gpu"):
        logging.getLogger(__name__).warning("attention by XLA: cuDNN's kernel %s", why_not)
    return "xla" if why_not else "cudnn"


def _cudnn_error(encoder: EncoderConfig, chunk: int, device: jax.Device) -> str:
    """Error of cuDNN on the lengths that training has, forward and backward, for one asset; empty if it works.

    Args:
      encoder: shape of the network.
      chunk: S of the rollout.
      device: to compile for.
    """

    def loss(query: jax.Array, key: jax.Array) -> jax.Array:
        return fused_window_attention(query, key, key, encoder.window).astype(jnp.float32).sum()

    past, width = encoder.window - 1, encoder.width // encoder.heads
    place = SingleDeviceSharding(device)
    # The first layer and the last, in the update and with the bar more that a rollout has.
    lengths = {chunk + more + layers * past for more in (0, 1) for layers in (0, encoder.layers - 1)}
    try:
        for length in sorted(lengths):
            query, key = (
                jax.ShapeDtypeStruct((1, encoder.heads, rows, width), jnp.bfloat16, sharding=place)
                for rows in (length, length + past)
            )
            jax.jit(jax.grad(loss, argnums=(0, 1))).lower(query, key).compile()
    except Exception as error:  # whatever is wrong with the installation, XLA's kernel works
        return f"does not compile here: {' '.join(str(error).split())[:200]}"
    return ""


def ppo_for_devices(config: Config, devices: list[jax.Device]) -> PPOConfig:
    """Fills in `micro_batch`: at most two paths on a CPU, to keep the working set in cache.

    On accelerators None stays, for all at once; training takes fewer where they do not fit.

    Args:
      config: of the run.
      devices: to train on, all of one kind.

    Raises:
      ConfigError: paths, minibatches, micro-batch and devices do not divide each other.
    """
    ppo = config.ppo
    try:
        shuffle_groups(ppo, len(devices))
    except ValueError as error:
        raise ConfigError(f"{error}; change them or training.devices") from None
    local = ppo.paths // ppo.minibatches // len(devices)
    micro = ppo.micro_batch
    if micro is None and devices[0].platform == "cpu":
        micro = math.gcd(local, 2)
    if micro is not None and micro < local and local % micro:
        raise ConfigError(f"ppo.micro_batch is {micro}; it must divide the {local} paths of a minibatch on one device")
    return ppo.model_copy(update={"micro_batch": micro})
