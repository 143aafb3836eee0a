"""Drift of a run: nothing after its training is in the reference, live bars are counted as training counts them."""

import dataclasses
import json
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from cheap_policy import CASH, RealBroker

from jaxppo.backtest import load_run
from jaxppo.deploy import Fill, Positions, Trader, live_policy, next_orders
from jaxppo.deploy.brokers import Status
from jaxppo.deploy.drift.of_run import history_of, recent_drift, training_reference
from jaxppo.envs.execution.bars import unpack_bar
from jaxppo.envs.execution.costs import trade_costs
from jaxppo.errors import ConfigError, DataError
from jaxppo.run.build import build
from jaxppo.run.periods import Period

FED = 160


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def setup(folder):
    return load_run(folder).setup


@pytest.fixture(scope="module")
def policy(folder):
    return live_policy(folder)


@pytest.fixture(autouse=True)
def fresh(policy):
    policy.reset()


def fed(policy, records):
    return [policy.step(record) for record in records]


def test_the_reference_is_of_training_alone(setup):
    reference, last = training_reference(setup), setup.periods["train"].last
    assert reference.features == setup.env.features.names
    assert reference.n_bars == setup.periods["train"].n_bars
    market = setup.market
    later = np.arange(market.n_bars)[:, None] > last
    moved = {name: jnp.where(later, 3.0 * getattr(market, name), getattr(market, name)) for name in PRICES}
    other = build(setup.config, market.replace(**moved, volume=jnp.where(later, 1.0, market.volume)))
    assert not np.array_equal(np.asarray(other.params.features), np.asarray(setup.params.features), equal_nan=True)
    assert training_reference(other).as_dict() == reference.as_dict()


PRICES = ("open", "high", "low", "close", "half_spread")


def test_the_modelled_cost_is_that_of_the_accounting_function(setup):
    period, costs = setup.periods["train"], setup.params.costs
    found = []
    for bar in range(period.first, period.last):
        row = unpack_bar(setup.params.table[bar])
        found.append(trade_costs(1e5 / row.open, row.open, row, costs).total() / 1e5)
    assert float(setup.params.initial_cash) == 1e6
    np.testing.assert_allclose(training_reference(setup).cost, np.mean(found, axis=0), rtol=1e-4)


def test_live_bars_are_counted_as_those_of_the_table(policy, setup, records):
    fed(policy, records[:FED])
    live = policy.drift
    window = live.window
    history = history_of(setup, Period(FED - window, FED))
    assert live.bars == window
    values = live.table[live.table["figure"] == "stability"]["value"].to_numpy()
    recent = recent_drift(setup, policy._reference, FED - 1)
    np.testing.assert_allclose(
        values, recent.table[recent.table["figure"] == "stability"]["value"].to_numpy(), rtol=1e-6
    )
    spread = live.table[live.table["figure"] == "spread"]["live"].to_numpy()
    np.testing.assert_allclose(spread, history.half_spread.mean(axis=0), rtol=1e-5)
    volatility = live.table[live.table["figure"] == "volatility"]["live"].to_numpy()
    np.testing.assert_allclose(volatility, np.sqrt(history.squared_return.mean(axis=0)), rtol=1e-4)


@pytest.mark.slow
def test_a_market_that_turns_wild_is_told_when_it_begins(policy, records):
    quiet = [note for decision in fed(policy, records[:FED]) for note in decision.notes]
    wild = []
    for number, record in enumerate(records[FED : FED + 30]):
        record = json.loads(json.dumps(record))
        for bar in record["bars"].values():
            for name in ("open", "high", "low", "close"):
                bar[name] *= np.exp(0.06 * (number % 2))
        wild.append([note for note in policy.step(record).notes if note.startswith("drift")])
    said = [note for notes in wild for note in notes]
    assert any("volatility" in note for note in said)
    assert len(said) == len({tuple(note.split()[:4]) for note in said})  # each once
    assert not any("volatility" in note for note in quiet)
    assert set(policy.drift.table["figure"]) == {"stability", "spread", "volatility", "cost"}


def test_a_feature_that_is_no_longer_what_it_was_is_told_by_its_name(policy, records):
    said = []
    for record in records[:FED]:
        record = json.loads(json.dumps(record))
        for bar in record["bars"].values():
            bar["high"] = max(bar["open"], bar["close"]) * 1.05
        said += [note for note in policy.step(record).notes if note.startswith("drift of feature")]
    assert any("close_location" in note for note in said), policy.drift.table.to_string()
    assert not any("staleness" in note for note in said)


def test_wide_quotes_are_a_drift_of_spreads(policy, records, setup):
    modelled = np.asarray(setup.market.half_spread).mean()
    for record in records[:FED]:
        record = json.loads(json.dumps(record))
        for bar in record["bars"].values():
            bar |= {"bid": bar["close"] * (1 - 3 * modelled), "ask": bar["close"] * (1 + 3 * modelled)}
        policy.step(record)
    assert sum("half-spread" in alarm for alarm in policy.drift.alarms) == 2


