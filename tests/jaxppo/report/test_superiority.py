"""Tests against the baselines: an edge, a copy, how much was tried, and what a reader is told."""

import json

import jax
import numpy as np
from test_report import Page

from jaxppo.report import superiority


def test_superiority_knows_an_edge_a_copy_and_how_much_was_tried() -> None:
    rng = np.random.default_rng(0)
    market = rng.normal(0.0, 0.01, 500)
    agent = market + rng.normal(0.001, 0.004, 500)
    noise = market[:, None] + rng.normal(0.0, 0.004, (500, 20))
    baselines = {"buy_and_hold": market, "flat": np.zeros(500), "copy": agent}
    looks = np.column_stack([agent, market, noise])
    found = superiority.superiority_figures(jax.random.key(0), agent, baselines, looks, n_resamples=300)
    assert json.loads(json.dumps(found)) == found
    assert found["no_better_than"]["buy_and_hold"] < 0.02
    assert found["no_better_than"]["flat"] > 0.02
    assert found["no_better_than"]["copy"] is None
    assert found["looks"] == 21, "a copy of the market is no try at beating it"
    assert max(found["spa"], found["reality_check"]) < 0.05
    lucky = noise[:, [int(noise.mean(axis=0).argmax())]]
    alone = superiority.superiority_figures(jax.random.key(1), lucky[:, 0], baselines, lucky, n_resamples=300)
    among = superiority.superiority_figures(jax.random.key(1), lucky[:, 0], baselines, noise, n_resamples=300)
    assert alone["spa"] < 0.1 < among["spa"], "the best of twenty without skill"
    short = superiority.superiority_figures(
        jax.random.key(0), agent[:9], {"buy_and_hold": market[:9]}, looks[:9], n_resamples=300
    )
    assert short["spa"] is short["no_better_than"]["buy_and_hold"] is None


def test_superiority_in_plain_words() -> None:
    figures = {"no_better_than": {"buy_and_hold": 0.3, "<b>flat": 0.01, "copy": None}, "looks": 7, "spa": 0.4}
    figures["reality_check"] = 0.5
    page = Page(superiority.section(figures, 0.95))
    assert page.open == []
    assert "The agent earns more than <b>flat by more than luck explains." in page.visible
    assert "That it earns more than buy_and_hold is not shown." in page.visible
    assert "Of the 7 looks at these bars, none is shown to earn more than buy_and_hold." in page.visible
    assert "0.400" in page.cells
    better = figures | {"spa": 0.01}
    assert "the best earns more than buy_and_hold by more than the luck of having" in superiority.verdict(better, 0.95)
    assert "looks" not in superiority.section(figures | {"looks": 1}, 0.95)
