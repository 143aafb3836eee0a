"""The register of trials: what a run records, once each, whatever is repeated, interrupted or done at once."""

import concurrent.futures
import json
import math
import pathlib
import re

import numpy as np
import pytest
from made_up_trials import record, record_returns

from jaxppo.run import trials


def many(register: pathlib.Path, worker: int) -> None:
    for number in range(20):
        record(register, number // 2 if worker else number, n=30)
        record(register, 1000 * (worker + 1) + number, n=30)


def test_an_evaluation_is_recorded_once_with_its_returns(tmp_path) -> None:
    register = tmp_path / "trials.jsonl"
    assert trials.read(register) == []
    assert trials.table(register).empty
    first = record(register, 1)
    content = register.read_bytes()
    assert record(register, 1) == first
    assert register.read_bytes() == content, "nothing depends on the clock or the order"
    for changed in (
        {"iteration": 4},
        {"fold": 0},
        {"seed": 5},
        {"period": "validation"},
        {"configuration_hash": "other costs"},
    ):
        record(register, 1, **changed)
    assert len(trials.read(register)) == 6
    found = trials.table(register)
    assert found["annual_sharpe"][0] == pytest.approx(first.sharpe * math.sqrt(252))
    returns = trials.load_returns(register, [first])
    expected = np.random.default_rng(1).normal(0.0003, 0.01, 100).astype(np.float32)
    np.testing.assert_array_equal(returns[:, 0], expected)
    assert first.sharpe == pytest.approx(expected.mean() / expected.std(ddof=1), rel=1e-5)
    assert record(register, 7, run="idle", configuration_hash="idle").sharpe != 0
    assert record_returns(register, np.zeros(5), run="flat").sharpe == 0.0


def test_a_run_that_is_trained_anew_under_its_name_is_another_trial(tmp_path) -> None:
    register = tmp_path / "trials.jsonl"
    first, second = (record(register, draw, run="same") for draw in (1, 2))
    assert (first.attempt, second.attempt) == (0, 1)
    shorter = record(register, 1, n=90, run="same")
    whole = [first, second, shorter]
    assert trials.read(register) == whole
    for draw, expected in ((1, first), (2, second)):
        kept = np.random.default_rng(draw).normal(0.0003, 0.01, 100).astype(np.float32)
        np.testing.assert_array_equal(trials.load_returns(register, [expected])[:, 0], kept)
        rounded = record_returns(register, kept * (1 + 1e-5), run="same")
        assert rounded == expected, "another device rounds otherwise"
    assert record(register, 1, n=90, run="same") == shorter
    assert trials.read(register) == whole


def test_every_damage_of_a_file_is_one_line(tmp_path) -> None:
    register = tmp_path / "trials.jsonl"
    trial = record(register, 1)
    path, line = tmp_path / "trial_returns" / f"{trial.key}.npz", register.read_text()
    whole, expected = path.read_bytes(), trials.load_returns(register, [trial])
    refused = {}
    for place in range(0, len(whole), 3):
        flipped = whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]
        for damaged in (whole[:place], flipped):
            path.write_bytes(damaged)
            try:
                found = trials.load_returns(register, [trial])
            except ValueError as error:
                found, refused[str(error).partition(":")[0]] = expected, True
            np.testing.assert_array_equal(found, expected)
    assert set(refused) == {str(path)}
    for name, values in {
        "sharpe": ("null", "NaN", "1e999"),
        "periods": ("0", "-1", "NaN"),
        "n_bars": ("1", "null"),
    }.items():
        for value in values:
            register.write_text(re.sub(rf'"{name}": [^,}}]+', f'"{name}": {value}', line))
            with pytest.warns(UserWarning, match=r"trials\.jsonl: line 1 (is no trial|has n_bars).*; it is left out"):
                assert trials.read(register) == []


def test_writers_at_once_lose_and_repeat_nothing(tmp_path) -> None:
    register = tmp_path / "trials.jsonl"
    # The lock belongs to an opened file, so threads exclude each other as processes do.
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(many, [register] * 3, range(3)))
    found = trials.read(register)
    assert len(found) == len({trial.key for trial in found}) == 20 + 3 * 20
    assert all(trials.load_returns(register, [trial]).shape == (30, 1) for trial in found)