def test_costs_of_fills_are_compared_with_the_accounting_function(policy, records, setup):
    table, costs = setup.params.table, setup.params.costs
    realised, modelled = [], []
    for bar, record in enumerate(records[:FED]):
        price = record["bars"]["AAA"]["open"]
        fills = [Fill("AAA", 500.0, price * 1.002, 3.0)] if bar >= 100 else []
        decision = policy.step(record, fills=fills)
        if fills:
            row = unpack_bar(table[bar])
            charged = trade_costs(jnp.asarray([500.0, 0.0]), row.open, row, costs).total()
            realised.append(0.002 + 3.0 / (500.0 * price))
            modelled.append(float(charged[0]) / (500.0 * price))
    drift = policy.drift
    row = drift.table[drift.table["figure"] == "cost"].iloc[0]
    assert drift.fills == FED - 100
    assert row["live"] == pytest.approx(np.mean(realised), rel=1e-5)
    assert row["training"] == pytest.approx(np.mean(modelled), rel=1e-3)
    assert row["alarm"]
    assert any("fills cost" in alarm for alarm in drift.alarms)
    assert decision.status == "decided"
    with pytest.raises(DataError, match="ZZZ is none of AAA, BBB"):
        policy.step(records[FED], fills=[Fill("ZZZ", 1.0, 1.0)])


class Account(RealBroker):
    """Fills every order at the open of the next bar, and a fraction beyond it."""

    def __init__(self, worse):
        super().__init__()
        self.worse, self.opens, self.cash = worse, {}, CASH

    def positions(self):
        return Positions(dict(self.shares), self.cash)

    def submit(self, order):
        price = self.opens[order.symbol] * (1 + self.worse * np.sign(order.quantity))
        self.shares[order.symbol] += order.quantity
        self.cash -= order.quantity * price
        self.known[order.client_id] = Status("filled", order.quantity, price=price)
        return self.known[order.client_id]


@pytest.mark.parametrize(("worse", "alarms"), [(0.0, 0), (0.005, 1)])
def test_a_broker_that_fills_badly_moves_realised_against_modelled_costs(policy, records, tmp_path, worse, alarms):
    broker = Account(worse)
    trader = Trader(policy, tmp_path, broker, send=True)
    for record, later in pairwise(records[:FED]):
        broker.opens = {symbol: bar["open"] for symbol, bar in later["bars"].items()}
        trader.take(record)
    trader.close()
    row = policy.drift.table.set_index("figure").loc["cost"]
    assert policy.drift.fills > 20
    assert row["live"] == pytest.approx(worse, rel=1e-5, abs=1e-7)  # opens are float32 in the market
    assert 0 < row["training"] < 0.005
    assert sum("fills cost" in alarm for alarm in policy.drift.alarms) == alarms


@pytest.mark.slow
def test_a_restart_changes_no_figure(policy, records, tmp_path):
    fed(policy, records[:120])
    policy.save(tmp_path / "state")
    later = [decision.notes for decision in fed(policy, records[120:150])]
    drift = policy.drift.as_dict()
    policy.reset()
    assert policy.drift.bars == 0
    policy.restore(tmp_path / "state")
    assert [decision.notes for decision in fed(policy, records[120:150])] == later
    assert policy.drift.as_dict() == drift


def test_without_a_reference_there_is_no_drift(policy, monkeypatch, records):
    monkeypatch.setattr(policy, "_reference", None)
    policy.reset()
    assert policy.step(records[0]).status == "warming up"
    with pytest.raises(ConfigError, match="drift is not measured"):
        _ = policy.drift


def test_other_prices_have_no_reference(setup):
    with pytest.raises(ConfigError, match="no training period"):
        training_reference(dataclasses.replace(setup, periods={"test": setup.periods["test"]}))


@pytest.mark.slow
def test_the_orders_of_the_morning_tell_of_drift(folder, tmp_path):
    frame = (folder.parent / "prices.csv").read_text().splitlines()
    names = frame[0].split(",")
    dates = sorted({line.split(",")[names.index("date")] for line in frame[1:]})
    late = {date: number for number, date in enumerate(dates[-40:])}
    lines = [frame[0]]
    for line in frame[1:]:
        cells = line.split(",")
        turn = late.get(cells[names.index("date")])
        for name in ("open", "high", "low", "close"):
            place = names.index(name)
            cells[place] = repr(float(cells[place]) * float(np.exp(0.06 * ((turn or 0) % 2))))
        lines.append(",".join(cells))
    path = tmp_path / "wild.csv"
    path.write_text("\n".join(lines) + "\n")
    assert any(note.startswith("drift of") for note in next_orders(folder, data=path).notes)
    assert not any("volatility" in note for note in next_orders(folder).notes)
