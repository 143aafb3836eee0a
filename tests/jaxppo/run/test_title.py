"""Titles name the prices and the costs that were changed."""

import pytest

from jaxppo.config import Config, validate_config
from jaxppo.run.data import GIVEN_IN_PYTHON
from jaxppo.run.title import title_of_run


def configured(**sections: dict) -> Config:
    """A configuration with a budget."""
    return validate_config({"training": {"steps": 1}, **sections})


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("us5_1d", "us5_1d"),
        ("folder/prices.csv", "prices.csv"),
        (["a/x.csv", "b/y.csv", "z.csv", "u.csv"], "x.csv, y.csv, z.csv and 1 more"),
        ("simulated", "simulated prices (costly_factor)"),
        (GIVEN_IN_PYTHON, "prices given in Python"),
    ],
)
def test_prices_are_named_without_their_folders(path, shown) -> None:
    assert title_of_run("first", configured(data={"path": path})) == f"first on {shown}"


def test_changed_costs_are_named_and_many_are_counted() -> None:
    trained = configured(costs={"impact": 1.0, "participation_limit": None})
    assert title_of_run("first", trained) == "first on us5_1d, costs.impact 1, costs.participation_limit null"
    tested = configured(costs={"impact": 0.6})
    changed = "costs.impact 0.6 (trained with 1), costs.participation_limit 0.1 (trained with null)"
    assert title_of_run("first", tested, trained) == f"first on us5_1d, {changed}", "also those that are back at usual"
    free = {"commission_bps": 0.0, "spread_multiplier": 0.0, "slippage": 0.0, "impact": 0.0, "borrow_rate": 0.0}
    named = "costs.commission_bps 0, costs.spread_multiplier 0, costs.slippage 0 and 2 more"
    assert title_of_run("first", configured(costs=free)) == f"first on us5_1d, {named}"
