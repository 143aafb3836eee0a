"""Walk-forward: folds, what agents learn and see in them, the account that goes through, interruptions, mistakes."""

import dataclasses
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from scipy.stats import norm
from tiny_run import assert_trees_equal, command, prices, snapshot, tiny_config, write_config

import jaxppo
from jaxppo import envs
from jaxppo.cli.watching import Watched
from jaxppo.config.walk_forward import WalkForwardConfig
from jaxppo.envs.market.periods import periods_per_year
from jaxppo.errors import ConfigError
from jaxppo.run import trials
from jaxppo.run.saved import load_run
from jaxppo.run.setup import first_policy
from jaxppo.statistics import drawdowns
from jaxppo.walk_forward import load_fold, make_plan, programs, training, walk, walk_forward
from jaxppo.walk_forward.concatenated import Lineup, concatenated_ledgers
from jaxppo.walk_forward.job import Agent, Job
from jaxppo.walk_forward.prepare import prepare, restarted
from jaxppo.walk_forward.results import OutOfSample, adjust_folds_for_selection, make_lineups
from jaxppo.walk_forward.section import verdict

SEEDS = 2
TRAIN, TEST = 150, 60
KEYS = {"train_bars": TRAIN, "test_bars": TEST, "seeds": SEEDS}


def wf_config(**sections):
    given = sections.get("walk_forward", {})
    sections["walk_forward"] = {**({"seeds": SEEDS} if given.get("kind") == "combinatorial" else KEYS), **given}
    return tiny_config(**sections)


def market_of(frame=None):
    return envs.load_market(prices() if frame is None else frame)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("walk")


class Recorder:
    """A logger that remembers what it is told."""

    def __init__(self):
        self.told = []

    def start(self, run):
        self.told.append(("start", run))

    def write(self, row):
        self.told.append(("write", row))

    def finish(self, results):
        self.told.append(("finish", results))

    def close(self, status):
        self.told.append(("close", status))


@pytest.fixture(scope="module")
def recorder():
    return Recorder()


@pytest.fixture(scope="module")
def whole(workplace, recorder):
    """Two agents on each of three folds, in one program."""
    given = {"market": market_of(), "progress": False, "loggers": [recorder]}
    return walk_forward(wf_config(), output=workplace / "whole", **given)


def params_of(folder, market=None):
    """Best parameters of all agents, `[agents, ...]`."""
    market = market_of() if market is None else market
    plan = walk_plan(folder)
    nets = [load_fold(folder, fold, seed=seed, market=market).params for fold in range(plan) for seed in (7, 8)]
    return jax.tree.map(lambda *x: np.stack(x), *nets)


def walk_plan(folder):
    return json.loads((folder / "summary.json").read_text())["walk_forward"]["n_folds"]


def test_loggers_get_the_means_of_the_agents_and_the_results(whole, recorder):
    assert [method for method, _ in recorder.told] == ["start", "write", "write", "write", "finish", "close"]
    run, *rows, results, status = [argument for _, argument in recorder.told]
    assert run.folder == whole.folder
    assert run.metadata["kind"] == "walk_forward"
    written = pd.read_json(whole.folder / "metrics.jsonl", lines=True)
    assert [row["iteration"] for row in rows] == sorted(set(written.iteration)) == [2, 4, 6]
    assert [row["env_steps"] for row in rows] == [256, 512, 768]
    assert rows[-1]["reward"] == pytest.approx(written[written.iteration == 6].reward.mean())
    assert results.summary == whole.summary
    assert results.report == whole.folder / "report.html"
    assert set(results.figures) == {"equity", "drawdown"}
    assert status == "finished"


