"""Books in runs: training, checkpoint and evaluation with one; trained agents as strategies of another."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny_run import tiny_config, write_config, write_prices

import jaxppo
from jaxppo.backtest import load_run, run_book
from jaxppo.backtest.account import AccountRules
from jaxppo.backtest.simulate import simulate_account
from jaxppo.book import AllocationRule
from jaxppo.envs import load_market
from jaxppo.envs.execution.portfolio import weights_of
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy.rules import buy_and_hold
from jaxppo.run.build import build

pytestmark = pytest.mark.slow

ALONE = AllocationRule(parts=(), cut=1.0, readmit=0.0, cooldown=None)
LONG_ONLY = {"lookback": 30, "short": False}
BOOK = {
    "strategies": ["agent", {"trend": LONG_ONLY}, "buy_and_hold"],
    "warmup": 10,
    "parts": ["inverse_risk", "drawdown"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def agent(folder):
    """A run under a mask and without a book."""
    config = jaxppo.load_config(write_config(folder, masks=[{"risk_budget": {"gross": 0.9}}]))
    return load_run(jaxppo.train(config, output=folder / "other").folder)


@pytest.fixture(scope="module")
def booked(folder):
    """A run that trains as one of three strategies."""
    config = jaxppo.load_config(write_config(folder, sizing=[{"book": BOOK}]))
    return jaxppo.train(config, output=folder / "booked")


def test_a_run_with_a_book_trains_saves_and_repeats_its_evaluation(booked):
    summary = json.loads((booked.folder / "summary.json").read_text(encoding="utf-8"))["out_of_sample"]
    assert np.isfinite([summary[name] for name in ("total_return", "max_drawdown", "turnover")]).all()
    assert summary["turnover"] > 0
    again = jaxppo.backtest.run(booked.folder)
    assert again["total_return"] == summary["total_return"]
    rows = [json.loads(line) for line in (booked.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(np.isfinite(row["reward"]) for row in rows)


def test_the_book_is_what_trades(booked):
    """The account has the positions of its strategies by the allocation that they had at the close before."""
    run = load_run(booked.folder)
    setup, where = run.setup, run.setup.periods["test"]
    first, n_bars = jnp.int32(where.first), where.n_bars

    @jax.jit
    def follow(net, params):
        def record(state):
            book = state.account.sizing
            return book.allocation.allocation, jax.vmap(weights_of)(book.paper_accounts.portfolio)

        agent = run.agent()._replace(params=net)
        return simulate_account(agent, AccountRules(setup.env, 252.0), params, first, n_bars, record)

    ledger = follow(run.params, setup.params)
    allocation, own = (np.asarray(x) for x in ledger.recorded)
    assert (np.count_nonzero(allocation, axis=1) == 3).any()
    mixed = np.einsum("nm,nma->na", allocation[:-1], own[1:])
    assert np.abs(mixed).max() > 0.1
    np.testing.assert_allclose(ledger.weights[:-1], mixed, atol=0.02)


@pytest.mark.slow
def test_a_trained_agent_in_a_book_is_itself(agent):
    setup, where = agent.setup, agent.setup.periods["test"]
    first = setup.env.first_decision + 3
    n_bars = where.last - first
    expected = tiny.run_agent(
        agent.network, setup.env, agent.params, setup.params, jnp.int32(first), n_bars,
        setup.config.evaluation.decision,
    )  # fmt: skip
    free = jaxppo.load_config(agent.folder / "config.yaml", ["--masks", "[]"])
    env = build(free, setup.market).env
    run = run_book([agent.strategy(), buy_and_hold()], env, setup.params.replace(masks=()), first, n_bars, ALONE)
    np.testing.assert_allclose(run.equity[:, 0], expected.equity[:-1], rtol=1e-5)
    assert np.abs(expected.quantity).sum() > 0
    alone = run_book([agent.strategy("x")], env, setup.params.replace(masks=()), first, n_bars, ALONE)
    np.testing.assert_allclose(alone.ledger.equity, expected.equity, rtol=1e-5)
    assert alone.names == ("x",)


def test_a_trained_agent_is_flat_until_it_can_decide(agent):
    setup = agent.setup
    strategy = agent.strategy()
    rows = strategy.table(strategy.params, MarketView(setup.market, 252.0, setup.env.position_limit))
    assert rows.encoded.shape[0] == setup.market.n_bars
    run = run_book([strategy], setup.env, setup.params, 0, setup.env.first_decision + 30, ALONE)
    early = setup.env.first_decision
    assert not run.ledger.quantity[:early].any()
    assert run.ledger.quantity[early:].any()


def test_an_agent_may_not_be_tested_where_it_learned(agent, folder):
    """Its own test period begins where the other run's begins; one that begins earlier is refused."""
    item = {"book": {"strategies": ["agent", {"run": str(agent.folder)}], "warmup": 10}}
    config = jaxppo.load_config(write_config(folder, sizing=[item]))
    market = load_market(folder / "prices.csv")
    setup = build(config, market)
    assert len(setup.params.sizing[0].strategies) == 2
    earlier = jaxppo.load_config(write_config(folder, sizing=[item], data={"train": 0.4, "validation": 0.1}))
    with pytest.raises(jaxppo.ConfigError, match=r"sizing\[0\]\.book\.strategies\[1\]\.run .*test period"):
        build(earlier, market)


@pytest.mark.parametrize(
    ("strategies", "says"),
    [
        (["buy_and_hold"], r"sizing\[0\]\.book: strategies leaves out agent"),
        (["agent", {"run": "nowhere"}], r"sizing\[0\]\.book: strategies\[1\]\.run: nowhere: not a run folder"),
        (
            ["agent", "trend", "trend"],
            r"sizing\[0\]\.book: strategies need different names; the book has agent, trend, trend",
        ),
        (
            ["agent", {"mean_reversion": {"entry": 0.2}}],
            r"mean_reversion: .*less than entry, which is 0.2",
        ),
    ],
)
def test_a_mistake_is_a_line(strategies, says, tmp_path):
    write_prices(tmp_path / "prices.csv")
    config = tiny_config(sizing=[{"book": {"strategies": strategies}}])
    with pytest.raises(jaxppo.ConfigError, match=says):
        build(config, load_market(tmp_path / "prices.csv"))


def test_the_state_of_a_book_is_a_state_of_arrays(booked):
    """Nothing in it compiles twice."""
    state = load_run(booked.folder).setup.env.sizing_start()
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
