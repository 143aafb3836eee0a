"""Paper trading of a run is its backtest, also from the command line and after a restart."""

import json
import os
import shutil
import signal
import threading
import time

import numpy as np
import pandas as pd
import pytest
from cheap_policy import RealBroker, hostile_records
from tiny_run import command, prices

from jaxppo.backtest import load_run, simulate
from jaxppo.deploy import Positions, Trader, export_run, load_policy
from jaxppo.errors import ConfigError

N_DECISIONS = 60


@pytest.fixture(scope="module")
def shipped(finished, tmp_path_factory):
    """The finished run, its export, and a file of the same prices in order of time."""
    folder = tmp_path_factory.mktemp("shipped")
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    export_run(folder / "run", folder / "policy")
    return folder


def backtest(shipped):
    """The backtest of the first decisions that there can be, and the number of the bar of the first."""
    run = load_run(shipped / "run")
    first = run.setup.env.first_decision
    return simulate(run, first=first, n_bars=N_DECISIONS), first


def feed(shipped, n_bars):
    frame = prices().sort_values("date", kind="stable")
    path = shipped / f"first-{n_bars}.csv"
    frame[frame["date"].isin(sorted(frame["date"].unique())[:n_bars])].to_csv(path, index=False)
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_paper_trading_is_the_backtest(shipped):
    result, first = backtest(shipped)
    folder = shipped / "paper"
    for n_bars in (first + 20, first + N_DECISIONS + 1):  # a restart in between
        arguments = ("--follow", "--paper", "--replay", "--stop-at-end", "--output", folder)
        assert command("trade", "--policy", shipped / "policy", "--data", feed(shipped, n_bars), *arguments) == 0
    bars = [line for line in lines(folder / "orders.jsonl") if line["kind"] == "bar" and line["status"] == "decided"]
    equity = np.asarray([bar["equity"] for bar in bars])
    np.testing.assert_allclose(equity, result.equity.to_numpy()[: len(equity), 0], rtol=1e-6)
    assert len(equity) == N_DECISIONS + 1
    traded = pd.DataFrame(
        [(bar["time"], symbol, shares) for bar in bars for symbol, shares in sorted(bar["fills"].items())]
    )
    quantity = result.trades["filled"].to_numpy()
    largest = max(abs(shares) for bar in bars for shares in bar["shares"].values())
    np.testing.assert_allclose(traded[2].to_numpy(), quantity, rtol=1e-5, atol=1e-6 * largest)  # float32 positions
    orders = {(o["symbol"], o["time"]): o["quantity"] for o in lines(folder / "paper.jsonl") if o["kind"] == "order"}
    filled = {(row[1], bars[place - 1]["time"]): row[2] for place, bar in enumerate(bars) if place
              for row in [(bar["time"], symbol, shares) for symbol, shares in bar["fills"].items()]}  # fmt: skip
    assert filled.keys() <= orders.keys()
    np.testing.assert_allclose([orders[key] for key in filled], list(filled.values()), rtol=1e-5)
    assert "<svg" in (folder / "page.html").read_text()


def signalled(log, number):
    """Sends a signal to this process once a trader has decided."""

    def wait():
        for _ in range(600):
            time.sleep(0.1)
            if log.exists() and log.read_text().count('"decided"') > 3:
                break
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_ends_in_one_line(shipped, tmp_path, number, code, capsys, request):
    path = feed(shipped, backtest(shipped)[1] + 10)
    before = signal.signal(number, signal.SIG_DFL)  # a shell has a job in the background ignore SIGINT
    request.addfinalizer(lambda: signal.signal(number, before))
    signalled(tmp_path / "account" / "orders.jsonl", number)
    arguments = ("--follow", "--paper", "--replay", "--output", tmp_path / "account", "--serve", 0)
    assert command("trade", "--policy", shipped / "policy", "--feed", path, *arguments) == code
    printed = capsys.readouterr()
    assert printed.err == "interrupted; what was decided is saved\n"
    assert printed.out.startswith("page: http://127.0.0.1:")


def test_old_bars_order_nothing_and_the_account_opens_at_the_first_that_may_be_traded_on(shipped, tmp_path):
    path = feed(shipped, backtest(shipped)[1] + 10)
    arguments = ("--follow", "--paper", "--stop-at-end", "--output", tmp_path / "account")
    assert command("trade", "--policy", shipped / "policy", "--feed", path, *arguments) == 0
    entries = lines(tmp_path / "account" / "orders.jsonl")
    assert {entry["status"] for entry in entries if entry["kind"] == "bar"} <= {"warming up", "stale"}
    assert all(not entry["orders"] and not entry["fills"] for entry in entries if entry["kind"] == "bar")
    policy = load_policy(shipped / "policy")
    frame = pd.read_csv(path)
    *old, last = [
        {"time": date, "bars": part.set_index("symbol").to_dict("index")} for date, part in frame.groupby("date")
    ]
    end = pd.Timestamp(last["time"], tz="UTC").timestamp() + 86_400
    account = Positions({"AAA": 1e6}, 1e6)
    assert {policy.step(record, account, now=end + 1e7).status for record in old} == {"warming up", "stale"}
    decision = policy.step(last, Positions({}, 5_000.0), now=end)
    assert (decision.status, decision.equity) == ("decided", 5_000.0)
    assert not decision.values["stopped"]
    assert not decision.values["filled"].any()


