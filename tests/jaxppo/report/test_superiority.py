"""What a reader is told of the tests against the baselines."""

from report_pages import Page

from jaxppo.report import superiority


def test_superiority_in_plain_words() -> None:
    figures = {"no_better_than": {"buy_and_hold": 0.3, "<b>flat": 0.01, "copy": None}, "trials": 7, "spa": 0.4}
    figures["reality_check"] = 0.5
    page = Page(superiority.section(figures, 0.95))
    assert page.open == []
    assert "The agent earns more than <b>flat by more than luck explains." in page.visible
    assert "That it earns more than buy_and_hold is not shown." in page.visible
    assert "Of the 7 trials on these bars, none is shown to earn more than buy_and_hold." in page.visible
    assert "0.400" in page.cells
    better = figures | {"spa": 0.01}
    assert "the best earns more than buy_and_hold by more than the luck of having" in superiority.verdict(better, 0.95)
    assert "trials" not in superiority.section(figures | {"trials": 1}, 0.95)
