"""The gate of a walk-forward: what opens it, that it sees nothing of a test, and what it does to the account."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import statsmodels.api as sm
from tiny_run import prices, tiny_config

from jaxppo import envs
from jaxppo.backtest.agent_account import ensemble_of, rules_of
from jaxppo.backtest.shipping import Ship, decided
from jaxppo.backtest.simulate import simulate_account
from jaxppo.run.setup import first_policy
from jaxppo.walk_forward import load_fold, walk_forward
from jaxppo.walk_forward.concatenated import Lineup, concatenated_ledgers
from jaxppo.walk_forward.gate import fold_ships, gate_figures, mean_by_bar
from jaxppo.walk_forward.prepare import prepare
from jaxppo.walk_forward.section import gate_line, gate_section

KEYS = {"train_bars": 150, "test_bars": 60, "seeds": 2}
LINEUP = Lineup([[0, 1], [2, 3], [4, 5]])
PRICES = ["open", "high", "low", "close"]


def config_of(**sections):
    return tiny_config(walk_forward=KEYS, evaluation={"ship": "base_unless", **sections})


def drifting(drift, seed=0):
    """Prices with a drift per bar on top; long positions earn it."""
    frame = prices(seed=seed)
    frame[PRICES] *= np.exp(drift * frame.groupby("symbol").cumcount().to_numpy())[:, None]
    return frame


def weighed(frame, **sections):
    """Plan, evidence of the folds and ungated ledger of untrained agents, which are long on average."""
    plan, setup, params = prepare(config_of(**sections), envs.load_market(frame))
    network, net = first_policy(setup)
    nets = jax.tree.map(lambda x: jnp.stack([x * scale for scale in (1.0, 1.5) * 3]), net)
    ungated = concatenated_ledgers(setup, network, params, nets, plan, [LINEUP])[0][0]
    ships = fold_ships(setup, network, params, nets, plan, LINEUP, ungated.returns)
    return plan, ships, ungated, (setup, network, params, nets)


@pytest.fixture(scope="module")
def drift():
    return weighed(drifting(0.004))


def test_a_planted_drift_opens_the_gate_and_a_random_walk_does_not(drift):
    assert [ship.share for ship in drift[1]][-1] == 1.0
    assert all(ship.t > 1.0 for ship in drift[1])
    chance = [ship for seed in (1, 2, 3) for ship in weighed(drifting(-0.0003, seed))[1]]
    assert sum(ship.share > 0 for ship in chance) <= 2


def test_the_first_fold_is_weighed_by_its_validation_alone(drift):
    plan, ships, ungated, (setup, network, params, nets) = drift
    again = fold_ships(setup, network, params, nets, plan, LINEUP, -ungated.returns)
    assert again[0] == ships[0]
    assert again[1].t < ships[1].t


def test_the_evidence_of_a_later_fold_by_hand(drift):
    plan, ships, ungated, (setup, network, _, nets) = drift
    fold, start = plan.folds[2], plan.test.first
    policy = ensemble_of(setup, network, jax.tree.map(lambda x: x[jnp.asarray(LINEUP.members[2])], nets))
    where = fold.validation
    validated = simulate_account(policy, rules_of(setup), setup.params, jnp.int32(where.first), where.n_bars).returns
    before = ungated.returns[: fold.tests[0].first - start]
    mean = np.concatenate([validated, before]).mean()
    found = {start + place: [earned] for place, earned in enumerate(before)}
    overlap = [bar for bar in range(where.first, where.last) if bar in found]
    assert len(overlap) == where.n_bars, "all of this validation lies in an earlier test"
    for bar, earned in zip(range(where.first, where.last), validated, strict=True):
        found[bar].append(earned)
    series = [np.mean([earned - (earned - mean) ** 2 / 2 for earned in found[bar]]) for bar in sorted(found)]
    lags = int(4 * (len(series) / 100) ** (2 / 9))
    hac = {"cov_type": "HAC", "cov_kwds": {"maxlags": lags, "use_correction": False}}
    fitted = sm.OLS(series, np.ones(len(series))).fit(**hac)
    assert ships[2].t == pytest.approx(float(fitted.tvalues[0]), rel=1e-4)


def test_a_bar_that_is_seen_twice_counts_once():
    np.testing.assert_array_equal(mean_by_bar(np.array([5, 7, 5, 6]), np.array([1.0, 2.0, 3.0, 4.0])), [2.0, 4.0, 2.0])


def test_no_share_sees_anything_after_the_first_bar_of_its_test(drift):
    plan, ships, _, _ = drift
    edge, frame = plan.folds[1].tests[0].first, drifting(0.004)
    later = frame.groupby("symbol").cumcount() > edge
    frame.loc[later, PRICES] *= np.random.default_rng(3).uniform(0.97, 1.03, (int(later.sum()), 1))
    frame.loc[later, "volume"] *= 3
    changed = weighed(frame)[1]
    assert changed[:2] == ships[:2]
    assert changed[2] != ships[2]


def test_a_closed_fold_closes_positions_and_an_open_one_trades(drift):
    plan, _, ungated, (setup, network, params, nets) = drift
    through = Lineup(LINEUP.members, [1.0, 0.0, 0.5])
    none = Lineup(LINEUP.members, [0.0, 0.0, 0.0])
    gated, closed = (each[0] for each in concatenated_ledgers(setup, network, params, nets, plan, [through, none]))
    first, second = (fold.tests[0].n_bars for fold in plan.folds[:2])
    np.testing.assert_allclose(gated.equity[: first + 1], ungated.equity[: first + 1], rtol=1e-6)
    assert np.abs(gated.shares[first - 1]).max() > 0
    np.testing.assert_array_equal(gated.shares[first : first + second], 0.0)
    assert (gated.equity[first + 1 : first + second] == gated.equity[first + 1]).all()
    half = np.abs(gated.weights[first + second :]).sum() / np.abs(ungated.weights[first + second :]).sum()
    assert half == pytest.approx(0.5, abs=0.1)
    np.testing.assert_array_equal(closed.equity, closed.equity[0])
    np.testing.assert_array_equal(closed.quantity, 0.0)


def test_what_is_said_of_it():
    found = gate_figures([Ship(0.5, 0.0), Ship(2.0, 0.75)])
    assert found["traded"] == 1
    assert found["folds"][1] == {"fold": 1, "t": 2.0, "share": 0.75, "traded": "agent"}
    assert gate_line(found) == "The agents trade 1 of 2 folds, the base the others (t = 0.50, 2.00)."
    html = gate_section(found, 1.65)
    assert "75" in html
    assert "exceeds 1.65" in html


@pytest.mark.slow
def test_a_gated_walk_forward_reports_what_was_traded(tmp_path):
    market = envs.load_market(prices())
    result = walk_forward(config_of(ship_t=20.0), output=tmp_path / "wf", market=market, progress=False)
    summary = json.loads((tmp_path / "wf" / "summary.json").read_text())
    found = summary["walk_forward"]
    assert [row["traded"] for row in found["ship"]["folds"]] == ["base"] * 3
    assert found["ship"]["traded"] == 0
    assert list(found["paths"]) == ["gated", "ensemble", "seed 7", "seed 8"]
    assert summary["out_of_sample"]["total_return"] == 0.0
    beside = summary["out_of_sample"]["baseline"]
    assert beside["ungated"]["total_return"] == pytest.approx(found["paths"]["ensemble"]["total_return"], abs=1e-6)
    assert found["selection"]["idle"] == 3
    assert "The agents trade 0 of 3 folds" in result.text
    assert "Who trades" in (tmp_path / "wf" / "report.html").read_text()
    assert len(result.folds) == 6
    for fold, row in enumerate(found["ship"]["folds"]):
        ship = decided(load_fold(tmp_path / "wf", fold, market=market)).ship
        assert (ship.t, ship.share) == (row["t"], 0.0), "what was decided for the fold, not for one of its agents"
