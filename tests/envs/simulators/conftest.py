"""Keys of random numbers are watched here: each is used once."""

import jax
import pytest


@pytest.fixture(autouse=True)
def watched_keys():
    with jax.debug_key_reuse(True):
        yield
