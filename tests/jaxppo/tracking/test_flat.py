"""Configurations and summaries as trackers take them, and the pictures of the test period."""

import io
import json

import numpy as np
import pytest
from tiny_run import tiny_config

from jaxppo.tracking import Curves
from jaxppo.tracking.charts import HEIGHT, MOST_BLOCKS, WIDTH, _extremes, charts
from jaxppo.tracking.flat import final_figures, flat_config, tables

ROW = {"sharpe": 0.5, "sharpe_ci": [0.1, 0.9], "calmar": None, "masks": {"bound": 0.5}, "notes": ["a"]}


def test_a_configuration_is_flat():
    found = flat_config(tiny_config(masks=["no_short", {"halt": {"move": 0.1}}], data={"multiplier": {"ES": 50.0}}))
    assert found["ppo.gamma"] == 0.99
    assert [next(iter(mask)) for mask in json.loads(found["masks"])] == ["no_short", "halt"]
    assert found["data.multiplier.ES"] == 50.0
    assert "data.symbols" not in found, "what is absent is left out"
    assert all(isinstance(value, bool | int | float | str) for value in found.values())


def test_headline_figures_are_the_finite_numbers_of_each_section():
    summary = {"out_of_sample": {**ROW, "costs": float("nan"), "liquidated": False}, "selection": {}, "text": "x"}
    assert final_figures(summary) == {"out_of_sample/sharpe": 0.5}


def test_tables_have_the_accounts_the_drawdowns_and_the_folds():
    fallen, folds = [{"depth": 0.1}, {"depth": 0.05, "bars": 3}], [{"fold": 0, "paths": {"first": 1.0}}]
    out = {**ROW, "drawdowns": fallen, "baseline": {"flat": {"sharpe": None, "detectable": 0.2}}}
    found = tables({"out_of_sample": out, "walk_forward": {"folds": folds, "n_folds": 1}})
    assert found["out_of_sample"].columns == (
        *("account", "sharpe", "sharpe_ci_low", "sharpe_ci_high", "calmar", "detectable"),
    )
    assert found["out_of_sample"].rows == (("agent", 0.5, 0.1, 0.9, None, None), ("flat", *[None] * 4, 0.2))
    assert found["drawdowns"] == (("depth", "bars"), ((0.1, None), (0.05, 3)))
    assert found["folds"] == (("fold", "paths.first"), ((0, 1.0),))
    assert tables({"evaluation": {"mean_return": 3.0}}) == {}


@pytest.mark.parametrize("times", [np.empty(0, "datetime64[ns]"), np.datetime64("2020-01-01", "ns") + np.arange(50)])
def test_pictures_have_the_size_that_they_are_said_to_have(times):
    image = pytest.importorskip("PIL.Image")
    equity = {name: 1e6 * np.linspace(1.0, end, 50, dtype=np.float32) for name, end in (("agent", 1.2), ("flat", 1.0))}
    found = charts(Curves(times, equity))
    assert list(found) == ["equity", "drawdown"]
    for png in found.values():
        assert image.open(io.BytesIO(png)).size == (WIDTH, HEIGHT)
        assert len(np.unique(np.asarray(image.open(io.BytesIO(png)))[..., 0])) > 2, "something is drawn"


def test_a_long_line_keeps_its_extremes():
    values = np.random.default_rng(0).normal(size=50_001)
    values[12_345], values[40_000] = 99.0, -99.0
    shown = _extremes(values)
    assert {0, 12_345, 40_000, 50_000} <= set(shown)
    assert len(shown) <= 2 * MOST_BLOCKS + 2
    assert (np.diff(shown) > 0).all()
    np.testing.assert_array_equal(_extremes(values[:100]), np.arange(100))