# Folds.


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["rolling", "expanding", "combinatorial"]),
    n=st.integers(150, 400),
    history=st.integers(0, 30),
    purge=st.integers(0, 6),
    folds=st.integers(3, 6),
    data=st.data(),
)
def test_no_fold_trains_or_selects_on_what_it_tests(kind, n, history, purge, folds, data):
    keys = WalkForwardConfig(
        kind=kind,
        train_bars=data.draw(st.integers(60, 80)),
        test_bars=data.draw(st.integers(5, 40)),
        folds=folds,
        test_folds=data.draw(st.integers(1, folds - 1)),
        embargo_bars=data.draw(st.integers(0, 8)),
        validation=0.2,
    )
    chunk = 4
    try:
        plan = make_plan(keys, n + 1 + history, history, chunk, purge)
    except ConfigError:
        reject()
    for fold in plan.folds:
        test = {bar for part in fold.tests for bar in range(part.first, part.last)}
        fitted = {bar for part in fold.train for bar in range(part.first, part.last)}
        selected = set(range(fold.validation.first, fold.validation.last))
        assert fold.validation.n_bars == plan.folds[0].validation.n_bars
        assert fitted
        assert (fitted | selected | test) <= set(range(history, history + n))
        assert all(part.n_bars >= chunk for part in fold.train)
        assert not fitted & selected
        assert not test & (fitted | selected)
        # A decision at t earns until t + 1; a purge more lies between it and the first decision of what follows.
        for bar in fitted | selected:
            assert not test & set(range(bar + 1, bar + 1 + purge))
        for bar in fitted:
            assert not selected & set(range(bar + 1, bar + 1 + purge))
        if kind == "combinatorial":
            for part in fold.tests:
                assert not (fitted | selected) & set(range(part.last, part.last + purge + keys.embargo_bars))
        else:
            assert max(fitted) < min(selected)
            assert max(selected) < min(test)
    for path in plan.paths:
        parts = [plan.folds[fold].tests[position] for fold, position in path]
        assert all(one.last == other.first for one, other in itertools.pairwise(parts))
        assert (parts[0].first, parts[-1].last) == (plan.test.first, plan.test.last)


def test_episodes_stay_within_the_stretches_of_training():
    config = wf_config(walk_forward={"kind": "combinatorial", "folds": 5, "test_folds": 2, "embargo_bars": 3})
    plan, setup, params = prepare(config, market_of())
    draw = jax.jit(jax.vmap(setup.env.draw_start, in_axes=(0, None)))
    episode = int(setup.params.max_steps_in_episode)
    widths = set()
    for number, fold in enumerate(plan.folds):
        own = params[[number]]
        each = params.shared.replace(first_bar=own.first_bar[0], last_bar=own.last_bar[0])
        starts = np.asarray(draw(jax.random.split(jax.random.key(number), 4000), each))
        allowed = {}
        for part in fold.train:
            room = max(part.last - episode, part.first) - part.first + 1
            allowed |= {part.first + offset: 0 for offset in range(room)}
        for start in starts:
            allowed[int(start)] += 1
        counts = np.array(list(allowed.values()))
        # Uniform over all of them: no count beyond what 4,000 draws scatter.
        expected = len(starts) / len(counts)
        assert np.abs(counts - expected).max() < norm.ppf(1 - 1e-6 / len(counts)) * np.sqrt(expected) + 1
        ends = np.asarray(jax.vmap(each.period_end)(jnp.asarray(starts)))
        inside = [part for start in starts for part in fold.train if part.first <= start <= part.last]
        np.testing.assert_array_equal(ends, [part.last for part in inside])
        widths.add(len(fold.train))
    assert len(widths) > 1, "folds with several stretches, and with fewer"


# What agents learn.


@pytest.fixture(scope="module")
def alone(whole, workplace):
    """The run on the bars of fold 1, with the seed of its second agent."""
    times, plan = market_of().info.timestamps, whole.plan.folds[1]
    dates = {
        name: [str(times[first])[:10], str(times[last])[:10]]
        for name, first, last in (
            ("train", plan.train[0].first, plan.train[0].last),
            ("validation", plan.validation.first, plan.validation.last),
            ("test", plan.tests[0].first, plan.tests[0].last),
        )
    }
    config = wf_config(seed=8, data={**dates, "purge_bars": 4})
    return jaxppo.train(config, output=workplace / "alone" / "run", market=market_of(), progress=False)


