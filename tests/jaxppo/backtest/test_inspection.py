"""A run looked into: means over the decisions that are named, labels where they belong, heat maps as given."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from tiny_run import prices, tiny_config

from jaxppo import envs
from jaxppo.backtest import inspection
from jaxppo.envs.execution.portfolio import open_portfolio
from jaxppo.envs.market.features import feature_names, group_slices
from jaxppo.policy.encoding import chunk_of, market_bars
from jaxppo.policy.networks import inspect
from jaxppo.report.inspection import TITLES, inspection_figures
from jaxppo.run.build import build
from jaxppo.run.setup import first_policy

GROUPS = ("volume", "price", "calendar")
POLICY = {"kind": "transformer", "width": 16, "layers": 2, "heads": 2, "window": 4, "asset_attention": True}
POLICY |= {"coarse_pools": [3], "coarse_window": 2}


@functools.cache
def built(kind: str = "transformer", volatility_cap: float | None = None):
    """An untrained policy on hourly prices, its parameters away from zero."""
    frame = prices(n_bars=600)
    days = pd.bdate_range("2015-01-01", periods=100)
    times = [day + pd.Timedelta(hours=hour) for day in days for hour in range(10, 16)]
    frame["date"] = np.tile([f"{time:%Y-%m-%d %H:%M}" for time in times], 2)
    masks = [] if volatility_cap is None else [{"volatility_cap": {"target": volatility_cap}}]
    config = tiny_config(features={"groups": list(GROUPS)}, policy={**POLICY, "kind": kind}, masks=masks)
    setup = build(config, envs.load_market(frame))
    policy, net = first_policy(setup)
    leaves, tree = jax.tree.flatten(net)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    net = tree.unflatten([x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])
    return setup, policy, net


@functools.cache
def looked(kind: str = "transformer") -> inspection.Inspection:
    return inspection.inspect_policy(*built(kind), n_decisions=37, n_gradients=7)


@pytest.mark.slow
def test_attention_is_the_mean_over_the_decisions():
    setup, policy, net = built()
    found = looked()
    test = setup.periods["test"]
    assert len(found.bars) == 32
    assert (found.bars[0], found.bars[-1]) == (test.first, test.last - 1)
    windows = jax.vmap(lambda bar: chunk_of(market_bars(setup.params), bar, policy.context, 1))(jnp.asarray(found.bars))
    weights = jax.jit(inspect.attention, static_argnums=0)(policy, net, windows)
    np.testing.assert_allclose(found.lag, inspect.by_lag(weights), rtol=1e-4)
    np.testing.assert_allclose(found.levels, inspect.by_level(weights), rtol=1e-4)
    np.testing.assert_allclose(found.assets, inspect.by_asset(weights).mean(axis=(0, 1)), rtol=1e-4)
    np.testing.assert_allclose(found.entropy, inspect.entropy(weights), rtol=1e-4)
    np.testing.assert_allclose(found.redundancy, inspect.head_redundancy(weights), rtol=1e-4)
    rolled = np.asarray(jax.jit(inspect.rollout)(weights)).mean(axis=0)
    own = (rolled[0, :, 0] + rolled[1, :, 1]) / 2
    np.testing.assert_allclose(found.rollout, [own, rolled.sum(axis=(0, 2)) / 2 - own], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_hours_and_regimes_divide_the_decisions():
    setup, found = built()[0], looked()
    hour = np.asarray(setup.params.market.minute_of_day)[found.bars] // 60
    assert list(found.hours) == sorted(set(hour)) == [10, 11, 12, 13, 14, 15]
    counts = [np.sum(hour == h) for h in found.hours]
    np.testing.assert_allclose(np.average(list(found.hours.values()), axis=0, weights=counts), found.lag, rtol=1e-5)
    assert list(found.regimes) == ["calm", "usual", "turbulent"]
    assert all(x.shape == found.lag.shape for x in found.regimes.values())
    assert np.ptp(list(found.regimes.values()), axis=0).max() > 1e-3


@pytest.mark.slow
def test_groups_and_features_are_named_as_they_are_ordered():
    setup, policy, net = built()
    found, groups = looked(), group_slices(GROUPS)
    assert list(found.importance) == list(found.gates) == list(groups) == list(GROUPS)
    assert list(found.features) == list(feature_names(GROUPS))
    for row, columns in zip(found.gradients, groups.values(), strict=True):
        np.testing.assert_allclose(row.sum(), sum(list(found.features.values())[columns]), rtol=1e-5)

    # Shutting the gate of a group takes its importance and its gradients away, and leaves those of the others.
    net = jax.tree.map(lambda x: x, net)
    net["encoder"]["embedding"]["gates"] = jnp.asarray([0.0, -200.0, 0.0])
    shut = inspection.inspect_policy(setup, policy, net, n_decisions=37, n_gradients=7)
    assert shut.gates["price"] == pytest.approx(0.0)
    assert shut.importance["price"] == 0.0
    assert min(shut.importance["volume"], shut.importance["calendar"]) > 1e-4
    assert (shut.gradients[1] == 0.0).all()
    assert shut.gradients[[0, 2]].min() >= 0.0
    assert shut.gradients[[0, 2]].sum(axis=1).min() > 1e-4


@pytest.mark.slow
def test_gradients_are_those_of_the_sum_of_target_weights_latest_first():
    setup, policy, net = built()
    found, params = looked(), setup.params
    where = setup.periods["test"]
    bars = np.linspace(where.first, where.last - 1, 7).round().astype(int)
    levels = setup.env.position_limit * jnp.asarray([0.0, *setup.env.levels])

    @jax.vmap
    def account(bar):
        portfolio = open_portfolio(params.market.close[bar], params.initial_cash, setup.env.fill_rule)
        return setup.env.observe_portfolio(bar, portfolio, params.market.tradable[bar])

    def decide(distribution):
        return (distribution.probabilities() @ levels).sum(axis=-1)

    windows = jax.vmap(lambda bar: chunk_of(market_bars(params), bar, policy.context, 1))(jnp.asarray(bars))
    attribute = jax.jit(inspect.integrated_gradients, static_argnames=("network", "decide", "n_nodes"))
    read = slice(where.first - policy.context + 1, where.last)
    means = np.nanmean(np.asarray(params.features[read])[np.asarray(params.listed[read])], axis=0)
    attribution, _ = attribute(policy, net, windows, account(jnp.asarray(bars)), decide, means, n_nodes=16)
    total = np.abs(attribution).sum(axis=(0, 2))
    expected = total[::-1] / len(bars)
    for row, columns in zip(found.gradients, group_slices(GROUPS).values(), strict=True):
        np.testing.assert_allclose(row, expected[:, columns].sum(axis=1), rtol=1e-3, atol=1e-7)


@pytest.mark.slow
def test_figures_that_are_followed_through_training():
    setup, policy, net = built()
    found = inspection.attention_figures(setup, policy, net, "test", n_decisions=37)
    names = [f"{name}_block{i}" for name in ("attention_entropy", "head_redundancy") for i in (1, 2)]
    assert sorted(found) == names
    np.testing.assert_allclose([found[name] for name in names[:2]], looked().entropy.mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose([found[name] for name in names[2:]], looked().redundancy, rtol=1e-4)


def test_a_perceptron_has_no_attention_but_depends_on_features():
    found = looked("mlp")
    assert found.lag is found.levels is found.assets is found.rollout is found.entropy is found.redundancy is None
    assert found.gradients.shape == (3, 1)
    assert min(found.importance.values()) > 0
    assert inspection.attention_figures(*built("mlp"), "test") == {}
    assert list(inspection_figures(found, ("A", "B"))) == ["importance", "features"]


@pytest.mark.slow
def test_importance_in_a_run_is_the_mean_over_its_decisions():
    setup, policy, net = built()
    first, length = setup.periods["test"].first, 5
    means = jnp.asarray(inspection.feature_means(setup.params, first, first + length))

    def importance(length, bars):
        bars = jnp.asarray(bars, jnp.int32)
        return inspection._importance(policy, setup.env, length, net, setup.params, bars, means)

    together, single = importance(length, [first]), importance(1, np.arange(first, first + length))
    for name in GROUPS:
        assert np.ptp(single[name]) > 1e-5
        np.testing.assert_allclose(together[name], [np.mean(single[name])], rtol=1e-3)


@pytest.mark.parametrize(
    ("n_bars", "n", "runs", "length"), [(40, 37, [100, 124], 16), (9, 37, [100], 9), (9, 4, [100], 4)]
)
def test_runs_lie_in_the_period(n_bars, n, runs, length):
    found, found_length = inspection._in_runs(100, 100 + n_bars - 1, n)
    assert (found.tolist(), found_length) == (runs, length)


def test_a_constant_input_has_no_importance():
    setup, policy, net = built("mlp")
    columns = group_slices(GROUPS)["calendar"]
    names = feature_names(GROUPS)[columns]
    still = setup.params.features.at[..., columns].set(jnp.where(jnp.arange(len(names)) % 2, 0.3, -1.0))
    setup = dataclasses.replace(setup, params=setup.params.replace(features=still))
    found = inspection.inspect_policy(setup, policy, net, n_decisions=37, n_gradients=7)
    assert found.importance["calendar"] == 0.0
    assert [found.features[name] for name in names] == [0.0] * len(names)
    assert min(found.importance[name] for name in ("price", "volume")) > 0
    assert sum(found.features.values()) > 0


def test_nothing_matters_to_a_decision_that_masks_leave_no_choice():
    found = inspection.inspect_policy(*built("mlp", volatility_cap=1e-6), n_decisions=37, n_gradients=7)
    assert set(found.importance.values()) == {0.0}
    assert np.all(found.gradients == 0)


def test_heat_maps_show_what_they_are_given():
    found = looked()
    drawn = inspection_figures(found, ("<b>AAA</b>", "BBB"))
    assert list(drawn) == list(TITLES)
    traces = {name: json.loads(figure.to_json())["data"][0] for name, (figure, _) in drawn.items()}
    read = {name: np.asarray(drawn[name][0].data[0].z) for name, trace in traces.items() if trace["type"] == "heatmap"}
    np.testing.assert_allclose(read["lag"], found.lag.reshape(4, 4), rtol=1e-5)
    np.testing.assert_allclose(read["levels"], found.levels.reshape(4, 2), rtol=1e-5)
    np.testing.assert_allclose(read["assets"], found.assets, rtol=1e-5)
    np.testing.assert_allclose(read["rollout"], found.rollout, rtol=1e-5)
    np.testing.assert_allclose(read["gradients"], found.gradients, rtol=1e-5)
    weights = [x.mean(axis=(0, 1)) for x in (*found.regimes.values(), *found.hours.values())]
    np.testing.assert_allclose(read["conditions"], weights - found.lag.mean(axis=(0, 1)), atol=1e-7)
    assert traces["conditions"]["y"][:4] == ["calm market", "usual market", "turbulent market", "10:00"]
    assert traces["lag"]["y"] == [f"block {i}, head {j}" for i in (1, 2) for j in (1, 2)]
    assert traces["levels"]["x"] == ["bars", "means of 3 bars"]
    assert traces["assets"]["x"] == ["&lt;b&gt;AAA&lt;/b&gt;", "BBB"]
    assert traces["importance"]["y"] == list(GROUPS)
    largest = max(found.features, key=found.features.get)
    assert traces["features"]["y"][0] == largest
    alone = dataclasses.replace(found, assets=None)
    assert len(inspection_figures(alone, ("AAA",))["rollout"][0].data[0].z) == 1
