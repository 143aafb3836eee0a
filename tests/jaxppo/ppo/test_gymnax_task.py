"""Other people's environments as a task: rollouts, shared noise, populations, and runs from a YAML."""

import functools
import json

import chex
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from folders import ROOT

import jaxppo
from jaxppo.config import PPOConfig, load_config, validate_config
from jaxppo.envs.reference import QuadraticCostAR1
from jaxppo.errors import ConfigError
from jaxppo.policy.networks.mlp import MLPConfig, make_mlp_actor_critic
from jaxppo.policy.rollout import DATA_AXIS
from jaxppo.ppo import data_mesh, make_learner
from jaxppo.ppo.gymnax_task import action_config, flat, gymnax_task, n_inputs, n_market, to_env_action
from jaxppo.ppo.population import train_population

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
PPO = PPOConfig(paths=8, portfolios=2, chunk=16, epochs=1, minibatches=2, reward_scale=1.0, learning_rate=1e-3)
SHORT = 7
KEY = jax.random.key(0)


@functools.cache
def built(name: str, hindsight: bool = False):
    """Environment, parameters, policy, first parameters, task; CartPole's episodes are cut after `SHORT` steps."""
    if name == "CartPole-v1":
        env, params = gymnax.make(name)
        params = params.replace(max_steps_in_episode=SHORT)
    else:
        problem = QuadraticCostAR1(max_steps_in_episode=SHORT)
        env, params = problem.env, problem.params
    config = PPO.model_copy(update={"hindsight_critic": hindsight})
    shape = MLPConfig(n_inputs(env, params), n_market(env, params) + 1 if hindsight else 0, 8, 1)
    policy, net = make_mlp_actor_critic(shape, action_config(env, params, 0.5), jax.random.key(0))
    return env, params, policy, net, gymnax_task(policy, env, params, config), config


@functools.cache
def rolled_out(name: str, hindsight: bool = False):
    """Two chunks one after the other."""
    _, params, _, net, task, config = built(name, hindsight)
    keys = jax.random.split(jax.random.key(1), (3, config.paths))

    @jax.jit
    def both(keys):
        states = task.start(params, keys[0])
        states, first = task.collect(net, params, states, keys[1], jnp.float32(0))
        return first, task.collect(net, params, states, keys[2], jnp.float32(0))[1]

    return jax.tree.map(np.asarray, both(keys))


def test_a_rollout_is_the_environment_stepped_by_hand():
    """One portfolio of one path: the same start and step keys give the same observations, rewards and ends."""
    env, params, _, _, _, config = built("CartPole-v1")
    first, _ = rolled_out("CartPole-v1")
    key_start, key_collect = (k[3] for k in jax.random.split(jax.random.key(1), (3, config.paths))[:2])
    key_env = jax.random.split(key_collect)[1]
    observation, state = env.reset(key_start, params)
    for s in range(config.chunk):
        key = jax.random.fold_in(key_env, s)
        np.testing.assert_allclose(first.inputs[3, s, 1], flat(observation), rtol=1e-5, atol=1e-6)
        action = int(first.action[3, s, 1, 0])
        observation, state, reward, terminated, truncated, _ = env.step(key, state, action, params)
        assert (first.reward[3, s, 1], first.terminated[3, s, 1]) == (reward, terminated)
        assert first.truncated[3, s, 1] == (truncated and not terminated)
    assert first.truncated.any()
    assert not first.terminated.all()


def test_values_after_a_step_are_those_of_the_next_state_or_of_the_final_observation():
    env, params, policy, net, _, _ = built("CartPole-v1")
    first, second = rolled_out("CartPole-v1")
    ended = first.terminated | first.truncated
    inside = ~ended[:, :-1]
    np.testing.assert_allclose(first.value_after[:, :-1][inside], first.value[:, 1:][inside], rtol=1e-5, atol=1e-6)
    last = ~ended[:, -1]
    np.testing.assert_allclose(first.value_after[:, -1][last], second.value[:, 0][last], rtol=1e-4, atol=1e-5)
    path, step, portfolio = next(zip(*np.nonzero(first.truncated), strict=True))
    _, state = env.reset(jax.random.key(0), params)
    x = first.inputs[path, step, portfolio]
    state = state.replace(x=x[0], x_dot=x[1], theta=x[2], theta_dot=x[3], time=jnp.int32(0))
    final, *_ = env.step_env(jax.random.key(0), state, int(first.action[path, step, portfolio, 0]), params)
    expected = policy.value(net, flat(final))
    assert first.value_after[path, step, portfolio] == pytest.approx(float(expected), abs=1e-5)
    assert abs(first.value[path, step + 1, portfolio] - float(expected)) > 1e-4, "a new episode has begun there"


