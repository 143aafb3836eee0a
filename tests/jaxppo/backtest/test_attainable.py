"""What of the best Sharpe ratio of a simulated market was reached: where it is known, and at which costs."""

import pytest
from tiny_run import tiny_config

from jaxppo.backtest.attainable import attainable_figures, attainable_sentence
from jaxppo.run.simulation import best_sharpe

FREE = {"commission_bps": 2.0, "slippage": 0.0, "impact": 0.0, "participation_limit": None, "borrow_rate": 0.0}
AGENT = {"sharpe": 1.5, "sharpe_ci": [1.2, 1.8]}


def planted(costs=(), **sections):
    simulation = {"kind": "costly_factor", "sharpe": 2.0, "commission_bps": 2.0}
    given = {"data": {"path": "simulated"}, "simulation": simulation, "costs": {**FREE, **dict(costs)}, **sections}
    return tiny_config(**given)


def test_shares_are_of_the_best_after_costs():
    found = attainable_figures(planted(), AGENT)
    assert found == {"sharpe": 2.0, "share": 0.75, "share_ci": [pytest.approx(0.6), pytest.approx(0.9)]}
    assert attainable_sentence(found) == (
        "The best Sharpe ratio of this market is 2 after costs: 75% of it was reached (60% to 90%)."
    )
    nothing = attainable_figures(planted(), {"sharpe": None, "sharpe_ci": [None, None]})
    assert attainable_sentence(nothing).endswith("nothing of it was reached.")


@pytest.mark.parametrize(
    "costs",
    [{"commission_bps": 1.0}, {"slippage": 0.1}, {"impact": 1.0}, {"participation_limit": 0.1}, {"borrow_rate": 0.01},
     {"spread_multiplier": 0.5}, {"cash_rate": 0.02}, {"commission_per_share": 0.01}],
)  # fmt: skip
def test_it_is_unknown_at_other_costs(costs):
    assert best_sharpe(planted(costs)) is None
    assert attainable_figures(planted(costs), AGENT) == {}


def test_it_is_unknown_on_other_prices_and_fills():
    assert best_sharpe(planted()) == 2.0
    assert best_sharpe(planted(data={"path": "prices.csv"})) is None
    assert best_sharpe(planted(simulation={"kind": "gbm"})) is None
    assert best_sharpe(planted(env={"latency_bars": 2})) is None
    assert best_sharpe(planted(env={"fill_price": "decision_close"})) is None