MISTAKES = {
    "--run or --policy is required": ("--follow",),
    "--follow needs --output": ("--policy", "p", "--follow"),
    "--follow needs --feed or --data": ("--policy", "p", "--follow", "--output", "o"),
    "--live needs --broker": ("--policy", "p", "--follow", "--output", "o", "--feed", "-", "--live"),
    "--paper has a broker of its own": (
        "--policy", "p", "--follow", "--output", "o", "--feed", "-", "--paper", "--broker", "alpaca",
    ),
    "--replay takes old bars": (
        "--policy", "p", "--follow", "--output", "o", "--feed", "-", "--live", "--broker", "alpaca", "--replay",
    ),
    "--costs.lot_size: keys are fixed": (
        "--policy", "p", "--follow", "--output", "o", "--feed", "-", "--costs.lot_size", "1",
    ),
    "--positions is for the orders of one morning": (
        "--policy", "p", "--follow", "--output", "o", "--feed", "-", "--positions", "x.csv",
    ),
    "--paper needs --follow": ("--run", "r", "--paper"),
    "--policy needs --follow": ("--policy", "p"),
    "--serve is 'x'": ("--policy", "p", "--follow", "--output", "o", "--feed", "-", "--serve", "x"),
    "--quiet is '-1'": ("--policy", "p", "--follow", "--output", "o", "--feed", "-", "--quiet=-1"),
    "--kill needs --output": ("--kill",),
    "no such folder": ("--kill", "--output", "none"),
    "no exported policy is there": ("--policy", "p", "--follow", "--output", "o", "--feed", "-"),
}  # fmt: skip


@pytest.mark.parametrize("says", MISTAKES)
def test_a_mistake_is_one_line(says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command("trade", *MISTAKES[says]) == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert printed.count("\n") == 1


def test_a_broker_that_there_is_not_is_a_mistake(shipped, tmp_path, capsys, monkeypatch):
    for variable in ("APCA_API_KEY_ID", "JAXPPO_CCXT_KEY"):
        monkeypatch.delenv(variable, raising=False)
    for name in ("etrade", "ccxt:", "ccxt:nosuch", "alpaca"):
        arguments = ("--follow", "--output", tmp_path, "--feed", "-", "--broker", name)
        assert command("trade", "--policy", shipped / "policy", *arguments) == 2
        assert "--broker" in capsys.readouterr().err


def test_bars_of_a_source_are_a_feed_that_goes_on_after_the_last_bar(shipped, tmp_path, capsys, monkeypatch):
    """Daily ones, from the command line; the source ends the feed at its second question."""
    frame, first = prices(), backtest(shipped)[1]
    bars = {
        int(pd.Timestamp(date, tz="UTC").timestamp()) + 5 * 3600: part.set_index("symbol").to_dict("index")
        for date, part in frame.groupby("date")
    }

    class Source:
        name = "market"

        def __init__(self, n_bars):
            self.there, self.asked = dict(sorted(bars.items())[:n_bars]), 0

        def bars(self, start, end):
            self.asked += 1
            if self.asked > 1:
                raise ConfigError("market: has closed")
            return {time: of_time for time, of_time in self.there.items() if time >= start}

        def span(self, n_bars):
            return 1e9

    times = []
    for n_bars in (first + 10, first + 20):
        monkeypatch.setattr("jaxppo.deploy.bars.named.named_source", lambda name, rules, n=n_bars: Source(n))
        monkeypatch.setattr("jaxppo.deploy.bars.polled.LONGEST_WAIT", 0.1)
        arguments = ("--follow", "--paper", "--replay", "--output", tmp_path / "account", "--feed", "ccxt:market")
        assert command("trade", "--policy", shipped / "policy", *arguments) == 2
        printed = capsys.readouterr()
        assert printed.err == "error: market: has closed\n"
        times += [line.split()[0] for line in printed.out.splitlines() if " decided " in line]
    assert times == [f"{date}T00:00:00" for date in sorted(frame["date"].unique())[first : first + 20]]


def test_the_kill_switch_of_the_command_line(tmp_path, capsys):
    assert command("trade", "--kill", "--output", tmp_path) == 0
    assert (tmp_path / "KILL").exists()
    assert "is closed" in capsys.readouterr().out


def test_hostile_records_raise_nothing_and_order_nothing(shipped, tmp_path):
    """The policy is warm and its last bar could be traded on: whatever comes after it is refused, or no news."""
    frame = pd.read_csv(feed(shipped, backtest(shipped)[1] + 10))
    good = [{"time": date, "bars": part.set_index("symbol").to_dict("index")} for date, part in frame.groupby("date")]
    end = pd.Timestamp(good[-1]["time"], tz="UTC").timestamp() + 86_400
    broker = RealBroker()
    trader = Trader(load_policy(shipped / "policy"), tmp_path, broker, send=True, now=lambda: end)
    for record in good[:-1]:
        trader.take(record)
    before = len(broker.orders_seen)
    draws = np.random.default_rng(0)
    for record in hostile_records(200, draws, start=end - 86_400):
        trader.take(record)
    trader.close()
    assert trader.refused > 100
    assert len(broker.orders_seen) == before
