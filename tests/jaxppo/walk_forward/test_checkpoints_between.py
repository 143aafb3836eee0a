"""Checkpoints between two evaluations: the same agents, whatever their cadence, and little lost by a kill."""

import dataclasses
import itertools
import json
import os
import signal

import pandas as pd
import pytest
from tiny_run import STEPS_PER_ITERATION, assert_trees_equal, prices, tiny_config

from jaxppo import envs
from jaxppo.run import trials
from jaxppo.run.checkpoints import Checkpoints
from jaxppo.walk_forward import load_fold, training, walk_forward
from jaxppo.walk_forward.job import Agent

pytestmark = pytest.mark.slow

KEYS = {"train_bars": 150, "test_bars": 60, "seeds": 2}
ITERATIONS = 5
AT = "checkpoints/agents-0"


def config_of(cadence, evaluate_every=1000):
    budget = {"steps": ITERATIONS * STEPS_PER_ITERATION, "evaluate_every": evaluate_every}
    return tiny_config(walk_forward=KEYS, training={**budget, "checkpoint_every": cadence})


@pytest.fixture(scope="module")
def market():
    return envs.load_market(prices())


@pytest.fixture(scope="module")
def once(tmp_path_factory, market):
    """Agents that are evaluated once, at the end, and saved then alone."""
    folder = tmp_path_factory.mktemp("once") / "wf"
    return walk_forward(config_of(1000), output=folder, market=market, progress=False)


class Killed(Exception):
    """Ends a process where it stands."""


def batches(monkeypatch, at, happens):
    """Lets something happen once a number of iterations is done, before it is saved."""

    class Interrupted(training._Batch):
        def save_if_due(self, iteration, stopping):
            if iteration >= at:
                stopping = happens() or stopping
            super().save_if_due(iteration, stopping)

    monkeypatch.setattr(training, "_Batch", Interrupted)


def noted(monkeypatch):
    """Iterations at which a checkpoint is written."""
    saved, save = [], Checkpoints.save

    def noting(self, iteration, tree, host):
        saved.append(iteration)
        return save(self, iteration, tree, host)

    monkeypatch.setattr(Checkpoints, "save", noting)
    return saved


def assert_same(one, other, market):
    """Folds, returns, figures and parameters, bit for bit."""
    pd.testing.assert_frame_equal(one.folds, other.folds)
    pd.testing.assert_frame_equal(one.returns, other.returns)
    nets = [
        [load_fold(result.folder, fold, seed=seed, market=market).params for fold in range(3) for seed in (7, 8)]
        for result in (one, other)
    ]
    assert_trees_equal(*nets)
    rows = [(result.folder / "metrics.jsonl") for result in (one, other)]
    assert rows[0].exists() == rows[1].exists()
    if rows[0].exists():
        assert rows[0].read_text() == rows[1].read_text()
    assert len(trials.read(one.folder.parent / "trials.jsonl")) == len(
        trials.read(other.folder.parent / "trials.jsonl")
    )


def test_the_cadence_holds_and_changes_nothing(once, tmp_path, market, monkeypatch):
    saved = noted(monkeypatch)
    result = walk_forward(config_of(2), output=tmp_path / "wf", market=market, progress=False)
    assert [iteration for iteration in saved if iteration] == [2, 4, ITERATIONS]
    assert_same(once, result, market)


def test_a_killed_one_goes_on_from_its_last_checkpoint(once, tmp_path, market, monkeypatch):
    def killed():
        raise Killed

    batches(monkeypatch, 4, killed)
    with pytest.raises(Killed):
        walk_forward(config_of(2), output=tmp_path / "wf", market=market, progress=False)
    monkeypatch.undo()
    begun = []
    iterate = training._Batch.train

    def train(self, record):
        begun.append(self.iteration)
        return iterate(self, record)

    monkeypatch.setattr(training._Batch, "train", train)
    resumed = walk_forward(config_of(2), output=tmp_path / "wf", market=market, resume=True, progress=False)
    assert begun == [2], "what was done after the checkpoint is done again, and no more"
    assert_same(once, resumed, market)


