"""Compiled programs on disk: found again, counted, apart for each kind of processor, and no setting is left behind."""

import jax
import jax.numpy as jnp
import pytest

from jaxppo.errors import ConfigError
from jaxppo.run import compilation_cache
from jaxppo.run.compilation_cache import cached_programs


def computed(folder):
    """What a function that this process has not compiled yet makes of some numbers, and what the cache did."""
    x = jnp.arange(12.0)
    with cached_programs(folder) as use:
        out = jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x))(x)
    return out, use


def test_what_was_compiled_before_is_found(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    (one, first), (other, second) = computed(tmp_path), computed(tmp_path)
    assert (first.found, second.added) == (0, 0)
    assert first.added == second.found > 0
    assert one == other
    assert f"{second.found} programs found, 0 added" in second.describe()
    assert jax.config.jax_compilation_cache_dir == before
    x = jnp.arange(12.0)
    jax.jit(lambda x: jnp.tan(x).sum())(x)
    assert (second.found, second.added) == (first.added, 0), "what follows the block is not counted"


def test_another_processor_has_other_programs(tmp_path, monkeypatch):
    first = computed(tmp_path)[1]
    monkeypatch.setattr(compilation_cache, "PROCESSORS", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("processor: 0\nflags: sse avx another\n")
    second = computed(tmp_path)[1]
    assert second.folder != first.folder
    assert second.found == 0
    monkeypatch.setattr(compilation_cache, "PROCESSORS", tmp_path / "absent")  # not Linux
    assert computed(tmp_path)[1].added > 0


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"compilation cache .*file cannot be written; it must be a folder"):
        computed(tmp_path / "file")