@pytest.mark.slow
def test_an_agent_of_a_fold_is_the_run_on_its_bars(whole, alone):
    market, fold = market_of(), 1
    agent = load_fold(whole.folder, fold, seed=8, market=market)
    row = whole.folds.query("fold == @fold and seed == 8").iloc[0]
    assert alone.summary["validation"]["best_iteration"] == row.best_iteration
    assert alone.summary["validation"]["best_sharpe"] == pytest.approx(row.validation_sharpe, abs=1e-3)
    for mine, its in zip(jax.tree.leaves(agent.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(mine, its, atol=1e-4)
    rows = [json.loads(line) for line in (whole.folder / "metrics.jsonl").read_text().splitlines()]
    mine = {row["iteration"]: row["entropy"] for row in rows if (row["fold"], row["seed"]) == (fold, 8)}
    its = [json.loads(line) for line in (alone.folder / "metrics.jsonl").read_text().splitlines()]
    assert mine == pytest.approx(
        {row["iteration"]: row["entropy"] for row in its if row["iteration"] in mine}, abs=1e-4
    )


def test_nothing_of_a_fold_sees_what_comes_after_it(whole, workplace):
    last = whole.plan.folds[0].tests[0].last
    frame = prices()
    later = pd.to_datetime(frame["date"]) > market_of().info.timestamps[last]
    columns = ["open", "high", "low", "close"]
    frame.loc[later, columns] *= np.random.default_rng(3).uniform(0.98, 1.02, (int(later.sum()), 1))
    frame.loc[later, "volume"] *= 3
    changed = walk_forward(wf_config(), output=workplace / "later" / "changed", market=market_of(frame), progress=False)
    ours, theirs = params_of(whole.folder), params_of(changed.folder, market_of(frame))
    first = [jax.tree.map(lambda x: x[:SEEDS], nets) for nets in (ours, theirs)]
    assert_trees_equal(*first)
    with pytest.raises(AssertionError):
        assert_trees_equal(ours, theirs)
    bars = whole.plan.folds[0].tests[0].n_bars
    pd.testing.assert_frame_equal(whole.returns[:bars], changed.returns[:bars])
    assert not whole.returns[bars:].equals(changed.returns[bars:])


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"batch_size": 4}, {"devices": 2}], ids=str)
def test_batches_and_devices_do_not_matter(whole, workplace, changes):
    devices = {"training": {"devices": changes["devices"]}} if "devices" in changes else {}
    keys = {} if devices else changes
    config = wf_config(walk_forward=keys, **devices)
    name = next(iter(changes))
    parts = walk_forward(config, output=workplace / name / "parts", market=market_of(), progress=False)
    assert parts.summary["train"]["batch_size"] == (6 if devices else 3)
    pd.testing.assert_frame_equal(whole.folds, parts.folds, rtol=1e-3, atol=1e-5)
    for one, other in zip(
        jax.tree.leaves(params_of(whole.folder)), jax.tree.leaves(params_of(parts.folder)), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.slow
def test_an_interrupted_one_goes_on_to_the_same_numbers(whole, workplace, monkeypatch):
    folder = workplace / "interrupted" / "whole"
    stops = []

    class Stopping(training._Batch):
        def save_if_due(self, iteration, stopping):
            if iteration == 4:
                stops.append(2)
            super().save_if_due(iteration, bool(stops))

    monkeypatch.setattr(training, "_Batch", Stopping)
    monkeypatch.setattr(walk, "stop_requested", lambda saying: _Given(stops))
    first = walk_forward(wf_config(), output=folder, market=market_of(), progress=False)
    assert (first.summary, first.text) == (None, "")
    assert not (folder / "summary.json").exists()
    monkeypatch.undo()
    second = walk_forward(wf_config(), output=folder, market=market_of(), resume=True, progress=False)
    pd.testing.assert_frame_equal(whole.folds, second.folds)
    pd.testing.assert_frame_equal(whole.returns, second.returns)
    assert_trees_equal(params_of(whole.folder), params_of(folder))
    known = trials.read(folder.parent / "trials.jsonl")
    assert len(known) == len({trial.key for trial in known}), "what was evaluated before is not recorded again"


class _Given:
    """A context that hands out what it was made with."""

    def __init__(self, what):
        self.what = what

    def __enter__(self):
        return self.what

    def __exit__(self, *_):
        return None


@pytest.mark.slow
def test_batches_shrink_until_they_fit_the_memory(workplace, monkeypatch):
    needs = iter([10.0, 5.0])
    monkeypatch.setattr(programs, "memory_usable", lambda devices: 5.0)
    monkeypatch.setattr(programs, "memory_needed", lambda compiled: next(needs))
    plan, setup, params = prepare(wf_config(), market_of())
    first = tuple(fold.validation.first for fold in plan.folds)
    job = Job(setup, params, first, plan.folds[0].validation.n_bars, (7, 8), workplace / "memory")
    assert programs.compile_job(job, jax.devices()[:1], None).size == 3
    assert [programs.batch_size(n, most, d) for n, most, d in ((10, 13, 4), (10, 7, 2), (5, 4, 4))] == [12, 6, 4]


@pytest.mark.slow
def test_a_limit_that_says_stop_ends_the_training_of_its_agent(workplace, monkeypatch, capsys):
    calls = itertools.count()
    stop = {"limit": "drawdown", "allowed": 0.1, "level": 0.2}
    # Two iterations between evaluations: agent 0 stops in its first, before any of them, and agent 1 in its third.
    monkeypatch.setattr(training, "stop_in", lambda monitor, row: stop if next(calls) in (0, 11) else None)
    recorded = []
    monkeypatch.setattr(walk, "trial_of", _noting(recorded, walk.trial_of))
    result = walk_forward(wf_config(), output=workplace / "stops" / "stopped", market=market_of(), progress=False)
    seen = [(fold, seed, iteration) for period, iteration, fold, seed in recorded if period == "validation"]
    assert sorted(where for where in seen if where[0] == 0) == [(0, 7, 2), (0, 8, 2)]
    assert sum(where[0] > 0 for where in seen) == 12
    assert result.folds.query("fold == 0").best_iteration.tolist() == [2, 2]
    assert [(row["fold"], row["seed"], row["iteration"]) for row in result.summary["walk_forward"]["stopped"]] == [
        (0, 7, 1), (0, 8, 3)
    ]  # fmt: skip
    said = capsys.readouterr().err
    assert "fold 0, seed 8: stopped by the monitor after iteration 3: drawdown reached 0.2" in said
    assert result.summary["train"]["env_steps"] == (1 + 3 + 4 * 6) * 128


def _noting(recorded, record):
    """`record`, and a note of what was recorded."""

    def noting(setup, folder, iteration, period, returns, content, **span):
        recorded.append((period, iteration, span.get("fold"), span.get("seed")))
        return record(setup, folder, iteration, period, returns, content, **span)

    return noting


@pytest.mark.slow
def test_an_agent_that_diverges_keeps_what_it_was_and_one_that_was_nothing_ends_it(workplace, monkeypatch, capsys):
    calls = itertools.count()

    def with_nan(since):
        def returns(equity):
            bad = (np.arange(len(equity))[:, None] == 3) & (next(calls) >= since)
            return np.where(bad, np.nan, 0.01 * np.arange(4.0) * np.ones((len(equity), 1)))

        return returns

    monkeypatch.setattr(training, "returns_of", with_nan(0))
    with pytest.raises(ConfigError, match="diverged in fold 1, seed 8, iteration 2: validation_sharpe is nan"):
        walk_forward(wf_config(), output=workplace / "nan" / "at once", market=market_of(), progress=False)
    calls = itertools.count()
    monkeypatch.setattr(training, "returns_of", with_nan(1))
    result = walk_forward(wf_config(), output=workplace / "nan" / "later", market=market_of(), progress=False)
    assert "fold 1, seed 8: diverged in iteration 4: validation_sharpe is nan" in capsys.readouterr().err
    assert result.folds.query("fold == 1").best_iteration.tolist() == [6, 2]


def test_a_resumed_one_must_be_the_same(whole):
    for sections, named in (
        ({"walk_forward": {"seeds": 3}}, "walk_forward.seeds"),
        ({"training": {"steps": 9 * 128}}, "training.steps"),
        ({"ppo": {"gamma": 0.5}}, "ppo.gamma"),
    ):
        with pytest.raises(ConfigError, match=named):
            walk_forward(wf_config(**sections), output=whole.folder, market=market_of(), resume=True, progress=False)
    saved = jaxppo.load_config(whole.folder / "config.yaml")
    given = wf_config(walk_forward={"batch_size": 4}, data={"path": saved.data.path})
    assert restarted(given, saved).walk_forward.batch_size == saved.walk_forward.batch_size == 6


def test_a_folder_is_of_a_run_or_of_a_walk_forward(whole, alone):
    config = wf_config()
    before = snapshot(alone.folder), snapshot(whole.folder)
    with pytest.raises(ConfigError, match="the folder of a run; give that of a walk-forward"):
        walk_forward(config, output=alone.folder, market=market_of(), resume=True, progress=False)
    with pytest.raises(ConfigError, match="the folder of a walk-forward; open its agents with"):
        jaxppo.train(config, output=whole.folder, market=market_of(), resume=True, progress=False)
    with pytest.raises(ConfigError, match="load_fold"):
        load_run(whole.folder, market=market_of())
    assert before == (snapshot(alone.folder), snapshot(whole.folder))


@pytest.mark.slow
def test_many_agents_in_one_program(workplace):
    """Twelve agents, whose reductions a library of jaxlib 0.10.2 crashes on."""
    config = wf_config(walk_forward={"seeds": 4}, training={"steps": 2 * 128})
    result = walk_forward(config, output=workplace / "many" / "twelve", market=market_of(), progress=False)
    assert result.summary["train"]["batch_size"] == len(result.folds) == 12


@pytest.mark.slow
def test_a_fitted_model_of_regimes_is_that_of_the_bars_of_the_fold():
    regimes = {"kind": "hmm", "states": 2, "restarts": 1, "usual_volatility_span": 20}
    config = wf_config(regimes=regimes, features={"groups": ["price", "regime"]})
    frame = prices()
    plan, _, params = prepare(config, market_of(frame))
    until = plan.folds[0].train[0].last
    frame.loc[frame.groupby("symbol").cumcount() > until, ["open", "high", "low", "close"]] *= 1.1
    changed = prepare(config, market_of(frame))[2]
    ours, theirs = (np.asarray(found[[0, 1]].features) for found in (params, changed))
    np.testing.assert_array_equal(ours[0, : until + 1], theirs[0, : until + 1])
    assert not np.array_equal(ours[0, until + 1 :], theirs[0, until + 1 :], equal_nan=True)
    assert not np.array_equal(ours[0, : until + 1], ours[1, : until + 1], equal_nan=True), "each fold has its own"


def test_what_selecting_by_validation_gains_by_hand():
    rows = [
        # fold, seed, selected, validation, test
        (0, 0, False, 1.0, 0.5), (0, 1, True, 2.0, 1.5), (0, 2, False, 0.0, -0.5),
        (1, 0, True, 3.0, -1.0), (1, 1, False, 2.0, 0.0), (1, 2, False, 1.0, 1.0),
    ]  # fmt: skip
    names = ["fold", "seed", "selected", "validation_sharpe", "sharpe"]
    folds = pd.DataFrame(rows, columns=names).assign(path=0, turnover=1.0, total_return=0.1)
    adjusted = adjust_folds_for_selection(folds)
    assert adjusted["rank_correlation"] == pytest.approx((1.0 - 1.0) / 2)
    assert adjusted["gain"] == pytest.approx(((1.5 - 0.5) + (-1.0 - 0.0)) / 2)
    error = np.std([1.0, -1.0], ddof=1) / np.sqrt(2)
    np.testing.assert_allclose(adjusted["gain_ci"], [-12.7062 * error, 12.7062 * error], rtol=1e-5)
    assert adjust_folds_for_selection(folds, overlapping=True)["gain_ci"] == [None, None]
    assert adjust_folds_for_selection(folds[folds.seed == 0])["rank_correlation"] is None
    stopped = folds.assign(
        turnover=np.where(folds.fold == 1, 0.0, 1.0), total_return=np.where(folds.fold == 1, 0.0, 1.0)
    )
    assert adjust_folds_for_selection(stopped)["rank_correlation"] == 1.0
    said = verdict({**adjust_folds_for_selection(stopped), "tests": 2, "won": 1, "idle": 1})
    assert said[0] == "The selected agents made money in 1 of 2 tests, and stood aside in 1."
    alike = verdict({"tests": 1, "won": 0, "idle": 0, "rank_correlation": None, "gain": 0.0, "gain_ci": [0.0, 0.0]})
    assert alike[1].endswith("which is within chance.")


# What is traded.


def test_an_agent_that_stays_trades_as_if_there_were_no_folds(whole):
    plan, setup, params = prepare(wf_config(), market_of())
    policy, net = first_policy(setup)
    nets = jax.tree.map(lambda x: jnp.broadcast_to(x, (6, *x.shape)), net)
    concatenated = concatenated_ledgers(setup, policy, params, nets, plan, [Lineup([[0], [2], [4]])])[0][0]
    decision = setup.config.evaluation.decision
    once = tiny.run_agent(policy, setup.env, net, setup.params, jnp.int32(plan.test.first), plan.test.n_bars, decision)
    assert np.abs(once.shares).max() > 0
    for name in ("equity", "shares", "quantity", "paid", "turnover"):
        ours, theirs = getattr(concatenated, name), np.asarray(getattr(once, name))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max(), err_msg=name)
    assert len(plan.folds) == 3


