"""The orders of the last bar are those that the backtest decides there once later bars are known."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from tiny_run import command

from jaxppo.backtest import load_run, simulate
from jaxppo.deploy import Positions, next_orders, read_positions
from jaxppo.deploy.decision import Decision
from jaxppo.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def result(folder):
    return simulate(load_run(folder))


def until(folder, bar, tmp_path):
    """The price file up to a bar."""
    frame = pd.read_csv(folder.parent / "prices.csv")
    last = sorted(frame["date"].unique())[bar]
    path = tmp_path / "until.csv"
    frame[frame["date"] <= last].to_csv(path, index=False)
    return path


@pytest.mark.parametrize("after", [1, *(pytest.param(after, marks=pytest.mark.slow) for after in (2, 30))])
def test_they_are_those_of_the_backtest(folder, result, after, tmp_path):
    bar = result.first + after
    decision = next_orders(folder, data=until(folder, bar, tmp_path))
    ledger = result.ledger
    np.testing.assert_allclose(decision.values["ordered"], ledger.ordered[after], rtol=1e-5, atol=1e-3)
    assert decision.equity == pytest.approx(float(ledger.equity[after]), rel=1e-6)
    assert decision.time[:10] == str(result.market.info.timestamps[bar])[:10]


@pytest.mark.slow
def test_the_last_bar_of_the_runs_own_prices_takes_a_decision(folder, result):
    decision = next_orders(folder)
    assert decision.equity == pytest.approx(float(result.ledger.equity[-1]), rel=1e-6)
    assert decision.time[:10] == str(result.market.info.timestamps[-1])[:10]


def test_prices_that_the_run_has_learned_from_are_refused(folder, result, tmp_path):
    with pytest.raises(ConfigError, match="trained and selected"):
        next_orders(folder, data=until(folder, result.first - 30, tmp_path))


def test_orders_lead_from_the_real_positions_to_the_target(folder):
    held = Positions({"BBB": -200.0, "AAA": 1000.0}, 3e5)
    decision = next_orders(folder, positions=held)
    table = decision.table.set_index("symbol")
    equity = 3e5 + (decision.price * np.asarray([1000.0, -200.0])).sum()
    assert decision.equity == pytest.approx(equity, rel=1e-6)
    assert table["position"].to_dict() == {"AAA": 1000.0, "BBB": -200.0}
    signed = table["quantity"] * table["side"].map({"buy": 1, "sell": -1, "": 0})
    after = (table["position"] + signed) * table["price"] / equity
    np.testing.assert_allclose(after, table["target"], atol=2 * float(decision.price.max()) / equity)
    assert np.all(table["quantity"] == table["quantity"].round())
    assert (table["cost"][table["quantity"] > 0] > 0).all()


def test_targets_are_those_that_the_leverage_limit_leaves(folder):
    """Whoever holds more than that sells, and the table says what the order leads to."""
    held = Positions({"AAA": 1000.0, "BBB": 1000.0}, 1e5)
    table = next_orders(folder, positions=held, overrides=("--costs.max_leverage", "0.1", "--masks", "[]")).table
    scaled = table[table["reasons"].str.contains("scaled to the leverage limit")]
    assert len(scaled)
    assert scaled["target"].abs().sum() == pytest.approx(0.1, abs=1e-5)
    sells = table["side"] == "sell"
    assert sells.any()
    assert (table["target"] < table["weight"])[sells].all()


def test_what_sizing_did_is_said_in_words():
    named = Decision("", ("AAA",), np.ones(1), np.zeros(1), {}, sizing=("kelly", "base"))
    no, differs = np.zeros(1, bool), {"decided": np.zeros(1), "sized": np.ones(1), "bound": np.zeros((0, 1), bool)}
    values = differs | {"tradable": ~no, "levered": no, "cut": no, "liquidated": no[0], "stopped": no[0]}
    assert dataclasses.replace(named, values=values).reasons(0) == ["the base with the agent's tilt", "sized by kelly"]


def test_the_script_writes_what_it_shows(folder, tmp_path, capsys):
    positions = tmp_path / "positions.csv"
    positions.write_text("symbol,quantity\nAAA,500\nCASH,250000\n")
    options = ("--positions", positions, "--orders", tmp_path / "orders.csv")
    assert command("trade", "--run", folder, *options) == 0
    shown = capsys.readouterr().out
    orders = pd.read_csv(tmp_path / "orders.csv")
    assert list(orders.columns[:3]) == ["symbol", "side", "quantity"]
    assert all(symbol in shown for symbol in orders["symbol"])
    assert command("trade", "--run", folder, "--cash", "1e6", "--orders", tmp_path / "all.json") == 0
    content = json.loads((tmp_path / "all.json").read_text())
    assert [row["symbol"] for row in content["assets"]] == ["AAA", "BBB"]
    assert content["equity"] == pytest.approx(1e6)


@pytest.mark.slow
def test_lots_and_least_amounts_are_those_of_each_symbol(folder, tmp_path):
    """Of the orders that the script writes as well: multiples of the lot, none below the least amount."""
    held = tmp_path / "positions.csv"
    held.write_text("symbol,quantity\nAAA,30000\nBBB,-8000\nCASH,-600000\n")
    lots = {"AAA": 7.0, "BBB": 250.0}
    plain = ("--run", folder, "--positions", held, "--orders", tmp_path / "orders.csv", "--costs.lot_size", str(lots))
    assert command("trade", *plain) == 0
    orders = pd.read_csv(tmp_path / "orders.csv").set_index("symbol")
    assert len(orders) == 2
    assert all(quantity % lots[symbol] == 0 for symbol, quantity in orders["quantity"].items())
    least = f"{{AAA: {2 * orders['notional']['AAA']}, BBB: {orders['notional']['BBB'] / 2}}}"
    assert command("trade", *plain, "--costs.minimum_notional", least) == 0
    assert list(pd.read_csv(tmp_path / "orders.csv")["symbol"]) == ["BBB"]


FILES = {
    "no such file": (None, "cannot be read"),
    "no column": ("symbol,n\nAAA,1\n", "no column quantity"),
    "no cash": ("symbol,quantity\nAAA,1\n", "no line CASH"),
    "twice": ("symbol,quantity\nAAA,1\nAAA,2\nCASH,1\n", "there twice"),
    "no number": ("symbol,quantity\nAAA,many\nCASH,1\n", "'many'"),
    "not finite": ("symbol,quantity\nAAA,inf\nCASH,1\n", "no usable number"),
    "another asset": ("symbol,quantity\nZZZ,1\nCASH,1e5\n", "ZZZ is none of AAA, BBB"),
    "nothing left": ("symbol,quantity\nAAA,1\nCASH,-1e6\n", "nothing is left"),
}


@pytest.mark.parametrize(("content", "said"), FILES.values(), ids=FILES)
def test_positions_that_cannot_be_are_refused_in_one_line(folder, tmp_path, capsys, content, said):
    path = tmp_path / "positions.csv"
    if content is not None:
        path.write_text(content)
    assert command("trade", "--run", folder, "--positions", path, "--orders", tmp_path / "orders.csv") == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "orders.csv").exists()


@pytest.mark.parametrize(
    ("option", "value"), [("--cash", "much"), ("--cash", "nan"), ("--peak", "-1"), ("--peak", "5")]
)
def test_amounts_that_cannot_be_are_refused(folder, capsys, option, value):
    assert command("trade", "--run", folder, option, value) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_cash_alone_and_a_line_of_cash_are_one(tmp_path):
    path = tmp_path / "positions.csv"
    path.write_text("Symbol, Quantity\nAAA, 5\ncash, 100\n")
    assert read_positions(path) == Positions({"AAA": 5.0}, 100.0)
    assert read_positions(path, cash=7.0).cash == 7.0
    with pytest.raises(DataError):
        read_positions(tmp_path)
