"""Ranges in signatures: what `checked` refuses, what it says, and what it passes on."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import Field

from jaxppo.arguments import CodeOnly, PositiveInt, PositiveRatio, Ratio, Text, check, checked, describe


class Budget(NamedTuple):
    symbols: Annotated[tuple[Text, ...], Field(min_length=1)]
    limit: PositiveRatio = 1.0


@checked
def factory(
    target: PositiveRatio,
    *,
    span: PositiveInt = 21,
    net: tuple[Ratio, Ratio] | None = None,
    scale: Literal["none", "known"] = "none",
    groups: Mapping[Text, Budget] | None = None,
    function: Callable[[Any], Any] | None = None,
    names: CodeOnly[tuple[str, ...]] = (),
    mean: jax.Array | None = None,
) -> tuple[Any, ...]:
    """Returns its arguments."""
    return target, span, net, scale, groups, function, names, mean


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": 0}, r"target is 0; allowed: number in \[1e-06, 1e\+06\]"),
        ({"target": float("nan")}, "target is nan"),
        ({"target": "0.1"}, "target is '0.1'"),
        ({"target": None}, "target is None"),
        ({"target": jnp.float32(-1.0)}, "target is Array"),
        ({"span": 0}, r"span is 0; allowed: whole number in \[1, 1048576\]"),
        ({"span": 1.5}, "span is 1.5"),
        ({"net": (0.0,)}, r"net is \(0.0,\); allowed: \[low, high\], each a number in \[-1e\+06, 1e\+06\] or None"),
        ({"scale": "half"}, "scale is 'half'; allowed: one of none, known"),
        ({"groups": {"x": ((), 1.0)}}, "allowed: mapping of names to a tuple of symbols, limit or None"),
        ({"names": "AAA"}, "names is 'AAA'; allowed: list of text"),
    ],
)
def test_what_is_out_of_range_is_refused_in_one_line(given, message):
    with pytest.raises(ValueError, match=message) as caught:
        factory(**{"target": 1.0, **given})
    assert "\n" not in str(caught.value)


def test_what_is_in_range_is_passed_on_as_it_is():
    given = (np.float32(0.5), 3, [0, 1], "known", {"x": (["A"], 2)}, abs, ("A",), jnp.ones(2))
    names = ("target", "span", "net", "scale", "groups", "function", "names", "mean")
    found = factory(**dict(zip(names, given, strict=True)))
    assert all(a is b for a, b in zip(found, given, strict=True))
    assert factory(jnp.ones(3))[0].shape == (3,), "arrays are not one value"
    assert float(jax.jit(lambda x: 2.0 * factory(x)[0])(-1.0)) == -2.0, "the values of tracers are not known"
    with pytest.raises(TypeError, match="nonsense"):
        factory(1.0, nonsense=1)


def test_a_tuple_is_checked_by_its_fields():
    check(Budget, Budget(("A",), 2.0)._asdict())
    with pytest.raises(ValueError, match="limit is 0"):
        check(Budget, Budget(("A",), 0)._asdict())


def test_types_in_words():
    assert describe(PositiveInt | None) == "whole number in [1, 1048576] or null"
    assert describe(tuple[Literal["a", "b"], ...]) == "list of a, b"
    with pytest.raises(KeyError):
        describe(jax.Array)