def test_a_new_agent_takes_over_positions_and_pays_for_changing_them(whole):
    plan, setup, params = prepare(wf_config(), market_of())
    policy, net = first_policy(setup)
    other = first_policy(dataclasses.replace(setup, config=setup.config.model_copy(update={"seed": 99})))[1]
    louder = jax.tree.map(lambda x: 4.0 * x, other)
    nets = jax.tree.map(lambda *x: jnp.stack(x), net, net, louder, louder, net, net)
    switched = concatenated_ledgers(setup, policy, params, nets, plan, [Lineup([[0], [2], [4]]), Lineup([[0]] * 3)])
    mixed, same = (ledgers[0] for ledgers in switched)
    edge = plan.folds[0].tests[0].n_bars
    np.testing.assert_array_equal(mixed.equity[: edge + 1], same.equity[: edge + 1])
    assert np.abs(mixed.shares[edge - 1]).max() > 0
    assert (mixed.paid[edge] > 0)[np.abs(mixed.quantity[edge]) > 0].all()
    assert mixed.paid[edge].sum() > 2 * same.paid[edge].sum() > 0
    held = mixed.shares[edge - 1] + mixed.quantity[edge]
    np.testing.assert_allclose(mixed.shares[edge], held, rtol=1e-6)
    assert not np.allclose(mixed.shares[edge], same.shares[edge])


