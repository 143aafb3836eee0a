"""Risk metrics bar by bar are those of the whole series."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from metric_oracles import SERIES

from jaxppo.risk import metrics, streaming

TARGET = 0.0004
SAME = {
    "total_return": {}, "annual_return": {"periods": 52.0}, "volatility": {"ddof": 0}, "calmar": {},
    "sharpe": {"risk_free": 0.001}, "max_drawdown": {}, "max_drawdown_duration": {}, "ulcer_index": {"ddof": 1},
    "skewness": {"bias": False}, "kurtosis": {"excess": False}, "win_rate": {"count_flat": True}, "profit_factor": {},
}  # fmt: skip
OF_TARGET = {"downside_deviation": "target", "sortino": "risk_free", "omega": "threshold"}


@functools.partial(jax.jit, static_argnames="target")
def streamed(returns: jax.Array, target: float = 0.0) -> streaming.Stream:
    """Of `[n, ...]` returns."""
    first = streaming.start(returns.shape[1:], target=target, dtype=returns.dtype)
    return jax.lax.scan(lambda stream, r: (stream.update(r), None), first, returns)[0]


@jax.jit
def figures(returns: jax.Array):
    """Name -> streamed and of the whole series, along the first axis."""
    return {name: (found, whole) for name, found, whole in every_figure(returns)}


def every_figure(returns: jax.Array):
    """`(name, streamed, of the whole series)` along the first axis."""
    stream, about = streamed(returns), streamed(returns, target=TARGET)
    for name, settings in SAME.items():
        yield name, getattr(stream, name)(**settings), getattr(metrics, name)(returns, axis=0, **settings)
    for name in ("sharpe", "skewness", "kurtosis", "win_rate", "volatility"):
        yield f"{name} as usual", getattr(stream, name)(), getattr(metrics, name)(returns, axis=0)
    for name, argument in OF_TARGET.items():
        yield (
            f"{name} of a target",
            getattr(about, name)(),
            getattr(metrics, name)(returns, axis=0, **{argument: TARGET}),
        )
    for name in ("value_at_risk", "conditional_value_at_risk"):
        for method in ("gaussian", "cornish_fisher"):
            whole = getattr(metrics, name)(returns, axis=0, method=method, level=0.9)
            yield f"{name} {method}", getattr(stream, name)(method=method, level=0.9), whole


@pytest.mark.parametrize("name", SERIES)
def test_a_stream_ends_with_the_figures_of_the_whole_series(name):
    with jax.enable_x64(True):
        for figure, (found, expected) in figures(jnp.asarray(SERIES[name])).items():
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, err_msg=figure)


@pytest.mark.slow
def test_many_at_once_in_single_precision_at_any_bar():
    """100,000 bars of four accounts, one of them with a gap and one ruined; nothing is known before the first bar."""
    returns = np.random.default_rng(0).standard_t(5, (100_000, 4)) * 5e-4
    returns[70_000, 2], returns[90_000, 3] = np.nan, -1.0
    single = jnp.asarray(returns, jnp.float32)
    with jax.enable_x64(True):
        exact = {name: whole for name, _, whole in every_figure(jnp.asarray(np.asarray(single, np.float64)))}
    for name, found, _ in every_figure(single):
        np.testing.assert_allclose(found, exact[name], rtol=2e-3, atol=2e-5, err_msg=name)
    assert np.isnan(float(streaming.start().sharpe()))
    assert np.isnan(float(streaming.start().annual_return()))
    assert float(streaming.start().max_drawdown()) == float(streaming.start().total_return()) == 0.0


def test_methods_that_need_all_returns_are_refused():
    with pytest.raises(ValueError, match=r"method is 'empirical'; allowed: gaussian, cornish_fisher"):
        streaming.start().value_at_risk(method="empirical")
    with pytest.raises(ValueError, match=r"level is 95"):
        streaming.start().value_at_risk(level=95)
