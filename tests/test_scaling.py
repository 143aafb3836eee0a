"""Bytes that a compiled program moves, counted by hand, and the arithmetic of more chips."""

import pytest

from benchmarks.hlo import Program
from benchmarks.scaling import CHIPS, Chip, all_reduce, bounds, plan
from benchmarks.traffic import size_of, traffic

TEXT = """HloModule jit_run

%update (into: f32[7,3,4], at: s32[], row: f32[3,4]) -> f32[7,3,4] {
  %into = f32[7,3,4]{2,1,0} parameter(0)
  %row = f32[3,4]{1,0} parameter(2)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one_row = f32[1,3,4]{2,1,0} bitcast(%row)
  ROOT %put = f32[7,3,4]{2,1,0} dynamic-update-slice(%into, %one_row, %at, %zero, %zero)
}

%slice (all: f32[7,3,4], at.1: s32[]) -> f32[3,4] {
  %all = f32[7,3,4]{2,1,0} parameter(0)
  %at.1 = s32[] parameter(1)
  %zero.1 = s32[] constant(0)
  %got = f32[1,3,4]{2,1,0} dynamic-slice(%all, %at.1, %zero.1, %zero.1), dynamic_slice_sizes={1,3,4}
  ROOT %flat = f32[3,4]{1,0} bitcast(%got)
}

%body (carry: (s32[], f32[7,3,4])) -> (s32[], f32[7,3,4]) {
  %carry = (s32[], f32[7,3,4]{2,1,0}) parameter(0)
  %n = s32[] get-tuple-element(%carry), index=0
  %rows = f32[7,3,4]{2,1,0} get-tuple-element(%carry), index=1
  %sliced = f32[3,4]{1,0} fusion(%rows, %n), kind=kLoop, calls=%slice
  %summed = f32[3,4]{1,0} all-reduce(%sliced), replica_groups={}, to_apply=%add
  %written = f32[7,3,4]{2,1,0} fusion(%rows, %n, %summed), kind=kLoop, calls=%update
  ROOT %out = (s32[], f32[7,3,4]{2,1,0}) tuple(%n, %written)
}

%condition (carry.1: (s32[], f32[7,3,4])) -> pred[] {
  %carry.1 = (s32[], f32[7,3,4]{2,1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (x: f32[7,3,4]) -> f32[7,3,4] {
  %x = f32[7,3,4]{2,1,0} parameter(0)
  %start = s32[] constant(0)
  %both = (s32[], f32[7,3,4]{2,1,0}) tuple(%start, %x)
  %loop = (s32[], f32[7,3,4]{2,1,0}) while(%both), condition=%condition, body=%body, TRIPS
  %rows.1 = f32[7,3,4]{2,1,0} get-tuple-element(%loop), index=1
  ROOT %negated = f32[7,3,4]{2,1,0} negate(%rows.1)
}
""".replace("TRIPS", 'backend_config={"known_trip_count":{"n":"7"}}')
ROW, ALL, INDEX = 3 * 4 * 4, 7 * 3 * 4 * 4, 4
SIMPLE = Chip(bfloat16=1e12, float32=1e11, memory=1e9, link=1e8, launch=1e-6, hop=1e-5)
COUNTED = {
    "flops_bfloat16": 2e9, "flops_float32": 1e8, "bytes_moved": 5e6, "kernels": 1000, "minibatches": 4,
    "gradient_bytes": 1e5, "steps": 3200, "n_devices": 16,
}  # fmt: skip


def test_a_slice_counts_its_rows_and_an_update_what_it_writes():
    """A row is read and written by the slice, the sum and the update; then everything is negated once."""
    slicing, summing, updating = ROW + INDEX + ROW, 2 * ROW, ROW + INDEX + ROW
    found = traffic(Program(TEXT))
    assert found.memory == 7 * (slicing + summing + updating) + 2 * ALL
    assert found.across == 7 * ROW


@pytest.mark.parametrize(
    ("text", "n_bytes"), [("f32[2,3]{1,0}", 24), ("(bf16[4]{0}, pred[])", 9), ("s32[]", 4), ("", 0)]
)
def test_sizes_of_types(text, n_bytes):
    assert size_of(text) == n_bytes


def test_bounds_are_what_is_asked_for_over_what_a_chip_can_do():
    assert bounds(COUNTED, SIMPLE) == pytest.approx({"products": 2e-3 + 1e-3, "memory": 5e-3, "launches": 1e-3})


def test_a_sum_over_chips_takes_the_shorter_of_ring_and_tree():
    assert all_reduce(1e6, 1, SIMPLE) == 0.0
    assert all_reduce(1e6, 2, SIMPLE) == pytest.approx(2 * (1e6 / 2 / 1e8 + 1e-5))
    # Two messages each way over a ring of many would take longer than a tree of ten levels.
    assert all_reduce(8.0, 1024, SIMPLE) == pytest.approx(2 * 10 * (8 / 1e8 + 1e-5))


def test_more_chips_do_more_and_each_does_less():
    rows = plan(COUNTED, SIMPLE)
    assert [row["chips"] for row in rows] == list(CHIPS)
    assert rows[0]["efficiency"] == 1.0
    assert rows[0]["million_steps_per_second"] == pytest.approx(1e-6 * 200 / 5e-3)
    efficiency = [row["efficiency"] for row in rows]
    speed = [row["million_steps_per_second"] for row in rows]
    assert efficiency == sorted(efficiency, reverse=True)
    assert speed == sorted(speed)
    eight = 4 * all_reduce(1e5, 8, SIMPLE)
    assert rows[1]["efficiency"] == pytest.approx(5e-3 / (5e-3 + eight))