def test_seeds_are_averaged_or_the_best_of_them_is_chosen():
    agents = [Agent(fold, seed, best_score=score) for fold, seed, score in ((0, 7, 1), (0, 8, 2), (1, 7, 3), (1, 8, 0))]
    seeds = {"seed 7": Lineup([[0], [2]]), "seed 8": Lineup([[1], [3]])}
    assert make_lineups(agents, 2, "mean") == {"ensemble": Lineup([[0, 1], [2, 3]]), **seeds}
    assert make_lineups(agents, 2, "best") == {"selected": Lineup([[1], [2]]), **seeds}
    alone = agents[::2]
    assert make_lineups(alone, 2, "mean") == make_lineups(alone, 2, "best") == {"selected": Lineup([[0], [1]])}
    assert list(whole_rows(agents)) == ["seed 7", "seed 8"]


def whole_rows(agents):
    """Line-ups in which every agent trades once."""
    lineups = make_lineups(agents, 2, "mean")
    found = OutOfSample(None, agents, lineups, [[None]] * 3, None, 252.0, 0.95)
    return dict.fromkeys(account.lineup for account in found.of_agents)


def test_an_ensemble_of_alike_agents_is_one_of_them_and_stands_beside_the_untrained(whole):
    plan, setup, params = prepare(wf_config(), market_of())
    policy, net = first_policy(setup)
    nets = jax.tree.map(lambda x: jnp.broadcast_to(x, (6, *x.shape)), net)
    lineups = [Lineup([[0], [2], [4]]), Lineup([[0, 1], [2, 3], [4, 5]])]
    one, both = (each[0] for each in concatenated_ledgers(setup, policy, params, nets, plan, lineups))
    np.testing.assert_allclose(both.equity, one.equity, rtol=1e-6)
    assert list(whole.summary["out_of_sample"]["baseline"]) == [
        "buy_and_hold",
        "flat",
        "volatility_target",
        "untrained",
    ]


