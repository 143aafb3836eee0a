"""`policy.start`: the network begins as the linear policy of feature portfolios, fitted on its training period."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxppo.backtest.evaluation import evaluate
from jaxppo.config import ConfigError, validate_config
from jaxppo.envs import simulators
from jaxppo.policy.feature_portfolios import mixture, portfolios
from jaxppo.ppo.imitation import flat_decisions
from jaxppo.run.build import build
from jaxppo.run.setup import first_policy
from jaxppo.run.start import check_start, started_policy
from jaxppo.training.trainer import train
from jaxppo.walk_forward import walk_forward

TARGET = 0.01
BUDGET = {"risk_units": {"target": 0.1}}


def market(seed=7):
    """Random walks that drift, so that being long and trends have earned something."""
    return simulators.gbm(jax.random.key(seed), 700, 3, half_spread=5e-4, drift=1e-3, volatility=0.01)


def config(**changes):
    given = {
        "env": {"actions": "continuous", "levels": [-1, 1], "position_limit": 1.0},
        "policy": {"kind": "linear", "width": 8, "heads": 2, "start": {"feature_portfolios": {"target": TARGET}}},
        "features": {"groups": ["trend", "cross_section"]},
        "sizing": [BUDGET],
        "ppo": {"chunk": 8, "paths": 4, "portfolios": 1, "minibatches": 1, "learning_rate": 1e-8},
        "training": {"steps": 32, "devices": 1},
        "evaluation": {"bootstrap_resamples": 100, "decision": "mean"},
    }
    for section, keys in changes.items():
        given[section] = {**given.get(section, {}), **keys} if isinstance(keys, dict) else keys
    return validate_config(given)


def wanted(setup):
    """What the mixture of the training period holds, `[T, A]` parts of the budget, by the definition."""
    found = portfolios(setup.market, setup.periods_per_year, TARGET, 63, 1.0, 0.0)
    where, row = setup.periods["train"], np.arange(setup.market.n_bars)
    counted = (row >= max(where.first, 252)) & (row + 2 <= where.last)
    weights = mixture(found.gains, jnp.asarray(counted), setup.periods_per_year, TARGET)
    return np.asarray(jnp.einsum("tak,k->ta", found.held, weights) / found.held[..., 0]) * TARGET / 0.1


KINDS = {
    "continuous": {},
    "around a base": {"policy": {"base": "inverse_volatility"}},
    "beta": {"policy": {"action_distribution": "beta"}},
    "perceptron": {"policy": {"kind": "mlp"}},
}
SLOW = ("around a base", "beta", "perceptron")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow if kind in SLOW else ()) for kind in KINDS])
def test_a_network_starts_with_the_decisions_of_the_mixture(kind):
    changes = dict(KINDS[kind])
    if "policy" in changes:
        changes["policy"] = {**config().policy.model_dump(exclude_unset=True), **changes["policy"]}
    setup = build(config(**changes), market())
    (network, net), drawn = started_policy(setup), first_policy(setup)[1]
    where = setup.periods["train"]
    first = jnp.asarray([where.first + 100], jnp.int32)
    n_bars = where.last - where.first - 100
    right = wanted(setup)[int(first[0]) : int(first[0]) + n_bars]
    assert np.abs(right).mean() > 0.05
    apart = [
        np.mean(np.square(flat_decisions(network, each, setup.env, setup.params, first, n_bars)[0] - right))
        for each in (net, drawn)
    ]
    assert apart[0] < 0.1 * np.mean(np.square(right))
    assert apart[1] > 0.5 * np.mean(np.square(right))


def test_a_start_does_not_read_what_comes_after_training():
    prices = market()
    setup = build(config(), prices)
    last = setup.periods["train"].last
    later = {name: getattr(prices, name).at[last + 1 :].multiply(3.0) for name in ("open", "high", "low", "close")}
    earlier = {name: getattr(prices, name).at[last - 40 :].multiply(1.1) for name in ("open", "high", "low", "close")}
    nets = [started_policy(build(config(), prices.replace(**changes)))[1] for changes in ({}, later, earlier)]
    for one, other in zip(*(jax.tree.leaves(net) for net in nets[:2]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(np.any(x != y) for x, y in zip(jax.tree.leaves(nets[0]), jax.tree.leaves(nets[2]), strict=True))


@pytest.mark.slow
def test_a_run_that_hardly_moves_stays_at_its_start_and_shows_it_as_untrained(tmp_path):
    found = train(config(), market=market(), output=tmp_path / "run", progress=False)
    start = started_policy(build(config(), market()))[1]
    pairs = zip(*(jax.tree.leaves(net["head"]["actor"]) for net in (start, found.params)), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, atol=1e-5)
    figures = found.summary["out_of_sample"]
    assert figures["baseline"]["untrained"]["sharpe"] == pytest.approx(figures["sharpe"], rel=1e-3)
    assert figures["turnover"] > 0.0
    others = build(config(), market(8), split=False)
    elsewhere = evaluate(others, first_policy(others)[0], found.params, changed=True).summary
    assert "untrained" not in elsewhere["baseline"], "other prices do not say what it was"
    assert elsewhere["turnover"] > 0.0


@pytest.mark.slow
def test_each_fold_of_a_walk_forward_starts_from_its_own_past(tmp_path):
    keys = {"kind": "expanding", "train_bars": 330, "test_bars": 80, "validation": 0.1, "seeds": 2}
    prices = market()
    later = {name: getattr(prices, name).at[420:].multiply(1.5) for name in ("open", "high", "low", "close")}
    of_both = []
    for number, each in enumerate((prices, prices.replace(**later))):
        result = walk_forward(config(walk_forward=keys), market=each, output=tmp_path / str(number), progress=False)
        of_both.append(result)
    folds = [one.folds for one in of_both]
    assert len(folds[0]) == len(folds[1])
    saved = [one.returns[[name for name in one.returns if name not in ("bar", "time")]].to_numpy() for one in of_both]
    assert np.isfinite(saved[0]).all()
    bars = of_both[0].returns["bar"].to_numpy()
    np.testing.assert_array_equal(saved[0][bars < 420], saved[1][bars < 420])


def test_mistakes_name_the_key():
    cases = [
        ({"env": {"actions": "band", "levels": [-1, 1]}}, "which fits targets; env.actions is band, use continuous"),
        ({"sizing": ["kelly"]}, "policy.start fits targets, but sizing names kelly"),
        (
            {
                "policy": {"kind": "linear", "start": "feature_portfolios", "base": "trend", "tilt": "scale"},
                "sizing": [],
            },
            "fits tilts that are added; policy.tilt is scale",
        ),
        ({"policy": {"kind": "linear", "start": "trend"}}, "policy.start"),
        ({"policy": {"kind": "linear", "start": {"feature_portfolios": {"target": -1}}}}, "target"),
    ]
    for changes, said in cases:
        with pytest.raises(ConfigError, match=said):
            config(**changes)


def test_a_start_that_nothing_shows_is_refused():
    with pytest.raises(ConfigError, match=r"follows trend, cross_section; add cross_section to features\.groups"):
        check_start(*with_training(build(config(features={"groups": ["trend", "price"]}), market())))
    carry = market().replace(carry=jnp.zeros((700, 3)))
    with pytest.raises(ConfigError, match=r"add carry to features\.groups"):
        check_start(*with_training(build(config(), carry)))
    short = config(data={"train": 0.4, "validation": 0.3, "test": 0.3})
    with pytest.raises(ConfigError, match="after bar 252: there are"):
        train(short, market=market(), progress=False)


def with_training(setup):
    return setup, setup.period_params("train")
