"""The gradient through the market: its value, its objectives, one device or four, and what is learned by it."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec
from slowly import slow_after

from jaxppo.book.base import tilted
from jaxppo.config import ConfigError, PathwiseConfig, PPOConfig, validate_config
from jaxppo.envs import reference
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.policy import rules
from jaxppo.policy.networks.actor_critic import make_actor_critic
from jaxppo.policy.networks.mlp import MLPConfig, make_mlp_actor_critic
from jaxppo.policy.rollout import DATA_AXIS
from jaxppo.ppo.gymnax_task import action_config, gymnax_task, n_inputs, to_env_action
from jaxppo.ppo.learner import data_mesh, make_learner
from jaxppo.ppo.pathwise import discounted_rewards, parts_of, sharpe_ratio, with_parts
from jaxppo.ppo.population import train_population
from jaxppo.ppo.targets import no_statistics
from jaxppo.ppo.trading_task import action_config as trading_action_config
from jaxppo.ppo.trading_task import trading_task
from jaxppo.risk import sizing

CONFIG = tiny.PPO.model_copy(update={"paths": 8, "portfolios": 2, "reward_scale": 100.0, "learning_rate": 1e-2})
REWARD = PathwiseConfig()


@functools.cache
def env(actions: str = "continuous", costs: float = 0.0) -> TradingEnv:
    """Two assets, as `tiny.env()`."""
    levels = (-1.0, -0.5, 0.0, 0.5, 1.0)
    shape = {"observation": "index", "window": 1, "groups": tiny.GROUPS, "normalisation_window": 10}
    return TradingEnv(n_assets=tiny.N_ASSETS, actions=actions, levels=levels, start="flat", **shape)


@functools.cache
def problem(kind: str = "linear", actions: str = "continuous"):
    """Task, first parameters and market of a small trading problem."""
    policy, net = make_actor_critic(
        tiny.encoder_config(kind=kind), trading_action_config(env(actions), 0.3), jax.random.key(1)
    )
    noise = np.random.default_rng(0)
    net = jax.tree.map(lambda x: x + jnp.asarray(noise.normal(0, 0.1, x.shape), x.dtype), net)
    params = env(actions).make_params(tiny.market(3), basic_costs(commission_bps=5.0), episode_bars=16)
    return trading_task(policy, env(actions), CONFIG), net, params


def earned(task, net, params, config=CONFIG, sharpe=False):
    """The objective of one chunk from fresh accounts, as a function of parameters."""

    def of(net):
        key_start, key = jax.random.split(jax.random.key(2))
        states = task.start(params, jax.random.split(key_start, config.paths))
        keys = jax.random.split(key, config.paths)
        rollout = task.unroll(net, params, states, keys, jnp.float32(0), False)[1]
        if sharpe:
            mean = jax.vmap(lambda x: sharpe_ratio(x), axis_name=DATA_AXIS, axis_size=1)
            return mean(jax.tree.map(lambda x: x[None], rollout))[0]
        return discounted_rewards(rollout, no_statistics(), config, False)

    return jax.jit(of), net


@pytest.mark.parametrize("sharpe", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("actions", ["continuous", pytest.param("discrete", marks=pytest.mark.slow)])
def test_the_gradient_is_that_of_finite_differences(actions, sharpe):
    task, net, params = problem(actions=actions)
    value, net = earned(task, net, params, sharpe=sharpe)
    gradient = jax.grad(value)(net)
    direction = jax.tree.map(lambda g: g / jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(gradient))), gradient)
    step = 1e-2
    moved = [value(jax.tree.map(lambda x, d, s=s: x + s * step * d, net, direction)) for s in (1.0, -1.0)]
    slope = float(moved[0] - moved[1]) / (2 * step)
    expected = float(sum(jnp.sum(g * d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True)))
    assert slope == pytest.approx(expected, rel=0.02)
    assert expected > 1e-4


@pytest.mark.parametrize("base", slow_after(1, [None, (rules.buy_and_hold(),)]))
def test_a_policy_that_takes_no_position_yet_is_led_to_one(base):
    """A flat account, or one that holds what its base holds, trades nothing; the way out of that has a gradient."""
    one = copy.copy(env())
    units, costs = (sizing.risk_units(0.2),), basic_costs(max_leverage=3.0)
    one.sizing = sizing.chain(*units) if base is None else tilted(base, copy.copy(one), costs, before=units)
    network, net = make_actor_critic(
        tiny.encoder_config(kind="linear"), trading_action_config(one, 0.3), jax.random.key(1)
    )
    params = one.make_params(tiny.market(3, drift=1e-3), costs, episode_bars=16)
    long = CONFIG.model_copy(update={"chunk": 64})
    value, net = earned(trading_task(network, one, long), net, params, config=long)
    gradient = jax.grad(value)(net)["head"]["actor"]["bias"]
    step = 1e-2
    bias = lambda x: {**net, "head": {**net["head"], "actor": {**net["head"]["actor"], "bias": jnp.full(1, x)}}}  # noqa: E731
    slope = float(value(bias(step)) - value(bias(-step))) / (2 * step)
    assert float(gradient[0]) == pytest.approx(slope, rel=0.1)
    assert abs(slope) > 1e-3


@pytest.mark.slow
def test_discounted_rewards_are_those_of_a_loop():
    task, net, params = problem()
    key_start, key = jax.random.split(jax.random.key(4))
    states = task.start(params, jax.random.split(key_start, CONFIG.paths))
    rollout = task.unroll(net, params, states, jax.random.split(key, CONFIG.paths), jnp.float32(0), False)[1]
    rng = np.random.default_rng(1)
    shape = rollout.reward.shape
    terminated = rng.random(shape) < 0.2
    truncated = (rng.random(shape) < 0.2) & ~terminated
    reward, after = rng.normal(size=shape), rng.normal(size=shape)
    given = {"reward": reward, "value_after": after, "terminated": terminated, "truncated": truncated}
    rollout = rollout.replace(
        **{name: jnp.asarray(x, x.dtype if x.dtype == bool else np.float32) for name, x in given.items()}
    )
    values = no_statistics().replace(mean=jnp.float32(0.3), variance=jnp.float32(4.0))
    total = 0.0
    for p, k in np.ndindex(shape[0], shape[2]):
        weight = 1.0
        for s in range(shape[1]):
            total += weight * reward[p, s, k] * CONFIG.reward_scale
            cut = (truncated[p, s, k] or s == shape[1] - 1) and not terminated[p, s, k]
            total += weight * CONFIG.gamma * (0.3 + 2.0 * after[p, s, k]) if cut else 0.0
            weight = 1.0 if terminated[p, s, k] or truncated[p, s, k] else weight * CONFIG.gamma
    found = discounted_rewards(rollout, values, CONFIG, True)
    assert float(found) == pytest.approx(total / (shape[0] * shape[2]), rel=1e-5)


def test_the_sharpe_ratio_and_its_gradient_on_four_devices_are_those_of_all_accounts():
    returns = jnp.asarray(np.random.default_rng(0).normal(0.001, 0.01, (8, 5, 2)), jnp.float32)
    template = tiny.roll_out(tiny.policy()[1], tiny.shared_params(), jax.random.key(0))[2]

    def on_devices(x):
        def one(x):
            rollout = template.replace(info={"log_growth": x})
            return jax.value_and_grad(lambda x: sharpe_ratio(rollout.replace(info={"log_growth": x})))(x)

        spec = PartitionSpec(DATA_AXIS)
        out = (PartitionSpec(), spec)
        mapped = jax.shard_map(one, mesh=data_mesh(jax.devices()[:4]), in_specs=spec, out_specs=out, check_vma=False)
        return jax.jit(mapped)(x)

    value, gradient = on_devices(returns)
    plain = jax.value_and_grad(lambda x: x.mean() / x.std())(returns)
    np.testing.assert_allclose(value, plain[0], rtol=1e-4)
    # Each device has the derivative of its own mean: a mean over devices of these is that of the whole.
    np.testing.assert_allclose(gradient / 4, plain[1], rtol=2e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["reward", pytest.param("sharpe", marks=pytest.mark.slow)])
def test_an_iteration_does_not_depend_on_the_number_of_devices(objective):
    task, net, params = problem()
    nets = []
    for n_devices in (1, 4):
        mesh = data_mesh(jax.devices()[:n_devices])
        learner = make_learner(task, CONFIG, mesh, None, PathwiseConfig(objective=objective))
        placed = learner.replicate(params)
        state = learner.init(net, 0, placed)
        for _ in range(2):
            state, metrics = learner.iterate(state, placed, jnp.float32(0))
        nets.append(jax.tree.map(np.asarray, state.params))
        assert metrics["skipped_updates"] == 0
    assert tiny.relative_distance(nets[1], nets[0]) < 1e-4


def test_only_the_layers_of_the_critic_are_fitted_to_values():
    task, net, params = problem()
    learner = make_learner(task, CONFIG, data_mesh(jax.devices()[:1]), None, REWARD)
    state, _ = learner.iterate(learner.init(net, 0, params), params, jnp.float32(1.0))  # the step size is constant
    still, _ = jax.tree.map(np.asarray, (state.params, None))
    critic = parts_of(net, task.critic_layers)
    assert set(critic) == {"head.inputs", "head.critic", "head.value"}
    again = with_parts(still, critic)
    assert tiny.relative_distance(parts_of(still, task.critic_layers), critic) > 1e-4
    # All that is left of the difference is the one step of the actor.
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), again, jax.tree.map(np.asarray, net))
    assert max(jax.tree.leaves(moved)) <= CONFIG.learning_rate * 1.001
    assert max(jax.tree.leaves(moved["head"]["actor"])) > 0


@pytest.mark.slow
def test_ppo_goes_on_from_the_pathwise_policy_and_stays_near_it():
    task, net, params = problem(actions="discrete")
    apart = {}
    for weight in (0.0, 100.0):
        keys = PathwiseConfig(then="ppo", then_from=0.5, then_kl=weight)
        learner = make_learner(task, CONFIG, data_mesh(jax.devices()[:1]), None, keys)
        state = learner.init(net, 0, params)
        for i in range(6):
            if i == 3:
                before = jax.tree.map(np.asarray, state.params)
            state, metrics = learner.iterate(state, params, jnp.float32(i / 6))
        assert tiny.relative_distance(state.start, before) == 0.0
        assert metrics["skipped_updates"] == 0
        apart[weight] = float(metrics["kl_to_start"])
    assert 0 < apart[100.0] < 0.5 * apart[0.0]


@pytest.mark.slow
def test_it_finds_the_optimum_of_quadratic_costs_in_few_steps():
    exact = reference.QuadraticCostAR1()
    shared = {"paths": 16, "portfolios": 1, "chunk": 32, "epochs": 4, "minibatches": 4, "learning_rate": 1e-2}
    config = PPOConfig(**shared, gamma=0.97, gae_lambda=0.9, reward_scale=1.0, value_normalisation="popart")
    action = action_config(exact.env, exact.params, 0.3)
    shape = MLPConfig(n_inputs(exact.env, exact.params), 0, 16, 1)
    network = make_mlp_actor_critic(shape, action, jax.random.key(0))[0]
    learner = make_learner(
        gymnax_task(network, exact.env, exact.params, config), config, data_mesh(jax.devices()[:1]), None, REWARD
    )
    first = lambda key: make_mlp_actor_critic(shape, action, key)[1]  # noqa: E731
    nets, _, _ = train_population(learner, first, exact.params, range(1), 60)
    net = jax.tree.map(lambda x: x[0], nets)

    def decide(observation, state):
        distribution = network.distribution(net, observation)
        return to_env_action(exact.env, exact.params, distribution.squash(distribution.mode()))

    total = reference.simulate(exact, decide, jax.random.key(9), 256).mean()
    assert exact.percent_of_optimum(float(total)) > 95.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pathwise": {"objective": "sharpe"}}, "pathwise.objective is given"),
        ({"training": {"learner": "pathwise"}}, "env.actions discrete are learned by their mean target"),
        ({"training": {"learner": "pathwise"}, "env": {"name": "Pendulum-v1"}}, "ppo.portfolios is 8"),
        (
            {"training": {"learner": "pathwise"}, "pathwise": {"objective": "sharpe"}, "rewards": ["log_return"]}
            | {"env": {"actions": "continuous"}},
            "rewards is given, but pathwise.objective sharpe",
        ),
        (
            {"training": {"learner": "pathwise"}, "pathwise": {"then_kl": 2.0}, "env": {"actions": "continuous"}},
            "pathwise.then_kl is 2, which only pathwise.then ppo reads",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    given = {**changes, "training": {"steps": 1000, **changes.get("training", {})}}
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        validate_config(given)


def test_discrete_actions_of_other_environments_have_no_gradient():
    with pytest.raises(ValueError, match="it needs continuous actions"):
        make_learner(tiny.bandit_task(), tiny.BANDIT_PPO, data_mesh(jax.devices()[:1]), None, REWARD)