def test_the_tables_say_what_the_account_did(whole):
    market = market_of()
    assert list(whole.returns.columns) == ["bar", "time", "ensemble", "seed 7", "seed 8"]
    test = whole.plan.test
    assert whole.returns.bar.tolist() == list(range(test.first + 1, test.last + 1))
    folds = whole.folds
    assert len(folds) == 3 * SEEDS
    assert folds.groupby("fold").selected.sum().tolist() == [1, 1, 1]
    for _, row in folds.iterrows():
        rivals = folds[folds.fold == row.fold]
        assert row.selected == (row.validation_sharpe == rivals.validation_sharpe.max())
        period = whole.plan.folds[row.fold].tests[0]
        own = whole.returns[f"seed {row.seed}"][whole.returns.bar.between(period.first + 1, period.last)].to_numpy()
        assert row["first"] == str(market.info.timestamps[period.first])[:19]
        assert row.total_return == pytest.approx(np.prod(1 + own) - 1, abs=1e-6)
        assert row.sharpe == pytest.approx(own.mean() / own.std(ddof=1) * periods_per_year(market) ** 0.5, rel=1e-4)
        table = drawdowns.table(np.concatenate([[1.0], np.cumprod(1 + own)]))
        assert row.max_drawdown == pytest.approx(table.depth.max() if len(table) else 0.0, abs=1e-6)
        assert row.sharpe_low < row.sharpe < row.sharpe_high
    summary = json.loads((whole.folder / "summary.json").read_text())
    assert summary == whole.summary
    assert set(summary["walk_forward"]["paths"]) == {"ensemble", "seed 7", "seed 8"}
    chosen = np.prod(1 + whole.returns.ensemble) - 1
    assert summary["out_of_sample"]["total_return"] == pytest.approx(chosen, abs=1e-6)
    assert summary["out_of_sample"]["n_bars"] == test.n_bars == 3 * TEST
    assert pd.read_csv(whole.folder / "folds.csv").shape == folds.shape
    assert pd.read_parquet(whole.folder / "returns.parquet").shape == whole.returns.shape


