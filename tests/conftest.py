"""Test-wide settings: four CPU devices, quick compilation and one cache of it, and JAX's strict modes.

With JAXPPO_TEST_AS_USERS=1 programs are compiled with the settings that users have.
"""

import atexit
import gc
import importlib.metadata
import os
import shutil
import tempfile

# Half of the time of importing everything is the collector's, which finds nothing: modules stay.
gc.disable()

DRAWING = ("ppo", "simulators")
"""Folders of tests in which keys are watched; elsewhere every operation outside a program would take longer."""
AS_USERS = os.environ.get("JAXPPO_TEST_AS_USERS") == "1"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
if not AS_USERS and importlib.metadata.version("jaxlib").startswith("0.10."):
    # It compiles in half the time; 0.11 does not know the first and aborts. The workers share the cores already: a
    # program need not be compiled in parts.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = tempfile.mkdtemp(prefix="jaxppo-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")
# Tests compile much and compute little.
jax.config.update("jax_disable_most_optimizations", not AS_USERS)
# Programs carry no stack of the lines that they come from, which no test reads.
jax.config.update("jax_traceback_in_locations_limit", 0)


def pytest_collection_finish() -> None:
    """Garbage is collected again, among what the tests make; seldom, since tracing makes much that stays."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


@pytest.fixture(autouse=True)
def watched_keys(request):
    """In the files that draw most, each key of random numbers is used once."""
    with jax.debug_key_reuse(AS_USERS or request.path.parent.name in DRAWING):
        yield


_files: list[None] = []


@pytest.fixture(autouse=True, scope="module")
def memory_is_given_back():
    """What was compiled for hundreds of files would fill a machine's memory: every tenth file lets go of it."""
    yield
    _files.append(None)
    if len(_files) % 10 == 0:
        jax.clear_caches()
        gc.collect()
