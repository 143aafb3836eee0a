"""Checkpoints: what is kept, what is replaced, and what happens to damaged ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxppo.errors import ConfigError
from jaxppo.run.checkpoints import Checkpoints

STATE = {"params": {"w": jnp.arange(6.0).reshape(2, 3)}, "opt": (jnp.zeros((), jnp.int32),), "seed": jnp.uint32(7)}


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(tmp_path / "deep" / "last", keep=2)
    yield opened
    opened.close()


def scaled(factor):
    return {**STATE, "params": {"w": STATE["params"]["w"] * factor}}


def test_a_state_comes_back_bit_by_bit_with_its_dict(checkpoints):
    host = {"iteration": 3, "elapsed": 0.1 + 0.2, "best_score": None}
    checkpoints.save(3, STATE, host)
    arrays, restored = checkpoints.restore(STATE)
    assert restored == host
    assert isinstance(arrays["opt"], tuple)
    assert arrays["seed"].dtype == np.uint32
    np.testing.assert_array_equal(arrays["params"]["w"], STATE["params"]["w"])


def test_opening_makes_no_folder(tmp_path):
    opened = Checkpoints(tmp_path / "absent", keep=1)
    assert opened.latest is None
    with pytest.raises(ConfigError, match=r"absent.*no checkpoint found"):
        opened.restore(STATE)
    assert not (tmp_path / "absent").exists()


def test_only_the_newest_are_kept(checkpoints):
    for step in (1, 4, 9):
        checkpoints.save(step, scaled(step), {})
    assert checkpoints.latest == 9
    np.testing.assert_array_equal(checkpoints.restore(STATE, 4)[0]["params"]["w"], 4 * STATE["params"]["w"])
    with pytest.raises(ConfigError, match="with number 1"):
        checkpoints.restore(STATE, 1)


def test_saving_replaces_the_same_number_and_drops_later_ones(checkpoints):
    """A continuation saves numbers that the interrupted run had reached already; nothing of that run may survive."""
    checkpoints.save(5, scaled(1), {})
    checkpoints.save(8, scaled(2), {})
    checkpoints.save(6, scaled(3), {"iteration": 6})
    assert checkpoints.latest == 6
    arrays, host = checkpoints.restore(STATE)
    assert host == {"iteration": 6}
    np.testing.assert_array_equal(arrays["params"]["w"], 3 * STATE["params"]["w"])
    checkpoints.save(6, scaled(4), {})
    np.testing.assert_array_equal(checkpoints.restore(STATE)[0]["params"]["w"], 4 * STATE["params"]["w"])
    checkpoints.discard_after(5)
    assert checkpoints.latest == 5


def test_it_can_be_opened_again(tmp_path):
    for step in (1, 2):
        opened = Checkpoints(tmp_path / "last", keep=2)
        opened.save(step, scaled(step), {"step": step})
        opened.close()
    assert Checkpoints(tmp_path / "last", keep=2).restore(STATE)[1] == {"step": 2}


@pytest.mark.parametrize(
    "other",
    [
        {**STATE, "params": {"w": jnp.zeros((2, 4))}},
        {**STATE, "params": {"w": STATE["params"]["w"], "more": jnp.zeros(1)}},
        {"params": STATE["params"]},
    ],
)
def test_another_shape_is_refused(checkpoints, other):
    checkpoints.save(1, STATE, {})
    with pytest.raises(ConfigError, match="shape") as refusal:
        checkpoints.restore(other)
    assert "\n" not in str(refusal.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("pattern", ["state/manifest.ocdbt", "state/d/*", "state/_METADATA", "host/metadata"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_damage_is_refused_in_one_line(checkpoints, tmp_path, pattern, how):
    checkpoints.save(1, STATE, {"a": 1})
    for path in (tmp_path / "deep" / "last" / "1").glob(pattern):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]) if how == "cut" else path.unlink()
    with pytest.raises(ConfigError, match="damaged") as refusal:
        checkpoints.restore(STATE)
    assert "\n" not in str(refusal.value)
