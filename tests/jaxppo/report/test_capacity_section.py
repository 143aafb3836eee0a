"""What the report says of costs and capital: sentences, tables, marks in the figures."""

import copy

import numpy as np
import pytest
from report_pages import CAPACITY, at_setting, example, page_of, row

from jaxppo.report import capacity as capacity_section


def changed(**changes: object) -> dict:
    return copy.deepcopy(CAPACITY) | changes


@pytest.mark.parametrize(
    ("at", "says"),
    [
        (3.0, "The return falls to nothing at 3.00 times the costs."),
        (0.0, "does not earn anything without costs either"),
        (None, "still earns at 64 times its costs"),
    ],
)
def test_break_even_in_words(at, says):
    assert says in capacity_section.break_even_sentence(changed(break_even=at))
    figure, _ = capacity_section.cost_figure(changed(break_even=at))
    marks = [shape.x0 for shape in figure.layout.shapes]
    assert marks == ([3.0, 3.0] if at else []), "in both panels"


def test_the_best_capital_in_words():
    assert capacity_section.capital_sentence(CAPACITY).endswith("with a capital of 1,000,000: 200,000.")
    none = changed(capitals=[at_setting(capital=1e4, gain=-1.0), at_setting(capital=1e5, gain=None)])
    assert "none of these amounts" in capacity_section.capital_sentence(none)
    rising = changed(capitals=CAPACITY["capitals"][:3])
    assert "1,000,000, the largest of them" in capacity_section.capital_sentence(rising)


def test_the_section_of_the_report():
    page = page_of(example(capacity=CAPACITY))
    assert {"cost_levels", "capacity"} <= set(page.identifiers)
    assert row(page, "0.5", 6) == ["1.50 [0.25, 2.50]", "25.00 %", "10.00 %", "1.00 %", "12.00", "50.00 %"]
    assert row(page, "100,000", 2) == ["1.50 [0.25, 2.50]", "20,000"]
    assert "90 % bootstrap intervals" in page.visible
    dead = changed(levels=[at_setting(level=8.0, liquidated=True, sharpe=None)])
    assert row(page_of(example(capacity=dead)), "8 (liquidated)", 1) == ["- [-, -]"]
    assert "Costs and capacity" not in page_of(example()).visible


def test_the_figures_draw_what_was_found():
    figure, _ = capacity_section.cost_figure(CAPACITY)
    sharpe, total = figure.data
    np.testing.assert_array_equal(sharpe.x, [0.0, 0.5, 1.0, 2.0, 4.0, 8.0])
    np.testing.assert_array_equal(sharpe.y, [2.0, 1.5, 1.0, 0.0, -2.0, -6.0])
    np.testing.assert_array_equal(sharpe.error_y.array, 1.0)
    np.testing.assert_array_equal(sharpe.error_y.arrayminus, 1.25)
    np.testing.assert_allclose(total.y, 0.3 - 0.1 * np.array(sharpe.x))
    figure, caption = capacity_section.capital_figure(CAPACITY)
    assert list(figure.data[1].y) == [2000.0, 20000.0, 200000.0, -5.0]
    assert figure.layout.yaxis2.type == "linear"
    assert "logarithmic" not in caption
    assert capacity_section.capital_figure(changed(capitals=CAPACITY["capitals"][:3]))[0].layout.yaxis2.type == "log"
