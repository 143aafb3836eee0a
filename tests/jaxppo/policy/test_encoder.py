"""The chunk pass against one window per bar and against the stream; receptive field; symmetries; precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from slowly import slow_after

from jaxppo.policy.distributions import SquashedGaussian
from jaxppo.policy.networks.actor_critic import ActorCritic, Params, make_actor_critic
from jaxppo.policy.networks.encoder import Bars
from jaxppo.policy.networks.head import ActionConfig

LENGTH = 37  # several attention blocks, the last one cut short
CONFIG = tiny.encoder_config(width=16, layers=2, window=5)
CONTEXT = 9
N_FEATURES = sum(CONFIG.groups)


@functools.cache
def built(**changes) -> tuple[ActorCritic, Params]:
    """The two-block network, in another precision or of another kind if asked."""
    config = tiny.encoder_config(width=16, layers=2, window=5, **changes)
    return make_actor_critic(config, tiny.ACTION, jax.random.key(3))


@functools.partial(jax.jit, static_argnums=0)
def encode(policy: ActorCritic, net: Params, bars: Bars) -> jax.Array:
    return policy.encode(net, bars)


@functools.partial(jax.jit, static_argnums=0)
def act(policy: ActorCritic, net: Params, prepared: jax.Array, seen):
    return policy.act(net, prepared, seen)


def table(n_assets: int, n_bars: int = CONTEXT - 1 + LENGTH, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random features `[T, A, F]`, some unknown, and listing `[T, A]`; half of the assets come in late."""
    rng = np.random.default_rng(seed)
    first = np.where(np.arange(n_assets) % 2, rng.integers(1, n_bars, n_assets), 0)
    listed = np.arange(n_bars)[:, None] >= first
    features = rng.normal(size=(n_bars, n_assets, N_FEATURES)).astype(np.float32)
    unknown = ~listed[..., None] | (rng.uniform(size=features.shape) < 0.1)
    return np.where(unknown, np.nan, features), listed


def seconds(n_bars: int, first: int = 0) -> np.ndarray:
    """Daily bars with weekends and a holiday, from bar `first` on."""
    bar = first + np.arange(n_bars)
    return (86_400.0 * np.where(bar % 5 == 0, 3, np.where(bar == 13, 2, 1))).astype(np.float32)


def bars_of(features: np.ndarray, listed: np.ndarray, first: int = 0) -> Bars:
    """`[T, ...]` as one path, which begins with bar `first`."""
    time = seconds(len(features), first)
    return Bars(jnp.asarray(features)[None], jnp.asarray(listed)[None], jnp.asarray(time)[None])


def chunk_pass(built_policy: tuple[ActorCritic, Params], features, listed, first: int = 0) -> np.ndarray:
    """`[S, A, 2 D]` from one pass."""
    return np.asarray(encode(*built_policy, bars_of(features, listed, first))[0])


def window_passes(built_policy: tuple[ActorCritic, Params], bars: Bars) -> np.ndarray:
    """The same, every bar from a window of exactly the policy's context of its own."""
    context = built_policy[0].context
    rows = np.arange(bars.seconds.shape[1] - context + 1)[:, None] + np.arange(context)
    return np.asarray(encode(*built_policy, jax.tree.map(lambda x: x[0][rows], bars))[:, 0])


def streamed(built_policy: tuple[ActorCritic, Params], bars: Bars) -> np.ndarray:
    """The same, bar by bar from an empty cache; the first `context - 1` are left out."""
    policy, net = built_policy

    @jax.jit
    def run(net: Params, bars: Bars) -> jax.Array:
        one_at_a_time = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0)[:, :, None], bars)
        cache = policy.start(net, *bars.listed.shape[::2])
        return jax.lax.scan(lambda cache, bar: policy.step(net, cache, bar), cache, one_at_a_time)[1]

    return np.asarray(run(net, bars))[policy.context - 1 :, 0]


def test_the_context_is_the_receptive_field():
    assert built()[0].context == CONFIG.context == CONTEXT
    assert tiny.encoder_config(kind="mlp").context == 1


DESIGNS = [
    {},
    {"positions": "rotary_rows"},
    {"positions": "alibi"},
    {"positions": "sinusoidal"},
    {"positions": "learned"},
    {"positions": "none", "asset_attention": False},
    {"coarse_pools": (3, 7), "coarse_window": 3},
    {"coarse_pools": (5,), "coarse_window": 4, "positions": "learned", "rematerialise": "full"},
    {"portfolio": "cross_attention", "rematerialise": "minimal"},
    {"kind": "mlp"},
]