def test_the_portfolios_of_a_path_meet_the_same_market_and_act_on_their_own():
    first, _ = rolled_out("AR1")
    signal = first.inputs[..., 0]
    np.testing.assert_array_equal(signal[:, :, 0], signal[:, :, 1])
    assert np.all(np.abs(np.diff(signal[:, 1, 0])) > 0), "every path has a market of its own"
    assert np.mean(first.action[:, :, 0] != first.action[:, :, 1]) > 0.99


def test_hindsight_is_the_discounted_rest_of_the_chunk_or_episode():
    """Episodes of 7 steps, the exogenous shock of a step is the innovation of the signal."""
    _, params, policy, net, _, config = built("AR1", hindsight=True)
    first, _ = rolled_out("AR1", hindsight=True)
    signal = first.inputs[..., 0].astype(np.float64)
    ended = first.truncated
    decay, spread = float(params.decay), float(params.innovation / params.signal_scale)
    shock = np.zeros(signal.shape)
    shock[:, :-1] = (signal[:, 1:] - decay * signal[:, :-1]) / spread
    for s in range(4):  # the first episode's later shocks are seen from each of its first bars
        weights = config.gamma ** np.arange(SHORT - 1 - s)
        known = (shock[:, s : SHORT - 1] * weights[None, :, None]).sum(axis=1)
        last = (first.hindsight[:, s, :, 0] * config.chunk**0.5 - known) / config.gamma ** (SHORT - 1 - s)
        other = (first.hindsight[:, SHORT - 1, :, 0]) * config.chunk**0.5
        np.testing.assert_allclose(last, other, atol=1e-4)
    assert ended[:, SHORT - 1].all()
    left = first.hindsight[:, :SHORT, :, 1] * config.chunk
    expected = np.cumsum(config.gamma ** np.arange(SHORT))[::-1]
    np.testing.assert_allclose(left, np.broadcast_to(expected[None, :, None], left.shape), rtol=1e-5)
    plain = policy.value(net, jnp.asarray(first.inputs), None)
    seen = policy.value(net, jnp.asarray(first.inputs), jnp.asarray(first.hindsight))
    np.testing.assert_allclose(first.value, seen, rtol=1e-4, atol=1e-5)
    assert np.mean(np.abs(plain - seen) > 1e-4) > 0.9


def test_actions_reach_the_ends_of_a_box():
    env, params = gymnax.make("Pendulum-v1")
    np.testing.assert_allclose(to_env_action(env, params, jnp.asarray([-1.0])), [-params.max_torque], rtol=1e-6)
    np.testing.assert_allclose(to_env_action(env, params, jnp.asarray([1.0])), [params.max_torque], rtol=1e-6)
    assert action_config(env, params, 0.5).n_components == 1


