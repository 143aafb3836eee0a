"""Sealed files: what was written is read, and nothing else."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from benchmarks.mutations import flip_bit
from jaxppo.envs import simulators
from jaxppo.envs.data.report import fingerprint
from jaxppo.errors import ConfigError
from jaxppo.run.files import FORMAT, check_text, read_sealed, sealed_text, write_sealed
from jaxppo.run.folder import data_report

CONTENT = {"kind": "run", "seconds": 0.1 + 0.2, "data": {"symbols": ["Ä", "B"], "last": None, "huge": 10**20}}


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "sealed"
    folder.mkdir()
    write_sealed(folder / "metadata.json", CONTENT)
    return folder / "metadata.json"


def test_what_is_written_is_read(path):
    assert read_sealed(path) == CONTENT
    assert json.loads(path.read_text())["format"] == FORMAT


def test_every_flipped_bit_is_found_or_changes_nothing(path):
    whole, refused = path.read_bytes(), 0
    for seed in range(150):
        flip_bit(np.random.default_rng(seed), path.parent)
        try:
            assert read_sealed(path) == CONTENT
        except ConfigError:
            refused += 1
        path.write_bytes(whole)
    assert refused > 100


def test_a_newer_version_says_so(path):
    path.write_text(json.dumps({**CONTENT, "format": FORMAT + 1, "what": "is new"}))
    with pytest.raises(ConfigError, match=rf"made by a newer version .*format {FORMAT + 1}.* up to {FORMAT}\); update"):
        read_sealed(path)


def test_one_of_an_older_version_is_read(path):
    path.write_text(json.dumps(CONTENT))
    assert read_sealed(path) == CONTENT


def test_a_key_that_is_needed_is_named(path):
    with pytest.raises(ConfigError, match="has no n_paths"):
        read_sealed(path, ["kind", "n_paths"])


def test_a_text_knows_whether_it_was_changed(tmp_path):
    path = tmp_path / "config.yaml"
    for text, sound in (
        (sealed_text("seed: 1\n"), True),
        (sealed_text("seed: 1\n").replace("1\n", "2\n", 1), False),
        ("seed: 1\n", True),
        (sealed_text("seed: 1\n") + "seed: 2\n", False),
    ):
        path.write_text(text)
        if sound:
            check_text(path)
        else:
            with pytest.raises(ConfigError, match="was changed after the run wrote it"):
                check_text(path)


def test_prices_given_in_python_have_the_fingerprint_that_they_had():
    """A field that says nothing does not count: runs of versions that had not got it go on."""
    market = simulators.gbm(jax.random.key(0), 40, 2)
    later = {"info", "ended", "carry", "futures", "columns", "funding", "dividends"}
    known = {field.name for field in dataclasses.fields(market)} - later
    arrays = {name: np.asarray(getattr(market, name)) for name in known}
    times = market.info.timestamps.astype("datetime64[ns]").astype(np.int64)
    assert data_report(market)["fingerprint"] == fingerprint(market.info.symbols, times, arrays)
    ended = np.arange(40)[:, None] > np.asarray([30, 99])
    zeros = np.zeros((40, 2))
    fields = ({"ended": ended}, {"carry": zeros}, {"futures": np.ones(2, bool)}, {"columns": {"mood": zeros}})
    for field in (*fields, {"funding": zeros}):
        assert data_report(market.replace(**field))["fingerprint"] != data_report(market)["fingerprint"]
