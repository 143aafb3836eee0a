"""Chunk, window and stream on long real and ragged data, in float32 and bfloat16, for any number of assets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from folders import SHARED

from jaxppo import envs
from jaxppo.envs import simulators
from jaxppo.envs.market.market_data import MarketData, slice_bars
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.policy.encoding import chunk_of, market_bars
from jaxppo.policy.networks.actor_critic import ActorCritic, Params, make_actor_critic
from jaxppo.policy.networks.encoder import Bars
from jaxppo.policy.networks.head import ActionConfig

FOLDER = SHARED
CHUNK = 500
REAL = {
    "hourly": ("us_equity_1h.parquet", 3600.0, None),
    "daily": ("us88_1d.parquet", 86_400.0, ("AAPL", "ABBV", "AGFS", "GMRE", "PTR")),
}


def market(name: str) -> MarketData:
    if name == "simulated":
        full = simulators.gbm(jax.random.key(0), 2300, 3)
        missing = np.random.default_rng(0).uniform(size=full.tradable.shape) < 0.2
        missing[:900, 1] = missing[1800:, 2] = True
        return full.replace(tradable=jnp.asarray(~missing))
    file, _, symbols = REAL[name]
    if not FOLDER.is_dir():
        pytest.skip("the folder of external price files is not here")
    return envs.load_market(FOLDER / file, symbols=symbols)


@functools.cache
def prepared(name: str, dtype: str) -> tuple[ActorCritic, Params, Bars, int]:
    """A two-level policy, all bars of a market's last bars and their past, and the number of assets."""
    prices = market(name)
    encoder = tiny.encoder_config(
        width=16,
        layers=2,
        window=16,
        coarse_pools=(5, 20),
        coarse_window=4,
        bar_seconds=REAL.get(name, ("", 86_400.0))[1],
        dtype=jnp.dtype(dtype),
    )
    policy, net = make_actor_critic(encoder, tiny.ACTION, jax.random.key(1))
    env = TradingEnv(
        n_assets=prices.n_assets,
        observation="index",
        window=policy.context,
        groups=tiny.GROUPS,
        normalisation_window=40,
    )
    n_bars = min(2000, (prices.n_bars - policy.context) // CHUNK * CHUNK)
    prices = slice_bars(prices, max(0, prices.n_bars - n_bars - env.first_decision - 1), prices.n_bars)
    params = env.make_params(prices, feature_dtype=encoder.dtype)
    bars = jax.jit(lambda bar: chunk_of(market_bars(params), bar, policy.context, n_bars))(
        jnp.int32(prices.n_bars - n_bars)
    )
    return policy, net, jax.tree.map(lambda x: x[None], bars), prices.n_assets


@functools.cache
def three_ways(name: str, dtype: str) -> dict[str, np.ndarray]:
    """What the head gets at every bar, `[T, A, 2 D]`."""
    policy, net, bars, n_assets = prepared(name, dtype)
    past = policy.context - 1
    n_bars = bars.seconds.shape[1] - past
    encode = jax.jit(policy.encode)

    def rows(start: int, stop: int) -> Bars:
        return jax.tree.map(lambda x: x[:, start:stop], bars)

    chunks = [encode(net, rows(start, start + past + CHUNK))[0] for start in range(0, n_bars, CHUNK)]
    window = np.arange(n_bars)[:, None] + np.arange(past + 1)
    windows = [
        encode(net, jax.tree.map(lambda x, some=some: x[0][some], bars))[:, 0]
        for some in np.split(window, n_bars // 100)
    ]

    @jax.jit
    def stream(net: Params, bars: Bars) -> jax.Array:
        one_at_a_time = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0)[:, :, None], bars)
        step = functools.partial(policy.step, net)
        return jax.lax.scan(step, policy.start(net, 1, n_assets), one_at_a_time)[1][past:, 0]

    found = {"chunk": jnp.concatenate(chunks), "window": jnp.concatenate(windows), "stream": stream(net, bars)}
    return jax.tree.map(lambda x: np.asarray(x, np.float32), found)


@pytest.mark.parametrize(
    "name", ["simulated", *(pytest.param(name, marks=pytest.mark.slow) for name in ("hourly", "daily"))]
)
def test_three_ways_to_run_give_one_memory(name):
    memory = three_ways(name, "float32")
    policy, _, bars, n_assets = prepared(name, "float32")
    assert memory["chunk"].shape == (1000 if name == "daily" else 2000, n_assets, 32)
    assert np.isnan(np.asarray(bars.features)).any() == (name != "hourly")
    assert len(np.unique(np.asarray(bars.seconds)[0, policy.context :])) > 1
    assert memory["chunk"].std() > 0.3
    for way in ("window", "stream"):
        np.testing.assert_allclose(memory[way], memory["chunk"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simulated", "hourly"])
def test_bfloat16_keeps_them_together(name):
    """2e-2 of the size of a memory, root mean square."""
    memory = three_ways(name, "bfloat16")
    scale = np.sqrt(np.mean(memory["chunk"] ** 2))
    for way in ("window", "stream"):
        assert np.sqrt(np.mean((memory[way] - memory["chunk"]) ** 2)) < 0.02 * scale


@pytest.mark.slow
@pytest.mark.parametrize(
    "portfolio", ["add", *(pytest.param(name, marks=pytest.mark.slow) for name in ("film", "cross_attention"))]
)
def test_one_network_trades_five_assets_or_eighty_eight(portfolio):
    """The first five of 88 decide as they do alone while the others are not listed; their order does not matter."""
    config = tiny.encoder_config(portfolio=portfolio)
    policy, net = make_actor_critic(config, ActionConfig("discrete", 6, -1.0, 1.0), jax.random.key(0))
    leaves, tree = jax.tree.flatten(net)
    keys = jax.random.split(jax.random.key(4), len(leaves))
    net = tree.unflatten([x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])
    rng = np.random.default_rng(0)
    n_bars = policy.context
    features = rng.normal(size=(1, n_bars, 88, sum(config.groups))).astype(np.float32)
    seen = tiny.observation(0, 1, n_assets=88)

    @jax.jit
    def decide(features: jax.Array, listed: jax.Array, seen) -> tuple[jax.Array, jax.Array]:
        memory = policy.encode(net, Bars(features, listed, jnp.ones((1, n_bars))))[:, 0]
        distribution, value = policy.act(net, memory, seen)
        return distribution.logits, value

    def assets(index: np.ndarray):
        return seen.replace(asset=seen.asset[:, index], mask=seen.mask[:, index])

    listed, five, order = jnp.ones((1, n_bars, 88), bool), np.arange(5), rng.permutation(88)
    logits, value = decide(features, listed, seen)
    hidden, _ = decide(features, listed.at[:, :, 5:].set(False), seen)
    alone, _ = decide(features[:, :, :5], listed[:, :, :5], assets(five))
    np.testing.assert_allclose(hidden[:, :5], alone, rtol=1e-4, atol=1e-4)
    assert np.abs(np.asarray(logits[:, :5] - alone)).max() > 1e-3
    shuffled, same = decide(features[:, :, order], listed, assets(order))
    np.testing.assert_allclose(shuffled, logits[:, order], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(same, value, rtol=1e-3, atol=1e-4)