@pytest.mark.slow
def test_a_signal_stops_it_after_the_piece(once, tmp_path, market, monkeypatch):
    sent = iter([True])
    batches(monkeypatch, 2, lambda: next(sent, False) and os.kill(os.getpid(), signal.SIGINT))
    first = walk_forward(config_of(2), output=tmp_path / "wf", market=market, progress=False)
    assert (first.summary, first.signal) == (None, signal.SIGINT)
    assert not (tmp_path / "wf" / "summary.json").exists()
    monkeypatch.undo()
    checkpoints = Checkpoints(tmp_path / "wf" / AT, 1)
    assert checkpoints.latest == 2
    checkpoints.close()
    resumed = walk_forward(config_of(2), output=tmp_path / "wf", market=market, resume=True, progress=False)
    assert_same(once, resumed, market)


@pytest.mark.slow
def test_a_signal_before_the_first_iteration_leaves_nothing_to_stumble_over(once, tmp_path, market, monkeypatch):
    sent = iter([True])
    batches(monkeypatch, 0, lambda: next(sent, False) and os.kill(os.getpid(), signal.SIGINT) is None)
    first = walk_forward(config_of(2), output=tmp_path / "wf", market=market, progress=False)
    assert first.summary is None
    monkeypatch.undo()
    resumed = walk_forward(config_of(2), output=tmp_path / "wf", market=market, resume=True, progress=False)
    assert_same(once, resumed, market)


@pytest.mark.slow
def test_evaluations_stay_where_they_were(tmp_path, market, monkeypatch):
    """Three iterations from one to the next, and a checkpoint after every second one."""
    saved = noted(monkeypatch)
    rare, often = (
        walk_forward(config_of(cadence, 3), output=tmp_path / str(cadence) / "wf", market=market, progress=False)
        for cadence in (3, 2)
    )
    assert [iteration for iteration in saved if iteration] == [3, ITERATIONS, 2, 4, ITERATIONS]
    assert_same(rare, often, market)
    lines = (tmp_path / "2" / "trials.jsonl").read_text().splitlines()
    evaluated = {json.loads(line)["iteration"] for line in lines if json.loads(line)["period"] == "validation"}
    assert evaluated == {3, ITERATIONS}


@pytest.mark.slow
def test_an_agent_that_stopped_before_its_first_evaluation_is_evaluated_after_a_resume(
    tmp_path, market, monkeypatch, capsys
):
    """It stops in its first iteration; a kill comes after the checkpoint that knows it, before the evaluation."""
    stop = {"limit": "drawdown", "allowed": 0.1, "level": 0.2}

    def stopping(patch):
        calls = itertools.count()
        patch.setattr(training, "stop_in", lambda monitor, row: stop if next(calls) == 0 else None)

    def killed():
        raise Killed

    stopping(monkeypatch)
    whole = walk_forward(config_of(2), output=tmp_path / "whole" / "wf", market=market, progress=False)
    batches(monkeypatch, 4, killed)
    stopping(monkeypatch)
    with pytest.raises(Killed):
        walk_forward(config_of(2), output=tmp_path / "again" / "wf", market=market, progress=False)
    monkeypatch.undo()
    resumed = walk_forward(config_of(2), output=tmp_path / "again" / "wf", market=market, resume=True, progress=False)
    assert_same(whole, resumed, market)
    assert capsys.readouterr().err.count("fold 0, seed 7: stopped by the monitor after iteration 1") == 2


def test_a_checkpoint_of_an_earlier_version_opens():
    before = {name: value for name, value in dataclasses.asdict(Agent(1, 2)).items() if name != "last"}
    assert Agent.restored(before) == Agent(1, 2)
