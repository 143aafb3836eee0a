"""An imported checkpoint: its actions, its values, and the policy that it is in a trading environment."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.migration import network as networks
from jaxppo.migration.network import Network, Params
from jaxppo.migration.trading import trading_policy
from jaxppo.policy.protocol import Policy

DTYPES = {"Box": np.float32, "Discrete": np.int64, "MultiDiscrete": np.int64, "MultiBinary": np.int8}


@dataclasses.dataclass(frozen=True, eq=False)
class Sb3Model:
    """The deterministic policy of a checkpoint, and its critic; from `load_sb3`.

    `jaxppo.migration.network` has the same as pure functions of one observation, for `jit` and `vmap`.

    Attributes:
      network: spaces, activation, and whether actions are masked or squashed; static.
      params: layers, normalisation and bounds.
      name: of the file.
      version: of the Stable-Baselines3 that wrote it; empty where the file does not say.
    """

    network: Network
    params: Params
    name: str
    version: str

    def predict(self, observation: Any, action_masks: Any = None) -> np.ndarray:
        """Actions, as `predict(observation, deterministic=True)` of Stable-Baselines3 takes them.

        Args:
          observation: one in the shape of its space, or `[n, ...]` of them; not normalised.
          action_masks: allowed actions, bool, all those of an observation side by side (of every binary action: off,
            on), or in any shape of as many; None for all. For MaskablePPO only.

        Returns:
          Action, or `[n, ...]` actions: float32 for Box, int64 for Discrete and MultiDiscrete, int8 for MultiBinary.

        Raises:
          ValueError: a shape that does not fit, or masks for a policy that was trained without them.
        """
        batch, single = self._batch(observation)
        found = _act(self.network, self.params, batch, self._masks(action_masks, len(batch)))
        actions = np.asarray(found).astype(DTYPES[self.network.action.kind])
        return actions[0] if single else actions

    def predict_values(self, observation: Any) -> np.ndarray:
        """The critic's values, discounted rewards as they were trained on.

        Args:
          observation: one in the shape of its space, or `[n, ...]` of them; not normalised.

        Returns:
          `[]` or `[n]` float32.

        Raises:
          ValueError: a shape that does not fit.
        """
        batch, single = self._batch(observation)
        values = np.asarray(_values(self.network, self.params, batch))
        return values[0] if single else values

    def policy(self, env: TradingEnv) -> Policy:
        """The policy that decides as the checkpoint does, for backtests in our accounting.

        Args:
          env: as it was trained on, through `envs.to_sb3` or `envs.to_gymnasium`; `observation` may also be "index".

        Raises:
          ConfigError: observations or actions of the environment are not those of the checkpoint.
        """
        return trading_policy(self.network, self.params, env, self.name)

    def _batch(self, observation: Any) -> tuple[jax.Array, bool]:
        """Observations `[n, ...]`, and whether there was one without that axis."""
        array, shape = np.asarray(observation), self.network.observation.shape
        if array.dtype.kind not in "biuf" or (array.shape != shape and array.shape[1:] != shape):
            raise ValueError(
                f"an observation has shape {list(shape)}, or [n, ...] of them; this one {list(array.shape)}"
            )
        single = array.shape == shape
        return jnp.asarray(array[None] if single else array), single

    def _masks(self, masks: Any, n: int) -> jax.Array | None:
        """Masks `[n, n_outputs]`."""
        if masks is None:
            return None
        if not self.network.maskable:
            raise ValueError(
                "action_masks are given to a policy of PPO, which was trained without; MaskablePPO has them"
            )
        array, outputs = np.asarray(masks), self.network.n_outputs
        if array.size != n * outputs:
            raise ValueError(f"action_masks have shape {list(array.shape)}; {[n, outputs]} are needed")
        return jnp.asarray(array.reshape(n, outputs), bool)


@functools.partial(jax.jit, static_argnums=0)
def _act(network: Network, params: Params, observation: jax.Array, masks: jax.Array | None) -> jax.Array:
    act = functools.partial(networks.act, network, params)
    return jax.vmap(act)(observation) if masks is None else jax.vmap(act)(observation, masks)


@functools.partial(jax.jit, static_argnums=0)
def _values(network: Network, params: Params, observation: jax.Array) -> jax.Array:
    return jax.vmap(functools.partial(networks.value, network, params))(observation)