def test_lines_that_are_unfinished_changed_or_no_trials_are_left_out(tmp_path) -> None:
    register = tmp_path / "trials.jsonl"
    whole = [record(register, seed) for seed in (1, 2)]
    with open(register, "ab") as file:
        file.write(b'{"key": "ab')
    assert trials.read(register) == whole
    whole.append(record(register, 3))
    assert trials.read(register) == whole
    lines = register.read_text().splitlines()
    register.write_text("\n".join([lines[0], lines[1].replace('"seed": 0', '"seed": 9'), lines[2]]) + "\n")
    with pytest.warns(UserWarning, match="line 2 was changed"):
        assert trials.read(register) == [whole[0], whole[2]]
    register.write_text("nonsense\n")
    with pytest.warns(UserWarning, match=r"trials\.jsonl: line 1 is no trial; it is left out"):
        new = record(register, 4)
    assert register.read_text().startswith("nonsense\n")
    with pytest.warns(UserWarning, match="line 1 is no trial"):
        assert trials.read(register) == [new]
    with pytest.raises(ValueError, match="finite"):
        record_returns(tmp_path / "other", np.array([0.1, np.nan]))
    (tmp_path / "trial_returns" / f"{whole[0].key}.npz").unlink()
    with pytest.raises(ValueError, match="run-1 are missing"):
        trials.load_returns(register, whole[:1])


def test_registers_from_before_a_field_was_renamed_are_read_and_continued(tmp_path) -> None:
    register = tmp_path / "trials.jsonl"
    known = [record(register, draw) for draw in (1, 2)]
    old = register.read_text().replace('"configuration_hash": ', '"content": ')
    register.write_text(old)
    assert trials.read(register) == known
    assert list(trials.table(register)["configuration_hash"]) == ["c", "c"]
    assert record(register, 1) == known[0]
    assert register.read_text() == old, "the same evaluation under either name"
    whole = [*known, record(register, 3)]
    assert trials.read(register) == whole
    assert trials.load_returns(register, whole).shape == (100, 3)


APPLE = {"fingerprint": "a", "symbols": ("AAPL", "IBM"), "first": "2020-01-01", "last": "2020-09-01"}
LATER = {"first": "2020-09-02", "last": "2020-12-31"}


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"symbols": ("AAPL",), "fingerprint": "b"}, True),
        ({"symbols": ("MSFT",), "fingerprint": "b"}, False),
        ({"symbols": (), "fingerprint": "b"}, False),
        ({"fingerprint": "b", **LATER}, False),
        ({"fingerprint": "b", "first": "2020-09-01T00:00:00", "last": "2021-01-01"}, True),
        (LATER, True),
        ({"fingerprint": "b", "first": 0, "last": 90}, False),
        ({"first": 0, "last": 90}, True),
        ({"fingerprint": None, "symbols": ()}, True),
        ({"fingerprint": None, "symbols": (), **LATER}, False),
        ({"fingerprint": None, "symbols": (), "first": 0, "last": 90}, True),
    ],
)
def test_the_same_market_is_the_same_prices_or_shared_symbols_at_shared_dates(tmp_path, changes, same) -> None:
    one = record(tmp_path / "trials.jsonl", 1, **APPLE)
    other = record(tmp_path / "trials.jsonl", 2, **{**APPLE, **changes})
    assert trials.same_market(one, other) == trials.same_market(other, one) == same
    assert trials.read(tmp_path / "trials.jsonl") == [one, other]


def test_lines_from_before_markets_were_recorded_are_read_and_continued(tmp_path) -> None:
    register = tmp_path / "trials.jsonl"
    known = record(register, 1)
    fields = json.loads(register.read_text())
    del fields["fingerprint"], fields["symbols"]
    register.write_text(json.dumps(fields) + "\n")
    assert trials.read(register) == [known]
    assert record(register, 1, **APPLE) == known, "the same evaluation, whose market is known by now"
    assert len(trials.read(register)) == 1