@functools.cache
def shaken(index: int) -> tuple[ActorCritic, Params]:
    """A design of `DESIGNS` whose parameters are all away from zero."""
    policy, net = built(**DESIGNS[index])
    leaves, tree = jax.tree.flatten(net)
    keys = jax.random.split(jax.random.key(4), len(leaves))
    return policy, tree.unflatten([x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])


@pytest.mark.parametrize("index", slow_after(6, (0, 2, 6, 7, 8, 9, 1, 3, 4, 5)))
def test_chunk_window_and_stream_give_one_memory(index):
    policy = shaken(index)
    bars = bars_of(*table(3, policy[0].context - 1 + LENGTH))
    chunk, windows, stream = chunk_pass(policy, *table(3, policy[0].context - 1 + LENGTH)), None, streamed(policy, bars)
    windows = window_passes(policy, bars)
    assert chunk.shape == windows.shape == stream.shape
    assert len(chunk) == LENGTH
    assert chunk.std() > 0.5
    np.testing.assert_allclose(windows, chunk, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(stream, chunk, rtol=1e-4, atol=1e-4)


def test_one_asset_alone():
    features, listed = table(1)
    chunk, bars = chunk_pass(built(), features, listed), bars_of(features, listed)
    assert chunk.shape == (LENGTH, 1, 2 * CONFIG.width)
    np.testing.assert_allclose(window_passes(built(), bars), chunk, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(streamed(built(), bars), chunk, rtol=1e-4, atol=1e-4)


def test_paths_are_independent_of_each_other():
    first, second = (bars_of(*table(3, seed=seed)) for seed in (0, 1))
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
    both = both.replace(seconds=both.seconds * jnp.asarray([[1.0], [2.0]]))
    second = second.replace(seconds=second.seconds * 2.0)
    together = encode(*built(), both)
    for i, alone in enumerate((first, second)):
        np.testing.assert_allclose(together[i], encode(*built(), alone)[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(streamed(built(), second), together[1], rtol=1e-4, atol=1e-4)


def test_a_cache_does_not_grow():
    policy, net = shaken(6)
    bars = bars_of(*table(3))
    cache = policy.start(net, 1, 3)
    step = jax.jit(policy.step)
    after = step(net, cache, jax.tree.map(lambda x: x[:, :1], bars))[0]
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, cache)
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, cache)


def test_before_the_context_is_full_a_stream_sees_the_bars_there_are():
    """Bars that do not exist have no weight: whatever the empty rings hold changes nothing."""
    policy, net = shaken(6)
    bars, cache = bars_of(*table(3)), policy.start(net, 1, 3)
    noise = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.integer) else x + 7.0, cache)
    step = jax.jit(policy.step)
    for t in range(4):
        bar = jax.tree.map(lambda x, t=t: x[:, t : t + 1], bars)
        (cache, memory), (noise, same) = step(net, cache, bar), step(net, noise, bar)
        assert np.isfinite(memory).all()
        np.testing.assert_array_equal(memory, same)


def test_gaps_in_time_change_the_memory_of_rotary_positions_on_time_only():
    features, listed = table(2)
    bars = bars_of(features, listed)
    gap = bars.replace(seconds=bars.seconds.at[:, 30].add(3 * 86_400.0))
    for kind, matters in (("rotary", True), ("rotary_rows", False), ("learned", False)):
        policy = built(positions=kind)
        change = np.abs(np.asarray(encode(*policy, gap) - encode(*policy, bars)))[0].max(axis=(1, 2))
        assert (change[30 - CONTEXT + 2 :][: CONTEXT - 2] > 1e-4).all() == matters
        assert change[: 30 - CONTEXT + 1].max() == 0.0


@pytest.mark.slow
def test_rematerialisation_keeps_less_and_leaves_the_gradient_alone():
    """What the forward pass keeps for the backward pass, in bytes."""
    bars, gradients, kept = bars_of(*table(2, CONTEXT - 1 + 256)), {}, {}
    for how in ("none", "minimal", "full"):
        policy, net = built(rematerialise=how)

        def loss(net: Params, policy: ActorCritic = policy) -> jax.Array:
            return jnp.sum(jnp.square(policy.encode(net, bars)))

        gradients[how] = jax.jit(jax.grad(loss))(net)
        residuals = jax.tree.leaves(jax.eval_shape(lambda net, loss=loss: jax.vjp(loss, net)[1], net))
        kept[how] = sum(x.size * x.dtype.itemsize for x in residuals)
    assert kept["full"] < 0.8 * kept["minimal"] < 0.5 * kept["none"]
    for how in ("minimal", "full"):
        assert tiny.relative_distance(gradients[how], gradients["none"]) < 1e-4


