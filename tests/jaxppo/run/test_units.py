"""`env.units: risk` is the sizing `risk_units`: the same run, whatever the actions, and the same refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from folders import ROOT
from tiny_run import assert_trees_equal, command

from jaxppo.backtest.agent_account import agent_of, trade
from jaxppo.config import ConfigError, dump_config, load_config, validate_config
from jaxppo.envs import simulators
from jaxppo.run.build import build
from jaxppo.run.setup import first_policy

UNITS = {"risk_units": {}}
CAP = {"projection": {"weight": 0.5}}
CONTROL = {"drawdown_control": {"limit": 0.1, "move": 0.05}}
BOOK = {"book": {"strategies": ["agent", "trend"]}}
ACTIONS = {
    "discrete": {"actions": "discrete", "levels": [-1, 0, 1]},
    "continuous": {"actions": "continuous", "levels": [-1, 1]},
    "band": {"actions": "band", "levels": [-1, 1]},
    "hierarchical": {"actions": "hierarchical", "levels": [-1, 0, 1]},
}


def config(env=None, sizing=(), base=None, **sections):
    return validate_config(
        {
            "env": env or {},
            "sizing": list(sizing),
            "policy": {"kind": "mlp", "width": 8, "layers": 1, "heads": 2, "base": base},
            "features": {"groups": ["price"], "normalisation_window": 20},
            "ppo": {"chunk": 8, "paths": 4, "portfolios": 2, "minibatches": 2},
            "training": {"steps": 1000, "devices": 1},
            **sections,
        }
    )


def kinds(found):
    return [item.kind for item in found.sizing]


def both(env, sizing=(), base=None):
    """Two runs: in units of risk by the key, and by the transform."""
    market = simulators.gbm(jax.random.key(7), 420, 3, half_spread=5e-4, drift=3e-4)
    named = config({**env, "units": "risk"}, sizing, base), config(env, [UNITS, *sizing], base)
    return [build(one, market) for one in named]


def decided(setup):
    """Shares and orders after one decision from a flat start."""
    env, params = setup.env, setup.period_params("train")
    _, state = env.reset_env(jax.random.key(3), params)
    action = env.action_space(params).sample(jax.random.key(4))
    _, after, *_ = env.step_env(jax.random.key(0), state, action, params)
    return after.portfolio, after.sizing


@pytest.mark.parametrize("actions", ACTIONS)
def test_it_is_the_transform_for_every_kind_of_action(actions):
    by_key, by_transform = both(ACTIONS[actions], [CAP])
    assert by_key.config.sizing == by_transform.config.sizing
    assert [part.name for part in by_key.env.sizing.parts] == ["risk_units", "projection"]
    assert_trees_equal(by_key.params.sizing, by_transform.params.sizing)
    assert_trees_equal(decided(by_key), decided(by_transform))
    plain = build(config(ACTIONS[actions], [CAP]), by_key.market)
    shares = [np.asarray(decided(setup)[0].shares) for setup in (by_key, plain)]
    assert np.abs(shares[0] - shares[1]).max() > 0.0


def test_tilts_around_a_base_are_in_units_of_risk():
    by_key, by_transform = both(ACTIONS["continuous"], base="trend")
    network, net = first_policy(by_key)
    net = jax.tree.map(lambda x: x + 0.3, net)
    one, other = (trade(setup, agent_of(setup, network, net), "test") for setup in (by_key, by_transform))
    assert_trees_equal(one, other)
    assert jnp.abs(one.weights).sum() > 0.0


def test_the_transform_comes_first_with_its_defaults_unless_it_is_named():
    assert config().env.units == "weight"
    assert kinds(config()) == []
    risk = {"units": "risk"}
    assert config(risk).sizing == config(sizing=[UNITS]).sizing
    assert kinds(config(risk, [CAP, CONTROL])) == ["risk_units", "projection", "drawdown_control"]
    assert kinds(config(risk, [BOOK])) == ["risk_units", "book"]
    named = config(risk, [{"risk_units": {"target": 0.3, "span": 20}}, CAP])
    assert kinds(named) == ["risk_units", "projection"]
    assert (named.sizing[0].values.target, named.sizing[0].values.span) == (0.3, 20)


def test_what_is_saved_reads_back_the_same(tmp_path):
    path, found = tmp_path / "config.yaml", config({"units": "risk"}, [CAP])
    path.write_text(dump_config(found))
    assert load_config(path, saved=True) == found
    plain = load_config(path, ["--env.units", "weight", "--sizing", "[]"], saved=True)
    assert (plain.env.units, kinds(plain)) == ("weight", [])
    with pytest.raises(ConfigError, match=r"--env\.units is weight, but sizing names risk_units"):
        load_config(path, ["--env.units", "weight"], saved=True)


REFUSED = {
    "other": ({"env": {"units": "lots"}}, r'env\.units is "lots"; allowed: one of weight, risk'),
    "gymnax": (
        {"env": {"name": "CartPole-v1", "units": "risk"}},
        r"env\.units is risk, but env\.name is 'CartPole-v1'; it must be weight",
    ),
    "kelly": ({"sizing": [{"kelly": {}}]}, "env.units is risk, but sizing names kelly; targets are shares of one of"),
    "scale": (
        {"policy": {"base": "trend", "tilt": "scale"}},
        r"env\.units is risk, but policy\.tilt scale needs no unit; it must be weight",
    ),
    "order": (
        {"sizing": [{"projection": {"weight": 0.5}}, {"volatility_target": {"target": 0.1}}]},
        r"sizing\[1\]\.volatility_target comes after projection",
    ),
    "late": ({"sizing": [CAP, UNITS]}, r"sizing\[1\]\.risk_units comes after projection"),
    "after a book": ({"sizing": [BOOK, UNITS]}, r"sizing\[1\]\.risk_units comes after book"),
    "latency": (
        {"sizing": [CONTROL], "env": {"latency_bars": 2}},
        r"env\.latency_bars is 2; sizing\[0\]\.drawdown_control needs",
    ),
    "item": ({"sizing": [{"projection": {"wait": 0.5}}]}, r"unknown key 'sizing\[0\]\.projection\.wait'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused(name):
    """The places of transforms are those of the user's list."""
    sections, words = REFUSED[name]
    env = {"units": "risk", **sections.get("env", {})}
    with pytest.raises(ConfigError, match=words) as caught:
        validate_config({"training": {"steps": 1}, **sections, "env": env})
    assert "\n" not in str(caught.value)


def test_the_command_ends_in_one_line(capsys):
    given = ("--config", ROOT / "configs" / "quickstart.yaml", "--env.units", "risk", "--sizing", "[kelly]")
    assert command("train", *given) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert "env.units is risk, but sizing names kelly" in printed
    assert printed.count("\n") == 1
