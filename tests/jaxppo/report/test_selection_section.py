"""What a reader is told of selection: warnings, a line, and the section of the report."""

from report_pages import Page, row

from jaxppo.report import selection


def test_warnings_say_what_it_means() -> None:
    figures = {"out_of_sample": {"trials": 40, "dsr": 0.6, "hurdle": 1.3}, "validation": {"pbo": 0.7}}
    luck, overfit = selection.luck_warnings(figures, 0.95)
    assert "indistinguishable from the best of 40 trials" in luck
    assert "1.30 a year" in luck
    assert "70.00 %" in overfit
    fine = {"out_of_sample": {"trials": 40, "dsr": 0.99, "hurdle": 1.3}, "validation": {"pbo": None}}
    assert selection.luck_warnings(fine, 0.95) == ()
    assert selection.luck_warnings({"out_of_sample": {"trials": 1, "dsr": 0.2, "hurdle": 0.0}}, 0.95) == ()


def test_the_section_shows_what_is_known_of_each_period() -> None:
    ends = {"sharpe_ci": [-0.5, 2.9], "adjusted_sharpe": None, "adjusted_sharpe_ci": [None, None]}
    test = {"trials": 12, "effective_trials": 3.5, "sharpe": 1.2, **ends, "hurdle": 0.9, "psr": 0.9, "dsr": None}
    test |= {"minimum_track_record": 800.2}
    page = Page(selection.section({"out_of_sample": test, "validation": test | {"pbo": 0.7, "trials": 5}}, 0.95))
    assert page.open == []
    assert row(page, "Trials on this market", 2) == ["12", "5"]
    assert row(page, "Annual Sharpe ratio", 2) == ["1.20 [-0.50, 2.90]"] * 2
    assert row(page, "Bars needed to exceed luck", 1) == ["801"]
    assert row(page, "Probability of backtest overfitting (PBO)", 2) == ["-", "70.00 %"]
    assert selection.section({}, 0.95) == ""
    line = selection.one_line({"out_of_sample": test})
    assert "PSR 90.0%, DSR undefined after 12 evaluations on test" in line
    assert line.endswith(
        "(as good as 3.5 independent ones; the best of those without skill has a Sharpe ratio of 0.90)"
    )
    assert "without skill" not in selection.one_line({"out_of_sample": test | {"trials": 1}})