def test_bfloat16_parity_and_distance_to_float32():
    """Three ways to run differ by the rounding of bfloat16, 2 % of a memory's size."""
    features, listed = table(3)
    short, bars = built(dtype=jnp.dtype("bfloat16")), bars_of(features, listed)
    chunk, exact = chunk_pass(short, features, listed), chunk_pass(built(), features, listed)
    scale = np.sqrt(np.mean(exact**2))
    for other in (window_passes(short, bars), streamed(short, bars)):
        assert np.sqrt(np.mean((chunk - other) ** 2)) < 0.02 * scale
    assert 1e-4 * scale < np.sqrt(np.mean((chunk - exact) ** 2)) < 0.03 * scale


def test_a_bar_has_the_same_memory_wherever_in_the_chunk_it_falls():
    features, listed = table(3, CONTEXT - 1 + LENGTH + 11)
    early = chunk_pass(built(), features[:-11], listed[:-11])
    late = chunk_pass(built(), features[11:], listed[11:], 11)
    np.testing.assert_allclose(early[11:], late[:-11], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("t", [0, 9, 16, 36])
def test_a_memory_depends_on_exactly_its_context(t):
    """Index t of the chunk is row `t + CONTEXT - 1` of the table; its context begins at row t."""
    features, _ = table(3)
    listed = np.ones(features.shape[:2], bool)
    before = chunk_pass(built(), features, listed)[t]
    outside = np.random.default_rng(1).normal(0, 30, features.shape).astype(np.float32)
    outside[t : t + CONTEXT] = features[t : t + CONTEXT]
    np.testing.assert_array_equal(chunk_pass(built(), outside, listed)[t], before)
    for edge in (t, t + CONTEXT - 1):
        inside = np.nan_to_num(features)
        inside[edge, 0] += 1
        assert np.abs(chunk_pass(built(), inside, listed)[t, 0] - before[0]).max() > 1e-5


def test_a_listing_that_is_still_to_come_changes_nothing():
    features, listed = table(3)
    later = listed.copy()
    later[20:] = ~later[20:]
    changed = chunk_pass(built(), features, later)
    expected = chunk_pass(built(), features, listed)
    np.testing.assert_array_equal(changed[: 20 - CONTEXT + 1], expected[: 20 - CONTEXT + 1])
    assert np.abs(changed - expected).max() > 1e-3


def test_a_permutation_of_the_assets_permutes_memory_and_logits_and_leaves_the_value():
    order = np.array([2, 0, 1])
    features, listed = table(3)
    memory = chunk_pass(built(), features, listed)
    permuted = chunk_pass(built(), features[:, order], listed[:, order])
    np.testing.assert_allclose(permuted, memory[:, order], rtol=1e-4, atol=1e-5)
    seen = tiny.observation(0, LENGTH, n_assets=3)
    moved = seen.replace(asset=seen.asset[:, order], mask=seen.mask[:, order])
    distribution, value = act(*built(), jnp.asarray(memory), seen)
    other, same_value = act(*built(), jnp.asarray(memory[:, order]), moved)
    np.testing.assert_allclose(other.logits, distribution.logits[:, order], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(same_value, value, rtol=1e-4, atol=1e-6)
    assert np.asarray(value).std() > 0.01


def test_other_assets_matter_only_once_they_are_listed():
    features, _ = table(3)
    listed = np.ones(features.shape[:2], bool)
    listed[:20, 2] = False
    other = features.copy()
    other[:, 2] = np.random.default_rng(2).normal(size=other[:, 2].shape)
    before, after = chunk_pass(built(), features, listed), chunk_pass(built(), other, listed)
    first = 20 - CONTEXT + 1
    np.testing.assert_array_equal(after[:first, :2], before[:first, :2])
    assert np.all(np.abs(after[first:, :2] - before[first:, :2]).max(axis=(1, 2)) > 1e-4)


def test_the_same_weights_take_any_number_of_assets():
    features, _ = table(3)
    listed = np.ones(features.shape[:2], bool)
    listed[:, 2] = False
    three = chunk_pass(built(), features, listed)
    two = chunk_pass(built(), features[:, :2], listed[:, :2])
    np.testing.assert_allclose(three[:, :2], two, rtol=1e-4, atol=1e-5)


def test_bfloat16_logits_and_values_are_float32():
    features, listed = table(3)
    policy, net = built(dtype=jnp.dtype("bfloat16"))
    assert {x.dtype for x in jax.tree.leaves(net)} == {jnp.dtype("float32")}
    memory = encode(policy, net, bars_of(features, listed))
    distribution, value = act(policy, net, memory, tiny.observation(0, 1, LENGTH, n_assets=3))
    assert memory.dtype == jnp.bfloat16
    assert distribution.logits.dtype == value.dtype == jnp.float32
    assert value.shape == (1, LENGTH)


def test_the_portfolios_of_a_path_share_its_memory():
    """Memory `[S, 1, A, 2 D]` against observations `[S, K]` is the same as one portfolio at a time."""
    features, listed = table(3)
    memory = jnp.asarray(chunk_pass(built(), features, listed))
    seen = tiny.observation(4, LENGTH, 3, n_assets=3)
    distribution, value = act(*built(), memory[:, None], seen)
    for k in range(3):
        alone, its_value = act(*built(), memory, jax.tree.map(lambda x, k=k: x[:, k], seen))
        np.testing.assert_allclose(distribution.logits[:, k], alone.logits, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(value[:, k], its_value, rtol=1e-5, atol=1e-6)
    assert np.asarray(value).std(axis=1).min() > 1e-3


def test_an_asset_that_is_never_listed_leaves_the_gradient_its_size():
    features, _ = table(2)
    policy, net = built()

    @jax.jit
    def gradient(listed: jax.Array) -> Params:
        rows = jnp.where(listed[..., None], jnp.asarray(features)[None], jnp.nan)
        bars = Bars(rows, listed, jnp.asarray(seconds(len(features)))[None])
        return jax.grad(lambda p: jnp.sum(jnp.square(policy.encode(p, bars))))(net)

    listed = jnp.ones((1, *features.shape[:2]), bool)
    with_both, with_one = (
        float(jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient(mask)))))
        for mask in (listed, listed.at[..., 1].set(False))
    )
    assert np.isfinite(with_one)
    assert with_one < 10 * with_both


