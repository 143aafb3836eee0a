"""Networks of a user's own: one memory by chunk, window and bar, what they get, and what is refused by name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import own_networks
import pytest
import tiny
from flax import nnx

from jaxppo import own_code, register
from jaxppo.errors import ConfigError
from jaxppo.own_code import find
from jaxppo.policy.networks import ActionConfig, Bars, OwnNetwork, make_actor_critic, sliding
from jaxppo.policy.networks.own import own_network
from jaxppo.testing import LooksAhead, check_causal

ACTION = ActionConfig("discrete", tiny.N_ACTIONS, -1.0, 1.0)
SHAPE = {"width": 16, "layers": 2, "heads": 2, "window": 5, "expansion": 2, "dtype": "float32"}
NETWORKS = {"Convolution": 5, "Recurrent": 5, "Pooled": 1}


def own(name, options=None, **shape):
    return own_network(find(f"own_networks:{name}", "policy.kind"), "policy.kind", options or {}, SHAPE | shape)


def bars(n_bars, n_assets=3, seed=0):
    rng = np.random.default_rng(seed)
    n_features = sum(tiny.encoder_config().groups)
    features = rng.normal(size=(2, n_bars, n_assets, n_features)).astype(np.float32)
    features[rng.uniform(size=features.shape) < 0.1] = np.nan
    listed = np.maximum.accumulate(rng.uniform(size=features.shape[:-1]) < 0.3, axis=1)
    return Bars(jnp.asarray(features), jnp.asarray(listed), jnp.full((2, n_bars), 86_400.0))


def built(name):
    config = dataclasses.replace(tiny.encoder_config(), kind="mine", width=16, own=own(name))
    return make_actor_critic(config, ACTION, jax.random.key(0))


@pytest.mark.parametrize("name", NETWORKS)
def test_chunk_window_and_stream_give_one_memory(name):
    network, params = built(name)
    assert network.context == NETWORKS[name]
    whole = bars(network.context - 1 + 8)
    chunk = network.encode(params, whole)
    assert chunk.shape[:3] == (2, 8, 3)
    step, cache = jax.jit(network.step), network.start(params, 2, 3)
    encode = jax.jit(network.encode)
    for t in range(network.context - 1 + 8):
        cache, memory = step(params, cache, jax.tree.map(lambda x, t=t: x[:, t : t + 1], whole))
        place = t - network.context + 1
        if place >= 0:
            window = jax.tree.map(lambda x, a=place, b=t: x[:, a : b + 1], whole)
            np.testing.assert_allclose(memory, chunk[:, place], atol=1e-5)
            np.testing.assert_allclose(encode(params, window)[:, 0], chunk[:, place], atol=1e-5)


def test_a_function_gets_the_keys_that_it_takes_and_its_options():
    assert own("Convolution", {"size": 4}, layers=3).context == 10
    assert own("Recurrent", window=7, dtype="bfloat16").context == 7
    one, again = own("Convolution"), own("Convolution")
    assert one == again
    assert hash(one) == hash(again)
    assert own("Convolution", {"size": 4}) != one


def test_equal_configurations_are_one_network_so_that_it_compiles_once():
    assert built("Recurrent")[0] == built("Recurrent")[0]
    assert hash(built("Convolution")[0]) == hash(built("Convolution")[0])


def test_sliding_windows_are_those_of_numpy():
    x = np.random.default_rng(1).normal(size=(2, 9, 3, 4)).astype(np.float32)
    expected = np.moveaxis(np.lib.stride_tricks.sliding_window_view(x, 4, axis=1), -1, 2)
    np.testing.assert_array_equal(sliding(jnp.asarray(x), 4), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_looks_at_its_context_alone_passes(name):
    check_causal(f"own_networks:{name}", kind="network")
    check_causal(getattr(own_networks, name), kind="network")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Centred", "own_networks:Centred looks ahead: a memory up to bar"),
        ("OfAllPaths", "own_networks:OfAllPaths: the memories of a path change as another one does"),
        ("FromTheStart", "memory 1 of a chunk differs by .* from that of its context of 2 bars alone"),
    ],
)
def test_what_reads_other_bars_is_named(name, message):
    with pytest.raises(LooksAhead, match=message):
        check_causal(f"own_networks:{name}", kind="network")


def module(call=lambda self, x, listed: x, context=1, **kept):
    """A factory of a module without parameters of its own."""

    class Made(nnx.Module):
        def __init__(self):
            self.context = context
            for name, value in kept.items():
                setattr(self, name, value())

        __call__ = call

    return lambda: Made()


WRONG = {
    "a number": (lambda: 3, "returns an int; a flax.nnx.Module with a __call__ is expected"),
    "no context": (module(context=None), "the module's context is None; the number of bars"),
    "no bars": (module(context=0), "the module's context is 0"),
    "too many": (
        module(context=3),
        r"context of 3 bars it makes float32\[2, 5, 2, 16\]; the memories \[2, 3, 2, 16\]",
    ),
    "narrow": (module(lambda self, x, listed: x[..., :3]), r"it makes float32\[2, 3, 2, 3\]"),
    "no numbers": (module(lambda self, x, listed: x > 0), r"it makes bool\[2, 3, 2, 16\]"),
    "random": (module(drop=lambda: nnx.Dropout(0.5, rngs=nnx.Rngs(0))), "the module keeps Rng.*; only parameters"),
    "batches": (module(norm=lambda: nnx.BatchNorm(16, rngs=nnx.Rngs(0))), "the module keeps BatchStat; only"),
    "raises": (lambda: 1 // 0, r"ZeroDivisionError: .* \(line \d+ of test_own_network.py\)"),
    "fails": (module(lambda self, x, listed: x @ x), r"called with tokens \[2, 3, 2, 16\]: .*\(line \d+ of test_own"),
    "one argument": (module(lambda self, x: x), "TypeError: .* takes 2 positional arguments but 3 were given"),
    "option": (lambda *, depth: 3, "needs the option depth, which has no default; a network is a function of"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_network_is_named(monkeypatch, name):
    monkeypatch.setattr(own_code, "_registered", {})
    make, message = WRONG[name]
    register(make, name="mine:it")
    with pytest.raises(ConfigError, match=f"^policy.kind mine:it.*{message}") as raised:
        own_network(find("mine:it", "policy.kind"), "policy.kind", {}, SHAPE)
    assert "\n" not in str(raised.value)


def test_the_encoder_takes_a_network_in_python():
    """Without a configuration: any width, whatever the heads."""
    network = OwnNetwork(lambda rngs: own_networks.Pooled(rngs, 6), 1)
    config = dataclasses.replace(tiny.encoder_config(), kind="pooled", width=6, heads=4, own=network)
    policy, params = make_actor_critic(config, ACTION, jax.random.key(0))
    assert policy.encode(params, bars(4)).shape[:3] == (2, 4, 3)