def test_before_the_first_step_every_importance_ratio_is_one():
    _, params, _, net, task, _ = built("CartPole-v1")
    first, _ = rolled_out("CartPole-v1")
    distribution, value = jax.jit(task.predict)(net, params, jax.tree.map(jnp.asarray, first))
    np.testing.assert_allclose(distribution.log_prob(jnp.asarray(first.action)), first.log_prob, atol=1e-5)
    np.testing.assert_allclose(value, first.value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_population_is_its_members_trained_one_by_one():
    _, params, _, net, task, config = built("AR1")
    learner = make_learner(task, config, data_mesh(jax.devices()[:1]))
    nets, metrics, seen = train_population(
        learner, lambda key: net, params, [3, 4], 4, evaluate=lambda net: net["log_std"][0], every=2
    )
    state = learner.init(net, 4, params)
    rewards = []
    for i in range(4):
        state, row = learner.iterate(state, params, jnp.float32(i / 4))
        rewards.append(float(row["reward"]))
    np.testing.assert_allclose(metrics["reward"][1], rewards, rtol=1e-4, atol=1e-6)
    for ours, alone in zip(jax.tree.leaves(nets), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(ours[1], alone, rtol=1e-3, atol=1e-5)
    assert seen.shape == (2, 2)
    assert seen[1, -1] == pytest.approx(float(nets["log_std"][1, 0]))
    with pytest.raises(ValueError, match="n_iterations is 5; it must be a multiple of every = 2"):
        train_population(learner, lambda key: net, params, [3], 5, every=2)


def test_every_iteration_of_a_population_can_have_its_own_parameters():
    net = tiny.bandit_policy()[1]
    learner = make_learner(tiny.bandit_task(), tiny.BANDIT_PPO, data_mesh(jax.devices()[:1]))

    def refresh(key):
        return tiny.bandit_params(spread=0.0).replace(mean=jax.random.uniform(key))

    _, metrics, _ = train_population(
        learner, lambda key: net, tiny.bandit_params(), [3, 5], 4, every=2, refresh=refresh
    )
    rewards = np.asarray(metrics["reward"])
    assert rewards.shape == (2, 4)
    assert len(np.unique(rewards)) == 8
    assert np.all((rewards > 0) & (rewards < 1))


def test_hindsight_needs_an_environment_that_shows_its_noise():
    env, params, policy, _, _, _ = built("CartPole-v1")
    with pytest.raises(ValueError, match=r"hindsight_critic needs info\['market'\]"):
        gymnax_task(policy, env, params, PPO.model_copy(update={"hindsight_critic": True}))


def test_targets_of_a_truncated_episode_do_not_see_the_next_one():
    """A later episode's rewards leave the advantages before the truncation as they are."""
    from jaxppo.ppo.targets import estimate

    first, _ = rolled_out("CartPole-v1")
    assert first.truncated[:, SHORT - 1].all()
    changed = first.replace(reward=np.where(np.arange(PPO.chunk)[None, :, None] >= SHORT, 100.0, first.reward))
    one, two = (np.asarray(estimate(r, r.value, r.value_after, PPO)[0]) for r in (first, changed))
    np.testing.assert_array_equal(one[:, :SHORT], two[:, :SHORT])
    assert np.all(one[:, SHORT:] != two[:, SHORT:])


# Runs.


def cartpole(**sections):
    """A run of two small iterations."""
    tree = {
        "env": {"name": "CartPole-v1"},
        "policy": {"kind": "mlp", "width": 16, "heads": 1, "layers": 1},
        "ppo": {"paths": 8, "portfolios": 1, "chunk": 16, "epochs": 1, "minibatches": 2, "reward_scale": 1.0},
        "training": {"steps": 256, "evaluate_every": 1, "devices": 1},
    }
    return validate_config({name: {**tree.get(name, {}), **sections.get(name, {})} for name in {*tree, *sections}})


@pytest.mark.slow
def test_a_run_and_its_continuation(tmp_path):
    whole = jaxppo.train(cartpole(), output=tmp_path / "whole", progress=False)
    assert whole.summary["train"]["env_steps"] == 256
    assert whole.summary["evaluation"]["episodes"] == 256
    assert "CartPole-v1, 256 new episodes: mean return" in whole.text
    assert (tmp_path / "whole" / "report.html").stat().st_size > 10_000
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert {"episode_return", "validation_return", "kl", "effective_sample_size"} <= set(rows[-1])
    half = cartpole(training={"steps": 128})
    jaxppo.train(half, output=tmp_path / "half", progress=False)
    constant = cartpole(ppo={"schedule": "constant"})
    assert constant != cartpole()
    with pytest.raises(ConfigError, match="only training"):
        jaxppo.train(constant, output=tmp_path / "half", resume=True, progress=False)
    again = jaxppo.train(cartpole(), output=tmp_path / "half", resume=True, progress=False)
    assert again.summary["train"]["iterations"] == 2


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"env": {"name": "CartPole-v7"}}, "env.name is 'CartPole-v7'; allowed: trading, CartPole-v1"),
        ({"policy": {"kind": "transformer"}}, "needs policy.kind mlp"),
        ({"training": {"steps": None, "episodes": 3}}, "training.episodes counts trading episodes"),
        ({"ppo": {"hindsight_critic": True}}, "hindsight_critic needs info"),
    ],
)
def test_mistakes_are_named(sections, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        jaxppo.train(cartpole(**sections), output=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads(path):
    assert load_config(path).training.steps


def test_the_task_runs_under_a_mesh():
    """The collective names of the learner exist wherever a task's metrics are computed."""
    _, _, _, _, task, _ = built("CartPole-v1")
    first, _ = rolled_out("CartPole-v1")
    batched = jax.tree.map(lambda x: jnp.asarray(x)[None], first)
    found = jax.vmap(task.metrics, axis_name=DATA_AXIS)(batched)
    assert float(found["reward"][0]) == pytest.approx(1.0)
    assert float(found["episode_return"][0]) > 0


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "MountainCarContinuous-v0", "Asterix-MinAtar"])
def test_an_iteration_leaves_the_types_that_it_found(name):
    """Else the second one compiles again. Asterix loops from a constant, which a mesh may refuse."""
    env, params = gymnax.make(name)
    policy, net = make_mlp_actor_critic(MLPConfig(n_inputs(env, params), 0, 4, 1), action_config(env, params, 0.5), KEY)
    learner = make_learner(gymnax_task(policy, env, params, PPO), PPO, data_mesh(jax.devices()[:2]))
    state = learner.init(net, 0, params)
    after, _ = jax.eval_shape(learner.iterate, state, params, jnp.float32(0.0))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    for before, later in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert before.weak_type == later.weak_type
