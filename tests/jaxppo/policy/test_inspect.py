"""What the policy looks at: weights that reproduce its attention, dense rollout, completeness, ablation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxppo.envs.market.features import group_slices
from jaxppo.envs.trading.types import Observation
from jaxppo.policy.networks import inspect
from jaxppo.policy.networks.actor_critic import ActorCritic, Params, make_actor_critic
from jaxppo.policy.networks.encoder import Bars, Encoder

N_ASSETS, LENGTH = 3, 9
N_FEATURES = sum(tiny.encoder_config().groups)
DESIGNS = {
    "fine": {},
    "learned": {"positions": "learned"},
    "levels": {"coarse_pools": (3, 5), "coarse_window": 3},
    "alone": {"asset_attention": False, "positions": "alibi"},
}


@functools.cache
def built(name: str = "levels") -> tuple[ActorCritic, Params]:
    """A design of two blocks whose parameters are all away from zero."""
    changes = {"kind": "mlp"} if name == "mlp" else DESIGNS[name]
    policy, net = make_actor_critic(
        tiny.encoder_config(width=16, layers=2, window=5, **changes), tiny.ACTION, jax.random.key(0)
    )
    leaves, tree = jax.tree.flatten(net)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return policy, tree.unflatten([x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])


def encoder(name: str) -> Encoder:
    policy, net = built(name)
    return nnx.merge(policy.graph, net).encoder


@functools.partial(jax.jit, static_argnums=0)
def attention(policy: ActorCritic, net: Params, bars: Bars) -> inspect.Attention:
    return jax.jit(lambda net, bars: inspect.attention(policy, net, bars))(net, bars)


@functools.partial(jax.jit, static_argnums=0)
def weights_of(policy: ActorCritic, net: Params, bars: Bars):
    return nnx.merge(policy.graph, net).encoder.weights(bars)


def random_bars(context: int, length: int = LENGTH, n_paths: int = 2, seed: int = 0) -> Bars:
    """Unknown values, and a third asset that comes in late."""
    rng = np.random.default_rng(seed)
    n = context - 1 + length
    features = rng.normal(size=(n_paths, n, N_ASSETS, N_FEATURES)).astype(np.float32)
    features[rng.uniform(size=features.shape) < 0.1] = np.nan
    listed = np.ones((n_paths, n, N_ASSETS), bool)
    listed[0, : n - length // 2, 2] = False
    seconds = rng.choice([1.0, 3.0], (n_paths, n)).astype(np.float32) * 86_400.0
    return Bars(jnp.asarray(features), jnp.asarray(listed), jnp.asarray(seconds))


def flat_account(*lead: int) -> Observation:
    return Observation(
        bar=jnp.zeros(lead, jnp.int32),
        asset=jnp.zeros((*lead, N_ASSETS, 3)).at[..., 2].set(1.0),
        account=jnp.zeros((*lead, 3)),
        mask=jnp.ones((*lead, N_ASSETS, tiny.N_ACTIONS), bool),
    )


def position(distribution) -> jax.Array:
    """Mean target weight of the first asset."""
    return distribution.probabilities()[..., 0, 1:] @ jnp.linspace(-1.0, 1.0, tiny.N_ACTIONS - 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("fine", "learned")), "levels", "alone"]
)
def test_the_weights_are_those_that_the_blocks_mix_with(name):
    model = encoder(name)
    bars = random_bars(built(name)[0].context)
    x, turn, coarse = jax.jit(lambda bars: model._before_blocks(model.embedding(bars.features).swapaxes(1, 2), bars))(
        bars
    )
    block = model.blocks[0]
    window, levels, assets = jax.jit(block.weights)(x, bars.listed, turn, coarse)
    total = window.sum(-1) + sum(level.sum(-1) for level in levels)
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)

    # Values gathered key by key in NumPy, mixed, and put out as the block does.
    _, (_, value), coarse_pairs = jax.jit(block.time._project)(x, turn, coarse)
    n_rows = window.shape[-2]
    mixed = gathered(np.asarray(value), np.asarray(window), 1, n_rows)
    for pool, (_, value), weights in zip(block.time.pools, coarse_pairs, levels, strict=True):
        mixed += gathered(np.asarray(value), np.asarray(weights), pool, n_rows)
    joined = np.moveaxis(mixed, 2, 3).reshape(*x.shape[:2], n_rows, -1)
    expected = jax.jit(lambda x, turn, coarse: block.time(x, turn, coarse, None, 0))(x, turn, coarse)
    np.testing.assert_allclose(x[:, :, 4:] + block.time.out(joined), expected, rtol=1e-4, atol=1e-4)
    if assets is None:
        assert name == "alone"
        return
    value = np.asarray(block.assets._project(expected)[2])
    mixed = np.einsum("psqab,psqbd->psqad", np.asarray(assets), value)
    joined = np.moveaxis(np.moveaxis(mixed, 2, 3).reshape(*mixed.shape[:2], N_ASSETS, -1), 1, 2)
    across = jax.jit(block.assets)(expected, bars.listed[:, -n_rows:])
    np.testing.assert_allclose(expected + block.assets.out(joined), across, rtol=1e-4, atol=1e-4)


def gathered(value: np.ndarray, weights: np.ndarray, dilation: int, n_rows: int) -> np.ndarray:
    """Weights `[P, A, H, S, W]` times values `[P A, H, S + dilation (W - 1), D]`, a loop over queries and keys."""
    value = value.reshape(*weights.shape[:2], *value.shape[1:])
    out = np.zeros((*weights.shape[:-1], value.shape[-1]), np.float32)
    for row in range(n_rows):
        for key in range(weights.shape[-1]):
            at = row + dilation * (weights.shape[-1] - 1 - key)
            out[..., row, :] += weights[..., row, key, None] * value[..., at, :]
    return out


def test_shapes_and_sums_of_the_summaries():
    policy, net = built("levels")
    bars = random_bars(policy.context)
    found = attention(policy, net, bars)
    assert [x.shape for x in found.window] == [(2, N_ASSETS, 2, LENGTH + 4, 5), (2, N_ASSETS, 2, LENGTH, 5)]
    assert [[x.shape[-2:] for x in block] for block in found.levels] == [[(LENGTH + 4, 3)] * 2, [(LENGTH, 3)] * 2]
    shape = (2, N_ASSETS, N_ASSETS)
    assert [(x.shape[1], x.shape[2:]) for x in found.assets] == [(LENGTH + 4, shape), (LENGTH, shape)]
    levels = inspect.by_level(found)
    np.testing.assert_allclose(levels.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(inspect.by_lag(found).sum(-1), levels[..., 0], rtol=1e-5)
    np.testing.assert_allclose(inspect.by_asset(found).sum(-1), 1.0, rtol=1e-5)
    # A mean over all bars is made of the means over some and over the others.
    odd = jnp.asarray(np.arange(LENGTH) % 2 == np.arange(1, 3)[:, None] % 2)
    weight = [np.sum(found.listed & where[..., None]) for where in (odd, ~odd)]
    parts = [inspect.by_lag(found, where) for where in (odd, ~odd)]
    np.testing.assert_allclose(np.average(parts, axis=0, weights=weight), inspect.by_lag(found), rtol=1e-5)
    assert np.isnan(inspect.by_lag(found, jnp.zeros_like(odd))).all()


def test_what_was_never_listed_is_not_counted_and_not_attended_to():
    policy, net = built("fine")
    bars = random_bars(policy.context)
    listed = bars.listed.at[..., 2].set(False)
    features = jnp.where(jnp.arange(N_ASSETS)[:, None] == 2, 5.0, bars.features)
    found = [attention(policy, net, Bars(x, listed, bars.seconds)) for x in (bars.features, features)]
    for summary in (inspect.by_lag, inspect.entropy, inspect.head_redundancy):
        np.testing.assert_array_equal(summary(found[0]), summary(found[1]))
    across = inspect.by_asset(found[0])
    assert (np.asarray(across)[..., :2, 2] == 0.0).all()
    assert np.isnan(across[..., 2, :]).all()


def test_entropy_and_redundancy_of_known_weights():
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(6), (2, N_ASSETS, 4, LENGTH)).astype(np.float32)
    weights[:, :, 1] = weights[:, :, 0]
    weights[:, :, 2] = 1.0 / 6.0

    def of(heads: slice) -> inspect.Attention:
        window, level = (jnp.asarray(part) for part in np.split(weights[:, :, heads], [4], axis=-1))
        return inspect.Attention((window,), ((level,),), (None,), jnp.ones((2, LENGTH, N_ASSETS), bool), (3,))

    nats = -(weights * np.log(weights)).sum(-1).mean(axis=(0, 1, 3)) / np.log(6.0)
    np.testing.assert_allclose(inspect.entropy(of(slice(None)))[0], nats, rtol=1e-5)
    np.testing.assert_allclose(nats[2], 1.0, rtol=1e-5)
    unit = weights / np.linalg.norm(weights, axis=-1, keepdims=True)
    pairs = [(unit[:, :, i] * unit[:, :, j]).sum(-1).mean() for i in range(4) for j in range(i)]
    np.testing.assert_allclose(inspect.head_redundancy(of(slice(None))), np.mean(pairs), rtol=1e-4)
    np.testing.assert_allclose(inspect.head_redundancy(of(slice(2))), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(inspect.head_redundancy(of(slice(1))), 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", DESIGNS)
def test_rollout_is_the_product_of_dense_matrices(name):
    policy, net = built(name)
    bars = random_bars(policy.context, length=1 if name != "levels" else 4)
    found = np.asarray(jax.jit(inspect.rollout)(attention(policy, net, bars)))
    assert found.shape == (2, N_ASSETS, policy.context, N_ASSETS)
    np.testing.assert_allclose(found.sum(axis=(2, 3)), 1.0, rtol=1e-5)
    expected = dense_rollout(encoder(name), weights_of(policy, net, bars), bars)
    np.testing.assert_allclose(found, expected[:, :, : -1 - policy.context : -1], rtol=1e-4, atol=1e-7)


def dense_rollout(model: Encoder, blocks, bars: Bars) -> np.ndarray:
    """`[P, A, T, A]`, earliest bar first, from matrices between all (bar, asset) pairs of consecutive blocks."""
    n_paths, n, n_assets = bars.listed.shape
    result = np.broadcast_to(
        np.eye(n * n_assets).reshape(n, n_assets, n, n_assets), (n_paths, n, n_assets, n, n_assets)
    )
    embedded = result
    for window, levels, assets in blocks:
        rows = range(n - window.shape[-2], n)
        after = np.full(result.shape, np.nan)
        for i, bar in enumerate(rows):
            mixed = np.zeros((n_paths, n_assets, n, n_assets))
            for j in range(window.shape[-1]):
                weight = np.asarray(window).mean(axis=2)[:, :, i, j, None, None]
                mixed += weight * result[:, bar - j]
            for level, weights in zip(model.coarse, levels, strict=True):
                for j in range(weights.shape[-1]):
                    end = bar - level.pool * j
                    mean = embedded[:, end - level.pool + 1 : end + 1].mean(axis=1)
                    mixed += np.asarray(weights).mean(axis=2)[:, :, i, j, None, None] * mean
            now = 0.5 * result[:, bar] + 0.5 * mixed
            if assets is not None:
                over = np.asarray(assets).mean(axis=2)[:, i]
                now = 0.5 * now + 0.5 * np.einsum("pab,pbnc->panc", over, now)
            after[:, bar] = now
        result = after
    return result[:, -1]


def test_rollout_gives_nothing_to_what_was_never_listed():
    policy, net = built("levels")
    bars = random_bars(policy.context, length=1)
    bars = bars.replace(listed=bars.listed.at[..., 2].set(False))
    found = np.asarray(jax.jit(inspect.rollout)(attention(policy, net, bars)))
    assert (found[:, :2, :, 2] == 0.0).all()
    assert (found[:, :2, :, :2].sum(axis=2) > 0.01).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("fine", marks=pytest.mark.slow), "levels", "mlp"])
def test_attributions_add_up_to_the_decision(name):
    policy, net = built(name)
    bars = random_bars(policy.context, length=1)
    seen = flat_account(2)
    attribute = jax.jit(inspect.integrated_gradients, static_argnames=("network", "decide", "n_nodes"))
    means = jnp.nanmean(bars.features, axis=(0, 1, 2))
    found, change = attribute(policy, net, bars, seen, position, means, n_nodes=64)
    assert found.shape == (2, policy.context, N_ASSETS, N_FEATURES)
    unknown = np.isnan(bars.features)
    assert (np.asarray(found)[unknown] == 0.0).all()
    baseline = bars.replace(features=jnp.where(unknown, jnp.nan, means))
    decide = jax.jit(lambda b: position(policy.distribution(net, policy.encode(net, b)[:, 0], seen)))
    decisions = [decide(b) for b in (bars, baseline)]
    np.testing.assert_allclose(change, decisions[0] - decisions[1], rtol=1e-5, atol=1e-6)
    assert np.abs(change).max() > 0.02
    np.testing.assert_allclose(found.sum(axis=(1, 2, 3)), change, atol=3e-3)


def test_attributions_of_a_linear_decision_are_its_terms():
    net, bars = built("mlp")[1], random_bars(1, length=1)
    weight = np.random.default_rng(1).normal(size=N_FEATURES).astype(np.float32)

    class Linear:
        context = 1

        def encode(self, params, bars):
            return jnp.where(jnp.isnan(bars.features), 0.0, bars.features)

        def distribution(self, params, prepared, seen):
            return prepared[:, 0] @ weight

    means = np.random.default_rng(2).normal(size=N_FEATURES).astype(np.float32)
    found, change = inspect.integrated_gradients(Linear(), net, bars, flat_account(2), lambda x: x, means, n_nodes=3)
    terms = np.nan_to_num((np.asarray(bars.features) - means) * weight)
    terms[:, :, 1:] = 0.0
    np.testing.assert_allclose(found, terms, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(change, terms.sum(axis=(1, 2, 3)), rtol=1e-4)


def test_a_group_that_is_shut_out_or_constant_has_no_importance():
    policy, net = built("fine")
    groups = group_slices(tiny.GROUPS)
    bars = random_bars(policy.context)
    seen = flat_account(2, LENGTH)
    importance = jax.jit(functools.partial(inspect.group_importance, groups=groups), static_argnums=0)
    means = jnp.nanmean(bars.features, axis=(0, 1, 2))
    found = importance(policy, net, bars, seen, means=means)
    assert list(found) == list(tiny.GROUPS)
    assert min(found.values()) > 1e-4
    net = jax.tree.map(lambda x: x, net)
    net["encoder"]["embedding"]["gates"] = jnp.asarray([0.0, -200.0])
    shut = importance(policy, net, bars, seen, means=means)
    assert shut["volume"] == 0.0
    assert shut["price"] > 1e-4

    policy, net = built("fine")
    still = (
        jnp.where(jnp.isnan(bars.features), jnp.nan, 0.7)
        .at[..., groups["volume"]]
        .set(bars.features[..., groups["volume"]])
    )
    constant = importance(policy, net, bars.replace(features=still), seen, means=means.at[groups["price"]].set(0.7))
    assert constant["price"] == 0.0
    assert constant["volume"] > 1e-4


def test_who_does_not_attend_is_named():
    policy, net = built("mlp")
    with pytest.raises(ValueError, match="policy kind is 'mlp'"):
        inspect.attention(policy, net, random_bars(1))
    policy, net = built("alone")
    with pytest.raises(ValueError, match=r"policy\.asset_attention"):
        inspect.by_asset(attention(policy, net, random_bars(policy.context)))