def test_the_perceptron_reads_the_current_bar_only():
    policy, net = built(kind="mlp")
    features, listed = table(2, 12)
    before = chunk_pass((policy, net), features, listed)
    assert before.shape == (12, 2, 2 * CONFIG.width)
    features[5] = np.nan_to_num(features[5]) + 1
    changed = np.abs(chunk_pass((policy, net), features, listed) - before).max(axis=(1, 2))
    assert np.flatnonzero(changed).tolist() == [5]


@pytest.mark.parametrize("n_components", [1, 2])
def test_a_continuous_head_gives_squashed_gaussians_per_asset(n_components):
    """With two components those of an asset lie side by side: swapping assets swaps pairs."""
    action = ActionConfig("continuous", 1, -0.5, 1.0, n_components=n_components)
    policy, net = make_actor_critic(tiny.encoder_config(kind="mlp"), action, jax.random.key(0))
    memory = jax.random.normal(jax.random.key(1), (4, 3, 16))
    box = jnp.broadcast_to(jnp.asarray([[-0.5, 1.0], [0.0, 0.25], [-0.5, 0.0]]), (4, 3, 2))
    seen = tiny.observation(0, 4, n_assets=3).replace(mask=box)
    distribution, value = act(policy, net, memory, seen)
    assert isinstance(distribution, SquashedGaussian)
    assert distribution.mean.shape == distribution.log_std.shape == (4, 3 * n_components)
    turned = seen.replace(asset=seen.asset[:, ::-1], mask=seen.mask[:, ::-1])
    swapped, _ = act(policy, net, memory[:, ::-1], turned)
    pairs = distribution.mean.reshape(4, 3, n_components)
    np.testing.assert_allclose(swapped.mean.reshape(4, 3, n_components), pairs[:, ::-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(distribution.low.reshape(4, 3, -1), np.repeat(box[..., :1], n_components, axis=-1))
    np.testing.assert_array_equal(distribution.high.reshape(4, 3, -1), np.repeat(box[..., 1:], n_components, axis=-1))
    assert value.shape == (4,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "needs bfloat16, not float32"),
        ({"dtype": jnp.dtype("bfloat16"), "width": 12}, "multiple of 8 and at most 128 numbers, not 6"),
        ({"dtype": jnp.dtype("bfloat16"), "width": 16, "coarse_pools": (5,)}, "has no coarser levels"),
        ({"dtype": jnp.dtype("bfloat16"), "width": 16, "positions": "alibi"}, "has no biases by lag"),
    ],
)
def test_what_the_fused_kernel_cannot_do_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny.encoder_config(attention="cudnn", **changes)


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match="width 10 must be a multiple of twice the number of heads"):
        tiny.encoder_config(width=10)
    for name, allowed in (
        ("kind", "transformer, mlp"),
        ("positions", "rotary, rotary_rows"),
        ("portfolio", "add, film"),
    ):
        with pytest.raises(ValueError, match=f"policy {name} is 'lstm'; it must be one of {allowed}"):
            tiny.encoder_config(**{name: "lstm"})
