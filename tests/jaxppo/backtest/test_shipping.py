"""The gate of a single run: what the validation says decides who trades the test."""

import json

import numpy as np
import pytest
from tiny_run import STEPS_PER_ITERATION, command, write_config, write_prices

from jaxppo import backtest
from jaxppo.backtest import evaluation
from jaxppo.backtest.shipping import Ship, ship_of
from jaxppo.errors import ConfigError
from jaxppo.policy import rules
from jaxppo.statistics.evidence import mean_t_statistic

GATE = {"ship": "base_unless", "ship_t": 20.0}
"""No luck opens it."""


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("closed")
    config = write_config(folder, training={"steps": 2 * STEPS_PER_ITERATION}, evaluation=GATE)
    assert command("train", "--config", config, "--output", folder / "run") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def saved(closed):
    return backtest.load_run(closed)


def test_a_closed_gate_is_the_base_and_the_agent_stands_beside_it(closed, saved):
    summary = json.loads((closed / "summary.json").read_text())["out_of_sample"]
    ungated = evaluation.trade(saved.setup, evaluation.agent_of(saved.setup, saved.network, saved.params), "test")
    assert summary["ship"]["traded"] == "base"
    assert (summary["ship"]["share"], summary["total_return"], summary["trades"]) == (0.0, 0.0, 0)
    earned = summary["baseline"]["ungated"]["total_return"]
    assert earned == pytest.approx(float(ungated.equity[-1] / ungated.equity[0]) - 1.0, abs=1e-6)
    assert earned != 0.0
    assert summary["notes"][0].startswith("The base is traded in place of the agent: the t-statistic")
    assert summary["notes"][0] in backtest.describe(summary)
    assert "The base is traded in place of the agent" in (closed / "report.html").read_text()
    result = evaluation.evaluate(saved.setup, saved.network, saved.params)
    flat = evaluation.trade(saved.setup, rules.flat(), "test")
    np.testing.assert_array_equal(result.ledgers["agent"].equity, np.asarray(flat.equity))


def test_the_evidence_is_that_of_the_validation_alone(saved):
    setup = saved.setup
    returns = evaluation.trade(setup, evaluation.agent_of(setup, saved.network, saved.params), "validation").returns
    ship = ship_of(setup, saved.network, saved.params)
    assert ship.t == pytest.approx(mean_t_statistic(returns - (returns - returns.mean()) ** 2 / 2))
    assert ship.share == 0.0


def test_an_open_gate_is_the_agent_and_shrinking_is_a_part_of_it(saved):
    setup, policy = saved.setup, evaluation.agent_of(saved.setup, saved.network, saved.params)
    alone = evaluation.trade(setup, policy, "test")
    whole = evaluation.evaluate(setup, saved.network, saved.params, ship=Ship(3.0, 1.0))
    np.testing.assert_array_equal(whole.ledgers["agent"].equity, np.asarray(alone.equity))
    assert "ungated" not in whole.ledgers
    assert whole.summary["ship"] == {"t": 3.0, "share": 1.0, "traded": "agent"}
    part = evaluation.evaluate(setup, saved.network, saved.params, ship=Ship(2.0, 0.75))
    gross = [np.abs(one.ledgers["agent"].weights).sum(axis=1).mean() for one in (part, whole)]
    assert gross[0] == pytest.approx(0.75 * gross[1], rel=0.05)
    assert "trades with 75% of its difference" in part.summary["notes"][0]


def test_other_prices_are_gated_by_what_the_run_has_recorded(closed, tmp_path):
    other = write_prices(tmp_path / "other.csv", symbols=("CCC", "DDD"), seed=3)
    found = backtest.run(closed, data=other)
    assert found["ship"] == json.loads((closed / "summary.json").read_text())["out_of_sample"]["ship"]
    assert found["total_return"] == 0.0


def test_mistakes_are_one_line(closed, tmp_path, capsys):
    config = write_config(tmp_path)
    cases = [
        ("train", ["--evaluation.ship", "never"], 'evaluation.ship is "never"; allowed: one of always, base_unless'),
        ("train", ["--evaluation.ship_t", "-1"], "evaluation.ship_t is -1; allowed: number in [0"),
        ("train", ["--evaluation.shrink", "true"], "evaluation.shrink is true, which only evaluation.ship base_unless"),
        (
            "walk_forward",
            ["--evaluation.ship", "base_unless", "--walk_forward.kind", "combinatorial"],
            "evaluation.ship is base_unless, which weighs what came before a test",
        ),
    ]
    for script, options, said in cases:
        capsys.readouterr()
        code = command(script, "--config", config, "--output", tmp_path / "out", *options)
        error = capsys.readouterr().err
        assert (code, error.count("\n"), error[:7]) == (2, 1, "error: ")
        assert said in error


def test_a_run_that_recorded_nothing_is_not_gated_on_other_prices(closed, tmp_path):
    summary = json.loads((closed / "summary.json").read_text())
    other = write_prices(tmp_path / "other.csv", symbols=("CCC", "DDD"), seed=3)
    kept = (closed / "summary.json").read_text()
    del summary["out_of_sample"]["ship"]
    (closed / "summary.json").write_text(json.dumps(summary))
    try:
        with pytest.raises(ConfigError, match="does not say what the evidence was"):
            backtest.run(closed, data=other)
    finally:
        (closed / "summary.json").write_text(kept)
