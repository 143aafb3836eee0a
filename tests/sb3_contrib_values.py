"""Masked distributions of sb3-contrib on random inputs, written to sb3_contrib_values.json beside this file.

    pip install torch sb3-contrib && python tests/sb3_contrib_values.py

It needs torch, which is too large to be installed for one test: so the values are kept.
"""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
from typing import Any

import numpy as np

PATH = pathlib.Path(__file__).with_name("sb3_contrib_values.json")
N_CASES, N_ASSETS, N_ACTIONS = 40, 3, 6


def cases() -> list[dict[str, Any]]:
    """Random logits, masks and allowed actions; some logits far apart, some masks with a single action left."""
    draws = np.random.default_rng(0)
    found = []
    for i in range(N_CASES):
        logits = draws.normal(size=(N_ASSETS, N_ACTIONS)) * 10.0 ** draws.uniform(-1, 1.3)
        mask = draws.random((N_ASSETS, N_ACTIONS)) < draws.uniform(0.1, 1.0)
        mask[:, 0] |= ~mask.any(axis=1)
        action = [int(draws.choice(np.flatnonzero(row))) for row in mask]
        found.append({"logits": np.float32(logits).tolist(), "mask": mask.tolist(), "action": action, "case": i})
    return found


def values() -> list[dict[str, Any]]:
    """Joint log-probability, joint entropy, probabilities and mode of a masked multi-discrete of sb3-contrib."""
    import torch
    from sb3_contrib.common.maskable.distributions import MaskableMultiCategoricalDistribution

    found = []
    for case in cases():
        distribution = MaskableMultiCategoricalDistribution([N_ACTIONS] * N_ASSETS)
        distribution.proba_distribution(torch.tensor(case["logits"], dtype=torch.float64).reshape(1, -1))
        distribution.apply_masking(np.asarray(case["mask"]).reshape(1, -1))
        action = torch.tensor([case["action"]])
        found.append(
            {
                "log_prob": float(distribution.log_prob(action)[0]),
                "entropy": float(distribution.entropy()[0]),
                "probabilities": [part.probs[0].tolist() for part in distribution.distributions],
                "mode": distribution.mode()[0].tolist(),
            }
        )
    return found


if __name__ == "__main__":
    names = ("sb3-contrib", "torch")
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in names}
    PATH.write_text(json.dumps({"versions": versions, "values": values()}, indent=1) + "\n", encoding="utf-8")
