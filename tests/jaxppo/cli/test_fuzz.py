"""Configurations and price files with seeded mistakes: one line or accepted, and nothing written. Many are tried by
`benchmarks/fuzz.py`."""

import sys

import pytest

from benchmarks import fuzz
from benchmarks.mutations import Outcome, Reached, outcome_of, prices

CONFIGURATIONS, PRICES = 25, 25


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prices(300).to_csv("prices.csv", index=False)
    return tmp_path


def test_mutated_configurations(workplace):
    with fuzz.nothing_trains(before="build"):
        found = [fuzz.fuzz_configuration(seed, workplace) for seed in range(CONFIGURATIONS)]
    assert {seed: one.text for seed, one in enumerate(found) if one.kind == "fault"} == {}
    assert {one.kind for one in found} == {"accepted", "refused"}, "neither all right nor all wrong"


def test_mutated_price_files(workplace):
    folder = workplace / "prices"
    folder.mkdir()
    found = [fuzz.fuzz_prices(seed, folder) for seed in range(PRICES)]
    assert {seed: one.text for seed, one in enumerate(found) if one.kind == "fault"} == {}
    assert {one.kind for one in found} == {"accepted", "refused"}


def test_the_configuration_that_is_mutated_is_sound(workplace):
    path = fuzz._written(workplace, fuzz.TREE)
    with fuzz.nothing_trains(before="build"), pytest.raises(Reached):
        fuzz.run(fuzz.script("train"), ["--config", str(path)])


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: 1, "exit code 1"),
        (lambda: 2, "0 lines of an error"),
        (lambda: print("error: a\nerror: b", file=sys.stderr) or 2, "2 lines"),
    ],
)
def test_what_is_no_refusal_is_a_fault(call, fault):
    found = outcome_of(call)
    assert found.kind == "fault"
    assert fault in found.text


def test_what_was_written_is_a_fault():
    assert fuzz._untouched(Outcome("refused", "", 0.0), {"a": 1}, {"a": 2, "b": 1}).text == "wrote ['a', 'b']"
