"""Tests against the baselines: an edge, a copy, and how much was tried."""

import json

import jax
import numpy as np

from jaxppo.statistics import superiority_figures


def test_superiority_knows_an_edge_a_copy_and_how_much_was_tried() -> None:
    rng = np.random.default_rng(0)
    market = rng.normal(0.0, 0.01, 500)
    agent = market + rng.normal(0.001, 0.004, 500)
    noise = market[:, None] + rng.normal(0.0, 0.004, (500, 20))
    baselines = {"buy_and_hold": market, "flat": np.zeros(500), "copy": agent}
    trials = np.column_stack([agent, market, noise])
    found = superiority_figures(jax.random.key(0), agent, baselines, trials, n_resamples=300)
    assert json.loads(json.dumps(found)) == found
    assert found["no_better_than"]["buy_and_hold"] < 0.02
    assert found["no_better_than"]["flat"] > 0.02
    assert found["no_better_than"]["copy"] is None
    assert found["trials"] == 21, "a copy of the market is no try at beating it"
    assert max(found["spa"], found["reality_check"]) < 0.05
    lucky = noise[:, [int(noise.mean(axis=0).argmax())]]
    alone = superiority_figures(jax.random.key(1), lucky[:, 0], baselines, lucky, n_resamples=300)
    among = superiority_figures(jax.random.key(1), lucky[:, 0], baselines, noise, n_resamples=300)
    assert alone["spa"] < 0.1 < among["spa"], "the best of twenty without skill"
    short = superiority_figures(jax.random.key(0), agent[:9], {"buy_and_hold": market[:9]}, trials[:9], n_resamples=300)
    assert short["spa"] is short["no_better_than"]["buy_and_hold"] is None