def test_every_evaluation_is_a_trial(whole, workplace):
    mine = [t for t in trials.read(workplace / "trials.jsonl") if t.run.split(",")[0] == "whole"]
    validated = [t for t in mine if t.period == "validation"]
    assert sorted({(t.fold, t.seed, t.iteration) for t in validated}) == [
        (fold, seed, iteration) for fold in range(3) for seed in (7, 8) for iteration in (2, 4, 6)
    ]
    assert len(validated) == 18
    assert sorted((t.fold, t.seed) for t in mine if t.period == "fold") == [(f, s) for f in range(3) for s in (7, 8)]
    paths = {t.run for t in mine if t.period == "test"}
    assert paths == {"whole, ensemble", "whole, seed 7", "whole, seed 8"}
    assert len(mine) == 18 + 6 + 3
    register = workplace / "trials.jsonl"
    ensemble = next(t for t in mine if t.run == "whole, ensemble")
    np.testing.assert_allclose(
        trials.load_returns(register, [ensemble])[:, 0], whole.returns.ensemble.to_numpy(), atol=1e-7
    )
    assert whole.summary["selection"]["out_of_sample"]["trials"] >= 3


def test_a_result_fits_a_screen(whole):
    first, *lines = repr(whole).splitlines()
    assert first == f"WalkForward({str(whole.folder)!r}, 3 folds)"
    assert any(line.startswith("ensemble") for line in lines)
    many = repr(dataclasses.replace(whole, text="\n".join(f"path {n}" for n in range(50)))).splitlines()
    assert max(len(lines), len(many) - 1) <= walk.MOST_LINES
    assert many[-1] == "... 31 more lines in .text"
    assert "stopped early" in repr(dataclasses.replace(whole, summary=None, text=""))


def test_an_agent_of_an_older_checkpoint_is_read():
    assert Agent.restored({"fold": 1, "seed": 2, "looks": 3}) == Agent(1, 2, evaluations=3)


def test_the_report_shows_folds_and_paths(whole):
    report = (whole.folder / "report.html").read_text()
    for text in (
        "Walk-forward",
        "0 (best on validation)",
        "The ensembles made money",
        "takes it over with its positions",
        "rank correlation",
        "The last 17 bars",
    ):
        assert text in report
    assert report.count('id="walk_forward_paths"') == report.count('id="walk_forward_folds"') == 1


