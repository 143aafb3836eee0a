"""Checkpoints of Stable-Baselines3 with random weights, and what it makes of observations, in tests/sb3_checkpoints.

    pip install torch stable-baselines3 sb3-contrib && python tests/make_sb3_checkpoints.py
    pip install stable-baselines3==2.0.0 sb3-contrib==2.0.0 && python tests/make_sb3_checkpoints.py old

It needs torch, which is too large to be installed for some tests: so files and values are kept. Each `.zip` is what
`save` wrote, packed anew (`continuous.zip` stored, as it was, with its optimiser). Each `.npz` has observations, masks,
and the actions and values of Stable-Baselines3 for them. The spaces of `trading_*` are those of the environment in
tests/jaxppo/migration.
"""

from __future__ import annotations

import json
import pathlib
import sys
import zipfile
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

FOLDER = pathlib.Path(__file__).with_name("sb3_checkpoints")
N_OBSERVATIONS, N_STEPS = 48, 32
REAL = spaces.Box(-np.inf, np.inf, (3, 2), np.float32)
SHOWN = spaces.Box(-np.inf, np.inf, (84,), np.float32)
"""3 assets, window 3, 8 features of the group price; 3 of each asset, 3 of the account."""
nn = torch.nn

KINDS: dict[str, tuple[Any, spaces.Space, spaces.Space, dict[str, Any]]] = {
    "continuous": (
        PPO, REAL, spaces.Box(np.float32([-1.0, 0.1]), np.float32([0.3, 2.0])), {"net_arch": {"pi": [8], "vf": [6, 5]}}
    ),
    "discrete": (PPO, spaces.Discrete(5), spaces.Discrete(4), {"net_arch": [7, 6], "activation_fn": nn.ReLU}),
    "multi_discrete": (
        PPO, spaces.MultiDiscrete([3, 4]), spaces.MultiDiscrete([3, 2, 4]),
        {"net_arch": {"pi": [5], "vf": []}, "activation_fn": nn.ELU},
    ),
    "linear": (PPO, spaces.MultiBinary(4), spaces.MultiBinary(3), {"net_arch": []}),
    "squashed": (
        PPO, spaces.Box(-1000.0, 9000.0, (4,), np.float32), spaces.Box(np.float32([-1.0, 0.5]), np.float32([1.0, 4.0])),
        {"net_arch": [8], "activation_fn": nn.LeakyReLU, "squash_output": True},
    ),
    "masked": (MaskablePPO, REAL, spaces.MultiDiscrete([3, 2, 4]), {"net_arch": [8], "activation_fn": nn.SiLU}),
    "masked_binary": (MaskablePPO, REAL, spaces.MultiBinary(3), {"net_arch": [6, 4]}),
    "trading_masked": (MaskablePPO, SHOWN, spaces.MultiDiscrete([6, 6, 6]), {"net_arch": [6]}),
    "trading_continuous": (PPO, SHOWN, spaces.Box(-1.0, 1.0, (3,), np.float32), {"net_arch": {"pi": [6], "vf": [2]}}),
}  # fmt: skip
OLD = ("continuous", "masked")
LEFT_OUT = ("clip_range", "lr_schedule", "start_time")
ACTIVATIONS = (
    "Tanh", "ReLU", "LeakyReLU", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Sigmoid", "Softplus", "Softsign",
    "ReLU6", "Hardtanh", "Hardswish",
)  # fmt: skip


class Nothing(gymnasium.Env):
    """Random observations and no reward."""

    def __init__(self, observation: spaces.Space, action: spaces.Space):
        self.observation_space = observation
        self.action_space = action

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return self.observation_space.sample(), float(np.sum(action)), False, False, {}

    def action_masks(self) -> np.ndarray:
        space = self.action_space
        return np.ones(2 * space.n if isinstance(space, spaces.MultiBinary) else int(np.sum(space.nvec)), bool)


def pack(path: pathlib.Path, method: int) -> None:
    """Leaves out what names the machine (its system, paths in schedules), and the optimiser where it deflates."""
    with zipfile.ZipFile(path) as zipped:
        files = {name: zipped.read(name) for name in zipped.namelist()}
    data = json.loads(files["data"])
    files["data"] = json.dumps({name: value for name, value in data.items() if name not in LEFT_OUT}, indent=4).encode()
    left_out = ("system_info.txt", "policy.optimizer.pth" if method == zipfile.ZIP_DEFLATED else "")
    with zipfile.ZipFile(path, "w") as zipped:
        for name, content in files.items():
            if name not in left_out:
                zipped.writestr(zipfile.ZipInfo(name), content, method)


def write(kind: str, name: str) -> None:
    """Writes one checkpoint and its values."""
    algorithm, observation, action, options = KINDS[kind]
    for space in (observation, action):
        space.seed(0)
    env: Any = DummyVecEnv([lambda: Nothing(observation, action)])
    env = VecNormalize(env, clip_obs=1.5) if kind == "squashed" else env
    given = {"use_sde": True} if kind == "squashed" else {}
    model = algorithm("MlpPolicy", env, policy_kwargs=options, n_steps=N_STEPS, batch_size=8, seed=0, **given)
    model.learn(N_STEPS)
    torch.manual_seed(2)
    with torch.no_grad():
        for weights in model.policy.parameters():
            weights += 0.8 * torch.randn_like(weights)
    seen = np.stack([observation.sample() for _ in range(N_OBSERVATIONS)])
    arrays = {"observation": seen}
    if kind == "squashed":
        env.save(str(FOLDER / f"{name}.pkl"))
        seen = env.normalize_obs(seen)
    masks = {}
    if algorithm is MaskablePPO:
        n = len(env.envs[0].action_masks())
        masks = {"action_masks": np.random.default_rng(0).random((N_OBSERVATIONS, n)) < 0.5}
        arrays |= masks | {"unmasked": model.predict(seen, deterministic=True)[0]}
    arrays["action"] = model.predict(seen, deterministic=True, **masks)[0]
    with torch.no_grad():
        arrays["value"] = model.policy.predict_values(model.policy.obs_to_tensor(seen)[0]).numpy()[:, 0]
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)
    model.save(FOLDER / f"{name}.zip")
    pack(FOLDER / f"{name}.zip", zipfile.ZIP_STORED if name == "continuous" else zipfile.ZIP_DEFLATED)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    if "old" in sys.argv[1:]:
        for kind in OLD:
            write(kind, f"{kind}_2_0_0")
        return
    for kind in KINDS:
        write(kind, kind)
    x = torch.linspace(-25.0, 25.0, 201)
    curves = {name: getattr(nn, name)()(x).numpy() for name in ACTIVATIONS}
    np.savez_compressed(FOLDER / "activations.npz", x=x.numpy(), **curves)


if __name__ == "__main__":
    main()
