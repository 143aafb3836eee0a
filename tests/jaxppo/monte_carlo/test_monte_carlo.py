"""Monte Carlo paths: replays, shards, resumption, devices, figures against independent arithmetic, no look-ahead."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest

from jaxppo import envs
from jaxppo.backtest import plain_conditions, simulate, simulate_streaming
from jaxppo.backtest.account import AccountState
from jaxppo.backtest.frames import account_frame, ledger_frame, write_ledger
from jaxppo.envs import simulators
from jaxppo.envs.execution.bars import BAR_FIELDS
from jaxppo.envs.execution.costs import zero_prices
from jaxppo.envs.execution.portfolio import open_portfolio
from jaxppo.envs.market.periods import periods_per_year
from jaxppo.envs.simulators.generators import stationary_bootstrap
from jaxppo.envs.trading.account import Account, BarRow
from jaxppo.errors import ConfigError
from jaxppo.monte_carlo import Paths, compare, merge, monte_carlo, parts, wilson_interval
from jaxppo.monte_carlo.identity import function_name, identity_of
from jaxppo.monte_carlo.parts import PARTS
from jaxppo.monte_carlo.trade import PreparedMarket, RowLayout, trade
from jaxppo.policy import from_array
from jaxppo.policy import rules as policy_rules
from jaxppo.policy.rules import buy_and_hold, equal_weight, trend, volatility_target
from jaxppo.risk import metrics
from jaxppo.run.lock import owned
from jaxppo.statistics import drawdowns

PAID = {"commission_bps": 2.0, "slippage": 0.05, "impact": 0.6, "participation_limit": 0.1, "borrow_rate": 0.01}
N_PATHS, N_BARS, WARMUP, BATCH_SIZE = 22, 40, 10, 4


def rule(strategy=None, **costs):
    chosen = trend(lookback=5, span=5, volatility=0.8, tolerance=0.0) if strategy is None else strategy
    paid = envs.basic_costs(**{**PAID, **costs})
    return chosen._replace(warmup=WARMUP), plain_conditions(2, periods=252.0, costs=paid)


def ledger_of(policy, conditions, market, **period):
    return simulate(policy, market, conditions=conditions, **period).ledger


@pytest.fixture(scope="module")
def market():
    return simulators.gbm(jax.random.key(0), 150, 2, volatility=0.02)


@pytest.fixture(scope="module")
def generator(market):
    return stationary_bootstrap(market, WARMUP + N_BARS + 1, mean_block=5.0)


@pytest.fixture(scope="module")
def paths(generator):
    given = {"symbols": ("AAA", "BBB"), "devices": jax.devices()[:2]}
    return Paths(*rule(), generator, N_BARS, seed=3, points=5, batch_size=BATCH_SIZE, **given)


@pytest.fixture(scope="module")
def whole(paths):
    return monte_carlo(paths, N_PATHS, progress=False)


def same(one, other):
    """Bit-equality of two tables."""
    left, right = one.table.frame(), other.table.frame()
    assert list(left.columns) == list(right.columns)
    for name in left:
        np.testing.assert_array_equal(left[name].to_numpy(), right[name].to_numpy(), err_msg=name)


@pytest.mark.parametrize("path", [0, 5, N_PATHS - 1])
def test_a_replay_is_what_the_batch_computed(path, paths, whole):
    replay = paths.replay(path)
    assert replay.market.info.symbols == ("AAA", "BBB")
    row = whole.table.frame().loc[path]
    for name, value in replay.figures.items():
        assert value == row[name] or (np.isnan(value) and np.isnan(row[name])), name
    np.testing.assert_array_equal(replay.curve, row[[f"equity_{point}" for point in paths.points]].to_numpy())
    assert replay.ledger.equity[-1] / replay.ledger.equity[0] == pytest.approx(replay.curve[-1], rel=1e-6)


def test_paths_differ_and_follow_the_seed(paths, whole, generator):
    assert whole.table.frame()["total_return"].nunique() == N_PATHS
    other = Paths(*rule(), generator, N_BARS, seed=4, points=5, batch_size=BATCH_SIZE, devices=jax.devices()[:2])
    assert (other.replay(0).market.close != paths.replay(0).market.close).any()


def test_neither_batches_nor_devices_change_a_number(whole, generator):
    one = Paths(*rule(), generator, N_BARS, seed=3, points=5, batch_size=BATCH_SIZE, devices=jax.devices()[:1])
    same(monte_carlo(one, N_PATHS, batch=7, progress=False), whole)


def test_shards_merge_to_the_whole(tmp_path, paths, whole):
    folders = [tmp_path / f"shard-{i}" for i in range(3)]
    for i in (2, 0, 1):
        monte_carlo(paths, N_PATHS, output=folders[i], shard=(i, 3), batch=4, progress=False)
    with pytest.raises(ConfigError, match=r"shards \[0, 2\] were given; all of 0 to 2 are needed"):
        merge([folders[0], folders[2]])
    merged = merge(folders, tmp_path / "merged")
    same(merged, whole)
    assert "shard 1/3" in (folders[1] / "report.html").read_text(encoding="utf-8")
    shard = json.loads((folders[1] / "summary.json").read_text())["worst"]["total_return"]
    own = whole.table.frame()["total_return"].loc[np.concatenate([np.arange(4, 8), np.arange(16, 20)])]
    assert shard == list(own.sort_values().index), "numbers of paths, which replay them"
    numbers = {key: value for key, value in merged.summary.items() if key != "settings"}
    assert numbers == {key: value for key, value in whole.summary.items() if key != "settings"}
    saved = json.loads((tmp_path / "merged" / "summary.json").read_text())
    assert saved["probabilities"] == json.loads(json.dumps(whole.summary["probabilities"]))
    report = (tmp_path / "merged" / "report.html").read_bytes()
    same(merge(folders[::-1], tmp_path / "merged"), whole)
    assert (tmp_path / "merged" / "report.html").read_bytes() == report
    same(merge([tmp_path / "merged"]), whole)
    for batch in (None, 4):
        with pytest.raises(
            ConfigError, match=r"merged holds the merged shards of a finished job; give another --output"
        ):
            monte_carlo(paths, N_PATHS, output=tmp_path / "merged", batch=batch, progress=False)
    (tmp_path / "merged" / PARTS / "part_000099.parquet").write_bytes(b"left over")
    same(merge(folders, tmp_path / "merged"), whole)
    same(merge([tmp_path / "merged"]), whole)
    with owned(tmp_path / "merged"), pytest.raises(ConfigError, match="another process is writing into it"):
        merge(folders, tmp_path / "merged")
    part = next((folders[1] / PARTS).iterdir())
    table = pq.read_table(part)
    changed = table.set_column(
        1, table.column_names[1], table.column(1).combine_chunks().take([1, 0, *range(2, len(table))])
    )
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), part)
    with pytest.raises(ConfigError, match="it was changed after it was written"):
        merge(folders)
    part.unlink()
    with pytest.raises(ConfigError, match=f"of {N_PATHS} paths are there"):
        merge(folders)


def test_an_interrupted_job_goes_on(tmp_path, paths, whole, monkeypatch):
    folder, fetch, calls = tmp_path / "job", paths.fetch, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fetch(*given)

    monkeypatch.setattr(paths, "fetch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        monte_carlo(paths, N_PATHS, output=folder, batch=8, progress=False)
    before = {file.name: file.read_bytes() for file in (folder / PARTS).iterdir()}
    assert list(before)
    assert all(name.endswith(".parquet") for name in before)
    assert not (folder / "summary.json").exists()
    same(monte_carlo(paths, N_PATHS, output=folder, progress=False), whole)
    assert len(calls) == 3 + 1  # the part that was there is not computed again
    assert {name: (folder / PARTS / name).read_bytes() for name in before} == before


def test_the_folder_of_another_job_is_refused(tmp_path, paths, generator):
    monte_carlo(paths, 8, output=tmp_path / "job", progress=False)
    with pytest.raises(ConfigError, match="folder of another job: its n_paths is 8, not 9"):
        monte_carlo(paths, 9, output=tmp_path / "job", progress=False)
    other = Paths(
        *rule(trend(tolerance=0.3)),
        generator,
        N_BARS,
        seed=3,
        points=5,
        batch_size=BATCH_SIZE,
        devices=jax.devices()[:2],
    )
    with pytest.raises(ConfigError, match="folder of another job: its policy_identity is"):
        monte_carlo(other, 8, output=tmp_path / "job", progress=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not the folder of a Monte Carlo job"):
        monte_carlo(paths, 8, output=tmp_path / "full", progress=False)
    with pytest.raises(ValueError, match=r"seed \(4294967296\) from 0 to 4294967295"):
        Paths(*rule(), generator, N_BARS, seed=2**32)
    with pytest.raises(ValueError, match=r"n_paths \(4294967297\) must be from 1 to 4294967296"):
        monte_carlo(paths, 2**32 + 1)
    with pytest.raises(ValueError, match="path is 4294967296; paths are numbered from 0"):
        paths.replay(2**32)
    ahead = policy_rules.rule(
        "ahead", lambda view: jnp.where(jnp.roll(view.market.close, -1, 0) > view.market.close, 0.5, 0.0)
    )
    with pytest.raises(ConfigError, match=r"ahead.* looks ahead: at bar .* as later bars do"):
        Paths(*rule(ahead), generator, N_BARS)
    assert Paths(*rule(ahead), generator, N_BARS, check=False).n_bars == N_BARS
    with pytest.raises(ValueError, match="2 assets need one each"):
        Paths(*rule(), generator, N_BARS, symbols=["AAA"])
    with pytest.raises(ValueError, match="shard is 2/2"):
        monte_carlo(paths, 8, shard=(2, 2))
    with pytest.raises(ValueError, match="make at most 2 shards"):
        monte_carlo(paths, 8, shard=(0, 3))
    with pytest.raises(ValueError, match=r"draws 51 bars of 2 assets; trend with n_bars 41 and spare 0 needs 52"):
        Paths(*rule(), generator, N_BARS + 1)


def test_damaged_parts_are_computed_again(tmp_path, paths, whole):
    folder = tmp_path / "job"
    (folder / PARTS).mkdir(parents=True)
    (folder / "job.json.part").write_text("{")
    again = functools.partial(monte_carlo, paths, N_PATHS, output=folder, batch=4, progress=False)
    again()
    files = [folder / PARTS / f"part_{number:06d}.parquet" for number in range(5)]
    content = files[3].read_bytes()
    files[0].unlink()
    files[1].write_bytes(b"")
    files[2].write_bytes(content)
    flipped = bytearray(content)
    flipped[len(content) // 4] ^= 0xFF
    files[3].write_bytes(flipped)
    same(again(), whole)
    assert files[3].read_bytes() == content
    files[2].write_bytes(content[:-50])
    with pytest.raises(ConfigError, match=r"part_000002.parquet cannot be read"):
        merge([folder])
    for file in (folder / PARTS).iterdir():
        file.unlink()
    (folder / PARTS).rmdir()
    same(again(), whole)
    settings = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps({**settings, "format": 2}))
    with pytest.raises(ConfigError, match=r"job\.json: made by a newer version"):
        again()
    (folder / "job.json").write_text(json.dumps({**settings, "ruin": 0.4}))
    with pytest.raises(ConfigError, match=r"job\.json: damaged; it was changed"):
        merge([folder])
    (folder / "job.json").write_text(
        json.dumps({key: settings[key] for key in settings if key not in ("format", "sha256")})
    )
    same(again(), whole)  # as of a version that did not say its format
    (folder / "job.json").write_text(json.dumps({key: settings[key] for key in settings if key != "batch_size"}))
    with pytest.raises(ConfigError, match=r"job.json has no batch_size"):
        again()


def test_a_report_says_what_is_to_be_known_first(tmp_path, paths):
    job = monte_carlo(paths, 8, output=tmp_path / "job", progress=False, warnings=["the run is not finished"])
    assert job.summary["warnings"] == ["the run is not finished"]
    assert "<li>the run is not finished</li>" in (tmp_path / "job" / "report.html").read_text(encoding="utf-8")


def test_a_few_columns_at_a_time_are_the_same(tmp_path, paths, whole, monkeypatch):
    monkeypatch.setattr(parts, "MOST_VALUES", 3 * N_PATHS)
    found = monte_carlo(paths, N_PATHS, output=tmp_path / "job", batch=4, progress=False)
    for name in found.table.names[::-1]:
        np.testing.assert_array_equal(found.table.column(name), whole.table.column(name), err_msg=name)
        assert len(found.table._held) <= 3


def test_a_name_covers_what_a_function_was_made_with():
    def make(value, default=0.0):
        def inner(key, at=default):
            return value, key, at

        return inner

    class Callable:
        def __call__(self, key):
            return key

    def outer(value):
        inner = make(value)
        return lambda key: inner(key)

    assert function_name(None) == ""
    assert function_name(outer) == function_name(outer)
    assert function_name(make(1.0)) == function_name(make(1.0))
    big = np.arange(5000.0)
    changed = big.copy()
    changed[2500] = 0.0  # hidden in a repr
    made = [make(1.0), make(2.0), make(1.0, 1.0), make(big), make(changed), make(jnp.asarray(big)), make(None)]
    made += [outer(1.0), outer(2.0), functools.partial(make, 1.0), functools.partial(make, big)]
    made += [functools.partial(make, changed), make(make(1.0)), make([make(2.0)]), make({"a": object})]
    assert len({function_name(function) for function in made}) == len(made)
    with pytest.raises(ValueError, match="has no name that tells it from others"):
        function_name(Callable())


def test_a_policy_is_told_from_one_with_other_settings():
    values = np.zeros((5, 2), np.float32)
    plain = functools.partial(plain_conditions, 2, periods=252.0)
    fast, free = trend(lookback=5, span=5), plain()
    assert trend.__wrapped__(lookback=5, span=5) is not fast, "made anew"
    assert identity_of(trend.__wrapped__(lookback=5, span=5), plain()) == identity_of(fast, free)
    found = [
        (fast, free),
        *[(trend(lookback=5, span=5, **{key: value}), free) for key, value in (("gross", 0.5), ("tolerance", 0.2))],
        (trend(lookback=6, span=5), free),
        (fast, plain(initial_cash=1e5)),
        (fast._replace(warmup=WARMUP + 1), free),
        (fast, plain(fill_rule=envs.FillRule(latency_bars=2))),
        (from_array(values), free),
        (from_array(values, in_shares=True), free),
    ]
    assert len({identity_of(*pair) for pair in found}) == len(found)


def test_figures_are_those_of_the_ledger(paths, whole):
    replay = paths.replay(7)
    returns, figures, ledger = replay.ledger.returns, replay.figures, replay.ledger
    expected = {
        "total_return": ledger.equity[-1] / ledger.equity[0] - 1.0,
        "sharpe": float(metrics.sharpe(returns, periods=252.0)),
        "sortino": float(metrics.sortino(returns, periods=252.0)),
        "calmar": float(metrics.calmar(returns, periods=252.0)),
        "volatility": float(metrics.volatility(returns, periods=252.0)),
        "max_drawdown": float(metrics.max_drawdown(returns)),
        "max_drawdown_bars": float(metrics.max_drawdown_duration(returns)),
        "skewness": float(metrics.skewness(returns)),
        "kurtosis": float(metrics.kurtosis(returns)),
        "win_rate": float(metrics.win_rate(returns)),
        "turnover": ledger.turnover.mean(dtype=np.float64) * 252.0,
        "exposure": np.abs(ledger.weights).sum(axis=1).mean(),
        "net_exposure": ledger.weights.sum(axis=1).mean(),
        "trades": (ledger.quantity != 0).sum(),
        "impact": ledger.costs.impact.sum(dtype=np.float64) / ledger.equity[0],
        "costs": (ledger.paid.sum(dtype=np.float64) + ledger.financing.sum(dtype=np.float64)) / ledger.equity[0],
        "least_equity": ledger.equity.min() / ledger.equity[0],
    }
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, rel=2e-4, abs=1e-6), name
    assert figures["trades"] > N_BARS / 2


def test_the_deepest_drawdown_of_a_path_is_that_of_its_ledger(paths, whole):
    bars, recovered = whole.table.column("deepest_bars"), whole.table.column("recovered")
    assert 0 < recovered.sum() < N_PATHS
    for path in range(N_PATHS):
        deepest = drawdowns.table(paths.replay(path).ledger.equity, deepest=1)
        assert (bars[path], recovered[path]) == (deepest["bars"][0], deepest["recovered"][0]), path


def test_a_replayed_market_traded_again_gives_the_same_ledger(paths):
    replay = paths.replay(11)
    again = ledger_of(paths.policy, paths.conditions, replay.market)
    np.testing.assert_allclose(again.equity, replay.ledger.equity, rtol=1e-6)
    np.testing.assert_allclose(again.shares, replay.ledger.shares, rtol=1e-4, atol=1e-2)
    figures = simulate_streaming(paths.policy, replay.market, paths.conditions)
    assert float(figures.equity) == pytest.approx(replay.ledger.equity[-1], rel=1e-6)
    assert float(figures.figures(252.0, 0.5)["sharpe"]) == pytest.approx(replay.figures["sharpe"], rel=1e-3)


def test_rows_unpacked_from_prices_are_the_rows_of_a_table():
    """And prices of zero that are left out change nothing."""
    n_bars, n_paths = 30, 3
    draws = np.random.default_rng(0)
    closes = jnp.asarray(100 * np.exp(np.cumsum(0.02 * draws.standard_normal((n_bars + 1, n_paths)), 0)), jnp.float32)
    goals = jnp.asarray(draws.choice([0.0, 0.9, np.nan], (n_bars, n_paths)), jnp.float32)
    costs = envs.basic_costs(commission_bps=10.0, spread_multiplier=0.0)
    fills = envs.FillRule(fill_price="decision_close")
    conditions, policy = (
        plain_conditions(1, periods=252.0, costs=costs, fill_rule=fills),
        from_array(np.zeros((n_bars, 1))),
    )
    no = jnp.zeros(n_paths, bool)
    portfolios = jax.vmap(lambda x: open_portfolio(x, 1e6, fills))(closes[0][:, None])
    state = AccountState(Account(portfolios, liquidated=no, stopped=no), (), ())
    shared = jax.tree.map(lambda x: jnp.broadcast_to(x, (n_paths,)), costs)

    def unpack(given):
        before, after, goal = (x[:, None] for x in given)
        row = jnp.stack([before, after, *[jnp.ones_like(before)] * (len(BAR_FIELDS) - 2)])
        return BarRow(jnp.zeros(n_paths, jnp.int32), row.at[2].set(1e9), jnp.ones(goal.shape, bool), (), (), goal)

    @functools.partial(jax.jit, static_argnames=("free", "layout"))
    def traded(rows, free, **given):
        paths = PreparedMarket(rows, state, shared, (), jnp.zeros(n_paths, jnp.int32))
        return trade(policy, conditions, paths, n_bars, jnp.int32(0), free=free, **given)

    lazily = functools.partial(traded, layout=RowLayout(lambda x, i: (x[0][i], x[0][i + 1], x[1][i]), unpack))
    table = jax.vmap(unpack)((closes[:-1], closes[1:], goals))
    table = jax.tree.map(lambda x: x[None], table)  # one part of all paths
    expected = jax.device_get(traded(table, ()))
    assert expected.figures.trades.min() > 3
    assert expected.figures.costs.commission.min() > 0
    for found in (lazily((closes, goals), ()), lazily((closes, goals), zero_prices(costs))):
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


RULES = [buy_and_hold(), equal_weight(), volatility_target(0.1, span=5), trend(lookback=5, span=5)]


@pytest.mark.parametrize("strategy", RULES, ids=lambda strategy: strategy.name)
def test_no_decision_reads_what_comes_after_it(strategy, market):
    kept = 90

    def shuffled(x):
        if x.ndim != 2 or x.shape[0] != market.n_bars or x.dtype != jnp.float32:
            return x
        noise = jnp.exp(0.3 * jax.random.normal(jax.random.key(9), x.shape))
        return jnp.where(jnp.arange(market.n_bars)[:, None] > kept, x * noise, x)

    changed = jax.tree.map(shuffled, market)
    one, other = (ledger_of(*rule(strategy), prices) for prices in (market, changed))
    decided = kept - WARMUP + 1  # decisions at the closes of WARMUP .. kept
    np.testing.assert_array_equal(one.ordered[:decided], other.ordered[:decided])
    np.testing.assert_array_equal(one.equity[:decided], other.equity[:decided])
    assert (np.asarray(one.equity[decided:]) != np.asarray(other.equity[decided:])).any()


def test_orders_of_a_rule_are_the_rule(market):
    policy, conditions = rule()
    ledger = ledger_of(policy, conditions, market)
    orders = np.full((market.n_bars, 2), np.nan, np.float32)
    orders[WARMUP:-1] = ledger.ordered
    again = ledger_of(from_array(orders, in_shares=True, warmup=WARMUP), conditions, market)
    np.testing.assert_array_equal(again.equity, ledger.equity)
    np.testing.assert_array_equal(again.shares, ledger.shares)
    half = from_array(np.full((market.n_bars, 2), 0.5, np.float32), warmup=WARMUP)
    equal = ledger_of(equal_weight(tolerance=0.0)._replace(warmup=WARMUP), conditions, market)
    np.testing.assert_array_equal(ledger_of(half, conditions, market).equity, equal.equity)


@pytest.mark.slow
def test_a_path_in_vectorbt(paths, market):
    vectorbt = pytest.importorskip("vectorbt")
    replay = paths.replay(2)
    ledger, n = replay.ledger, N_BARS
    close = replay.market.close[replay.first + 1 : replay.first + 1 + n]
    # The costs of a fill as a fee on its notional.
    notional = np.abs(ledger.quantity) * ledger.price
    fees = np.where(notional > 0, ledger.paid / np.where(notional > 0, notional, 1.0), 0.0)
    # Cash enough that no order is refused: ours may go short, and its orders of a bar are filled together.
    value = vectorbt.Portfolio.from_orders(
        close, size=ledger.quantity, price=ledger.price, fees=fees, init_cash=1e8, freq="1D"
    ).value()
    profit = np.asarray(value).sum(axis=1) - 2e8 - np.cumsum(ledger.financing)
    assert not ledger.liquidated
    np.testing.assert_allclose(ledger.equity[0] + profit, ledger.equity[1:], rtol=2e-6)
    assert (ledger.quantity != 0).sum() > n / 2


def test_perturbed_costs_and_starts(generator, market, whole):
    def dearer(key, params):
        costs = params.costs.replace(commission_rate=params.costs.commission_rate + 0.01 * jax.random.uniform(key))
        return params.replace(costs=costs)

    paths = Paths(*rule(), generator, N_BARS, seed=3, perturb=dearer, batch_size=BATCH_SIZE, devices=jax.devices()[:2])
    found = monte_carlo(paths, N_PATHS, progress=False)
    assert (found.table.column("costs") > whole.table.column("costs")).all()
    assert np.quantile(found.table.column("total_return") - whole.table.column("total_return"), 0.99) < 0
    with pytest.raises(ValueError, match=r"perturbation is .*dearer' and ''"):
        compare(found, whole)
    assert found.table.settings["perturbation"].endswith("dearer")

    def later(key, params):
        return params.replace(first_bar=params.first_bar + jax.random.randint(key, (), 0, 10))

    longer = stationary_bootstrap(market, WARMUP + N_BARS + 1 + 6, mean_block=5.0)
    late = Paths(*rule(), longer, N_BARS, perturb=later, spare=6, batch_size=BATCH_SIZE, devices=jax.devices()[:1])
    starts = {late.replay(path).first for path in range(6)}
    assert len(starts) > 1
    assert min(starts) >= WARMUP
    assert max(starts) <= WARMUP + 6


def test_paired_comparison_needs_the_same_markets(paths, whole):
    none = compare(whole, whole)
    assert none["total_return"]["difference"]["mean"] == 0.0
    assert none["total_return"]["higher"]["estimate"] == 0.0
    with pytest.raises(ValueError, match=f"n_paths is {N_PATHS} and 4"):
        compare(whole, monte_carlo(paths, 4, progress=False))
    settings = whole.table.settings | {"generator_digest": "of other prices"}
    with pytest.raises(ValueError, match=r"generator_digest is .* and 'of other prices'"):
        compare(whole, dataclasses.replace(whole, table=dataclasses.replace(whole.table, settings=settings)))


def test_the_summary_counts_what_happened(whole):
    frame, summary = whole.table.frame(), whole.summary
    assert summary["worst"]["total_return"][0] == frame["total_return"].idxmin()
    assert summary["worst"]["max_drawdown"][0] == frame["max_drawdown"].idxmax()
    chances = summary["probabilities"]["drawdown"]
    assert chances["0.1"]["estimate"] == (frame["max_drawdown"] >= 0.1).mean()
    assert list(chances["0.05"]) == ["estimate", "ci"]
    median = [np.quantile(frame[f"equity_{bar}"], 0.5) for bar in summary["fan"]["bars"]]
    np.testing.assert_allclose(summary["fan"]["quantiles"]["0.5"], median, rtol=1e-6)
    assert summary["fan"]["bars"][-1] == N_BARS
    assert summary["figures"]["sharpe"]["mean"] == pytest.approx(frame["sharpe"].mean(), rel=1e-6)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (517, 4000)])
def test_wilson(hits, n):
    expected = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(wilson_interval(hits, n), (expected.low, expected.high), atol=1e-12)


def test_ledgers_as_tables(tmp_path, market):
    times = np.datetime64("2020-01-01", "ns") + np.arange(market.n_bars) * np.timedelta64(1, "D")
    named = market.replace(info=dataclasses.replace(market.info, symbols=("AAA", "BBB"), timestamps=times))
    ledger = ledger_of(*rule(), named, n_bars=20)
    frame, account = ledger_frame(ledger, named, WARMUP), account_frame(ledger, named, WARMUP)
    assert len(frame) == 40
    assert len(account) == 20
    row = frame[(frame.symbol == "BBB") & (frame.time == times[WARMUP + 3])].iloc[0]
    assert row.filled == ledger.quantity[2, 1]
    assert row.shares == ledger.shares[2, 1]
    paid = frame.groupby("bar").paid.sum()
    kinds = account.set_index("bar")[["commission", "spread", "slippage", "impact"]].sum(axis=1)
    np.testing.assert_allclose(paid, kinds, rtol=1e-5)
    write_ledger(tmp_path / "out", ledger, named, WARMUP)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["account.parquet", "ledger.parquet"]
    assert periods_per_year(market) > 0