@pytest.mark.slow
def test_combinatorial_paths_cover_every_bar_and_agents_do_not_learn_from_their_tests(workplace):
    n_bars, embargo = 1000, 150
    keys = {"kind": "combinatorial", "folds": 4, "test_folds": 2, "seeds": 1, "embargo_bars": embargo}
    config, frame = wf_config(walk_forward=keys), prices(n_bars)
    plain = walk_forward(config, output=workplace / "cpcv" / "plain", market=market_of(frame), progress=False)
    assert (len(plain.plan.folds), len(plain.plan.paths), len(plain.folds)) == (6, 3, 12)
    assert list(plain.returns.columns) == ["bar", "time", *(f"selected, path {path}" for path in range(3))]
    assert len(plain.returns) == plain.plan.test.n_bars == n_bars - 1 - plain.plan.test.first
    assert "not what it would have earned" in (plain.folder / "report.html").read_text()

    # Other prices where the agents of fold 3, which were trained before and after, are tested.
    fold, bars = plain.plan.folds[3], frame.groupby("symbol").cumcount()
    assert fold.train[0].last < fold.tests[0].first < fold.tests[-1].last < fold.train[1].first
    tested = (bars > fold.tests[0].first) & (bars < fold.tests[-1].last)
    frame.loc[tested, ["open", "high", "low", "close"]] *= 1.0 + 0.01 * np.sin(bars[tested].to_numpy())[:, None]
    frame.loc[tested, "volume"] *= 2
    changed = walk_forward(config, output=workplace / "cpcv" / "changed", market=market_of(frame), progress=False)
    differences = []
    for number in range(6):
        nets = [
            load_fold(run.folder, number, market=market_of(prices_of)).params
            for run, prices_of in ((plain, prices(n_bars)), (changed, frame))
        ]
        apart = jax.tree.leaves(jax.tree.map(lambda one, other: np.abs(one - other).max(), *nets))
        differences.append(max(apart))
    # What exponential averages remember beyond the embargo is left; fold 4 has hardly a start on what was changed.
    assert differences[3] < 1e-4 < 1e-2 < min(differences[number] for number in (0, 1, 2, 5)), differences


# Mistakes.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--training.minutes", "1"], "training.minutes is 1; agents that are trained together"),
        (["--walk_forward.train_bars", "5000"], "with"),
        (["--walk_forward.test_bars", "1"], "test_bars is 1; at least 2"),
        (["--walk_forward.validation", "0.99"], "walk_forward.validation is 0.99"),
        (["--walk_forward.kind", "sliding"], "one of rolling, expanding, combinatorial"),
        (["--walk_forward.kind", "combinatorial"], "walk_forward.train_bars is 150, which only"),
        (["--walk_forward.folds", "12"], "walk_forward.folds is 12, which only walk_forward.kind combinatorial reads"),
        (["--env.name", "CartPole-v1", "--policy.kind", "mlp"], "env.name is 'CartPole-v1'"),
        (["--seed", "2147483647", "--walk_forward.seeds", "2"], "walk_forward.seeds is 2"),
        (["--data.path", "nowhere.csv"], "nowhere.csv"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(tmp_path, capsys, options, said):
    path = write_config(tmp_path, walk_forward=KEYS)
    before = {p.name for p in tmp_path.iterdir()}
    code = command("walk_forward", "--config", path, "--output", tmp_path / "out", *options)
    error = capsys.readouterr().err
    assert (code, error.count("\n"), error[:7]) == (2, 1, "error: ")
    assert said in error
    assert {p.name for p in tmp_path.iterdir()} == before


def test_the_command_prints_results_and_refuses_to_overwrite(tmp_path, capsys, whole):
    path = write_config(tmp_path, walk_forward=KEYS)
    shutil.copytree(whole.folder, tmp_path / "out")
    assert command("walk_forward", "--config", path, "--output", tmp_path / "out") == 2
    assert "not empty" in capsys.readouterr().err
    assert command("walk_forward", "--output", tmp_path / "out") == 2
    assert "--config is required" in capsys.readouterr().err
    assert Watched(whole.folder).look()[::2] == ("finished", True)
    metadata = json.loads((tmp_path / "out" / "metadata.json").read_text())
    (tmp_path / "out" / "metadata.json").write_text(json.dumps({**metadata, "finished": False}))
    shutil.copy(whole.folder.parent / "trials.jsonl", tmp_path)
    view = Watched((tmp_path / "out").rename(tmp_path / whole.folder.name)).look()
    assert view.state == "interrupted"
    assert "evaluations; the newest: fold " in view.lines[1]
    with pytest.raises(ConfigError, match="fold 9"):
        load_fold(whole.folder, 9, market=market_of())
