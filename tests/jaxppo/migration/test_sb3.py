"""Checkpoints of Stable-Baselines3: its actions and values without it, and a file as a policy in our accounting."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from folders import ROOT
from sb3_files import CHECKPOINTS

from jaxppo import envs, masks
from jaxppo.backtest import AccountRules, Conditions, simulate, simulate_account
from jaxppo.envs import simulators
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.errors import ConfigError
from jaxppo.migration import Normalisation, load_sb3
from jaxppo.migration.network import ACTIVATIONS, act, value

NAMES = sorted(path.stem for path in CHECKPOINTS.glob("*.zip"))
DTYPES = {"Box": np.float32, "Discrete": np.int64, "MultiDiscrete": np.int64, "MultiBinary": np.int8}
CLOSE = {"rtol": 0, "atol": 1e-5}


@functools.cache
def model(name):
    normalisation = CHECKPOINTS / f"{name}.pkl"
    return load_sb3(CHECKPOINTS / f"{name}.zip", normalisation=normalisation if normalisation.exists() else None)


@functools.cache
def recorded(name):
    with np.load(CHECKPOINTS / f"{name}.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", NAMES)
def test_actions_and_values_are_those_of_stable_baselines3(name):
    seen = recorded(name)
    actions = model(name).predict(seen["observation"], seen.get("action_masks"))
    np.testing.assert_allclose(actions, seen["action"], **CLOSE)
    assert actions.dtype == DTYPES[model(name).network.action.kind]
    np.testing.assert_allclose(model(name).predict_values(seen["observation"]), seen["value"], **CLOSE)
    assert len(np.unique(seen["action"])) > 1, "a checkpoint that always decides the same tells nothing"


@pytest.mark.parametrize("name", ["masked", "masked_2_0_0", "masked_binary", "trading_masked"])
def test_masks_are_respected_and_may_be_left_out(name):
    seen = recorded(name)
    np.testing.assert_array_equal(model(name).predict(seen["observation"]), seen["unmasked"])
    assert (seen["unmasked"] != seen["action"]).any()
    choices = model(name).network.choices
    starts = np.cumsum((0, *choices[:-1]))
    actions = model(name).predict(seen["observation"], seen["action_masks"])
    for action, mask in zip(actions, seen["action_masks"], strict=True):
        for chosen, start, n in zip(action, starts, choices, strict=True):
            assert mask[start + chosen] or not mask[start : start + n].any()


def test_one_observation_and_several():
    seen = recorded("masked")
    observation, mask = seen["observation"], seen["action_masks"]
    one = model("masked").predict(observation[3], mask[3])
    assert one.shape == (3,)
    np.testing.assert_array_equal(one, seen["action"][3])
    assert model("masked").predict_values(observation[3]).shape == ()
    assert model("discrete").predict(2).shape == ()
    assert model("discrete").predict([2, 3]).shape == (2,)


def test_the_same_as_pure_functions():
    seen, chosen = recorded("masked"), model("masked")
    pure = jax.jit(jax.vmap(functools.partial(act, chosen.network, chosen.params)))
    np.testing.assert_array_equal(pure(seen["observation"], seen["action_masks"]), seen["action"])
    found = jax.vmap(functools.partial(value, chosen.network, chosen.params))(seen["observation"])
    np.testing.assert_allclose(found, seen["value"], **CLOSE)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_torch(name):
    with np.load(CHECKPOINTS / "activations.npz") as curves:
        np.testing.assert_allclose(ACTIVATIONS[name](curves["x"]), curves[name], **CLOSE)


def test_what_the_files_say():
    assert model("continuous").version == "2.9.2"
    assert model("masked_2_0_0").version == "2.0.0"
    assert model("masked").name == "masked"
    assert model("squashed").network.squashed
    assert [layer.bias.size for layer in model("multi_discrete").params.actor] == [5, 9]
    assert [layer.bias.size for layer in model("multi_discrete").params.critic] == [1]


def test_the_ending_may_be_left_out():
    assert load_sb3(CHECKPOINTS / "linear").name == "linear"


@pytest.mark.parametrize(
    ("name", "observation", "given", "needle"),
    [
        ("continuous", np.zeros((3, 3)), None, r"shape \[3, 2\], or \[n, \.\.\.\] of them; this one \[3, 3\]"),
        ("continuous", np.full((3, 2), "a"), None, "an observation has shape"),
        ("continuous", np.zeros((3, 2)), [True], "PPO, which was trained without"),
        ("masked", np.zeros((3, 2)), [True] * 8, r"shape \[8\]; \[1, 9\] are needed"),
    ],
)
def test_what_predict_refuses(name, observation, given, needle):
    with pytest.raises(ValueError, match=needle):
        model(name).predict(observation, given)


def test_a_large_mean_keeps_its_digits():
    """Prices around 5000 that move by 1e-3, against NumPy in float64."""
    draws = np.random.default_rng(0)
    mean, variance = np.full((3, 2), 5000.123456789), np.full((3, 2), 1e-6)
    observation = (mean + 1e-3 * draws.normal(size=(20, 3, 2))).astype(np.float32)
    normalised = np.clip((observation - mean) / np.sqrt(variance + 1e-8), -3, 3)
    raw = load_sb3(CHECKPOINTS / "continuous.zip", normalisation=Normalisation(mean, variance, clip=3.0, epsilon=1e-8))
    np.testing.assert_allclose(raw.predict(observation), model("continuous").predict(normalised), **CLOSE)


@pytest.mark.parametrize(
    ("given", "needle"),
    [
        (Normalisation(np.zeros(5), np.ones(5)), "of 5 numbers, an observation has 6"),
        (Normalisation(np.zeros(6), np.ones(5)), "must have one shape"),
        (Normalisation(np.zeros(6), -np.ones(6)), "variance finite and >= 0"),
        (Normalisation(np.full(6, np.nan), np.ones(6)), "mean must be finite"),
        (Normalisation(np.zeros(6), np.ones(6), clip=0.0), "clip is 0.0"),
        ("nowhere.pkl", "nowhere.pkl: no such file"),
    ],
)
def test_what_a_normalisation_must_be(given, needle):
    with pytest.raises(ConfigError, match=needle):
        load_sb3(CHECKPOINTS / "continuous.zip", normalisation=given)


def test_rewards_alone_may_have_been_normalised(tmp_path):
    whole = (CHECKPOINTS / "squashed.pkl").read_bytes()
    at = whole.index(b"norm_obs\x94") + len(b"norm_obs\x94")
    assert whole[at : at + 1] == b"\x88"  # True
    (tmp_path / "rewards.pkl").write_bytes(whole[:at] + b"\x89" + whole[at + 1 :])
    assert load_sb3(CHECKPOINTS / "squashed.zip", normalisation=tmp_path / "rewards.pkl").params.scale == ()


IMPORTS = """
import sys
from jaxppo.migration import load_sb3
model = load_sb3(sys.argv[1], normalisation=sys.argv[2])
model.predict([[0.0, 1.0, 2.0, 3.0]])
print(sorted({"torch", "stable_baselines3", "sb3_contrib"} & set(sys.modules)))
"""


def test_torch_is_not_imported():
    files = [str(CHECKPOINTS / "squashed.zip"), str(CHECKPOINTS / "squashed.pkl")]
    done = subprocess.run([sys.executable, "-c", IMPORTS, *files], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


# A checkpoint as a policy.

PERIODS, N_BARS, FIRST, N_STEPS = 252.0, 150, 70, 60


@functools.cache
def environment(actions="discrete", observation="window", **changes):
    given = {"window": 3, "levels": (-1.0, -0.5, 0.0, 0.5, 1.0), **changes}
    return envs.TradingEnv(
        n_assets=3,
        actions=actions,
        observation=observation,
        start="flat",
        groups=("price",),
        normalisation_window=10,
        masks=masks.chain(masks.turnover(limit=0.8)),
        **given,
    )


@functools.cache
def market():
    """With bars that are missing, which masks and features have to know."""
    found = simulators.gbm(jax.random.key(0), N_BARS, 3)
    return found.replace(tradable=found.tradable & (jax.random.uniform(jax.random.key(1), (N_BARS, 3)) < 0.9))


def parameters(env):
    """A period with one start."""
    costs = basic_costs(commission_bps=5.0)
    given = {"first_bar": FIRST, "last_bar": FIRST + N_STEPS, "episode_bars": N_STEPS, "periods": PERIODS}
    return env.make_params(market(), costs, **given)


@functools.cache
def trading_model(name):
    if name == "trading_masked":
        return model(name)
    draws = np.random.default_rng(3)
    given = Normalisation(draws.normal(size=84), draws.uniform(0.5, 2.0, size=84), clip=2.0)
    return load_sb3(CHECKPOINTS / f"{name}.zip", normalisation=given)


@functools.cache
def stepped(name, actions):
    """Equity and actions where the environment is stepped by what `predict` says of its own observations."""
    env, chosen = environment(actions), trading_model(name)
    params = parameters(env)
    step = jax.jit(env.step_env)
    observation, state = env.reset_env(jax.random.key(0), params)
    assert int(state.bar) == FIRST
    mask, equity, actions = env.action_mask_of(state, params), [float(state.portfolio.equity)], []
    limited = False
    for _ in range(N_STEPS):
        action = chosen.predict(observation, mask if chosen.network.maskable else None)
        observation, state, _, _, info = step(jax.random.key(0), state, jnp.asarray(action), params)
        mask = info["action_mask"]
        limited |= not mask.all()
        equity.append(float(info["equity"]))
        actions.append(action)
    assert limited, "masks that allow everything tell nothing"
    return np.asarray(equity), np.asarray(actions)


@pytest.mark.parametrize(("name", "actions"), [("trading_masked", "discrete"), ("trading_continuous", "continuous")])
@pytest.mark.parametrize("observation", ["window", "index"])
def test_a_backtest_decides_as_predict_on_the_environments_own_observations(name, actions, observation):
    equity, decided = stepped(name, actions)
    assert len(np.unique(decided, axis=0)) > 5
    env = environment(actions, observation)
    policy, rules = trading_model(name).policy(env), AccountRules(env, PERIODS)
    ledger = simulate_account(policy, rules, parameters(env), jnp.int32(FIRST), N_STEPS)
    np.testing.assert_allclose(ledger.equity, equity, rtol=1e-6)
    assert np.ptp(equity) > 0


def test_a_checkpoint_goes_through_the_front_door():
    env, chosen = environment(), model("trading_masked")

    def prepare(costs, market):
        return env.make_params(market, costs, periods=PERIODS)

    costs = basic_costs(commission_bps=5.0)
    rules = AccountRules(env, PERIODS)
    conditions = Conditions(rules, costs, prepare, env.first_decision, env.first_decision, "trading_masked")
    result = simulate(chosen.policy(env), market(), conditions=conditions, first=FIRST, n_bars=N_STEPS)
    equity, _ = stepped("trading_masked", "discrete")
    np.testing.assert_allclose(result.equity.iloc[:, 0], equity, rtol=1e-6)
    assert result.name == "trading_masked"


def test_the_same_policy_is_compiled_once():
    one, other = (model("trading_masked").policy(environment()) for _ in range(2))
    assert one.without_params() == other.without_params()


@pytest.mark.parametrize(
    ("name", "env", "needle"),
    [
        ("trading_masked", {"window": 4}, r"trained on observations Box \[84\], the environment shows Box \[108\]"),
        (
            "trading_masked",
            {"actions": "continuous"},
            r"actions MultiDiscrete \[6, 6, 6\].*continuous actions Box \[3\]",
        ),
        ("trading_continuous", {"actions": "continuous", "levels": (-0.5, 1.0)}, r"of levels \[-0.5, 1.0\]"),
        ("masked", {}, r"trained on observations Box \[3, 2\]"),
    ],
)
def test_an_environment_that_it_was_not_trained_on(name, env, needle):
    with pytest.raises(ConfigError, match=needle):
        model(name).policy(environment(**env))


def test_masks_of_hierarchical_actions_depend_on_each_other(tmp_path):
    env = environment("hierarchical")
    shown = model("trading_masked")
    action = shown.network.action._replace(shape=(4,), sizes=(4, 6, 6, 6))
    widened = shown.__class__(shown.network._replace(action=action), shown.params, "wide", "")
    with pytest.raises(ConfigError, match="hierarchical ones depend on each other"):
        widened.policy(env)
