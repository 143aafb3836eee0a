"""Training the agents of a walk-forward, in batches that fit the memory; each keeps what was best on its validation."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.backtest.evaluation import annual_error
from jaxppo.backtest.ledger import returns_of
from jaxppo.errors import ConfigError
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.run.checkpoints import Checkpoints
from jaxppo.run.progress import Progress
from jaxppo.run.setup import Setup, first_policy
from jaxppo.run.start import make_start
from jaxppo.run.trials import sharpe_of
from jaxppo.training.monitor import stop_in, stop_message
from jaxppo.training.recovery import LostIteration, check_iteration, divergence
from jaxppo.walk_forward.job import Agent, Job
from jaxppo.walk_forward.programs import Programs

Record = Callable[[int, Sequence[tuple[Agent, np.ndarray]]], None]
"""`(iteration, [(agent, returns [n])])`, called with the returns of checkpoints on their validation."""


def stopped_text(stopped: dict[str, Any]) -> str:
    """Why the training of an agent ended, in a line."""
    if "level" in stopped:
        return stop_message(stopped)
    return f"diverged in iteration {stopped['iteration']}: {stopped['limit']}; what it was before is traded"


class Trained(NamedTuple):
    """Agents, and what they were trained to; leading axis agents, on the host.

    Attributes:
      agents: in the order of the job.
      best: parameters that were best on their validation.
      untrained: parameters before training.
      states: states of training after the last iteration; `()` where they were not asked for.
      seconds: of training and evaluation, over all resumes.
    """

    agents: list[Agent]
    best: Params
    untrained: Params
    states: Any
    seconds: float

    def at(self, places: Sequence[int]) -> Trained:
        """Some of the agents."""
        chosen = np.asarray(places)
        best, untrained, states = jax.tree.map(lambda x: x[chosen], (self.best, self.untrained, self.states))
        return Trained([self.agents[place] for place in places], best, untrained, states, self.seconds)


def train_agents(
    job: Job,
    programs: Programs,
    record: Record,
    stop: Sequence[int],
    progress: bool,
    *,
    begun: Trained | None = None,
    name: str | None = None,
) -> Trained | None:
    """Trains all agents, or goes on after an interruption.

    The budget, the schedules and the moments of validation are those of `jaxppo.train`: an agent learns what a single
    run learns on the same bars, up to rounding.

    Args:
      job: what is trained.
      programs: from `jaxppo.walk_forward.programs.compile_job`.
      record: called at each evaluation on a validation.
      stop: not empty once training is to be interrupted; what is done is saved.
      progress: report progress on stderr.
      begun: the agents of the job after some iterations, to be trained on; None for untrained ones.
      name: of a rung, after which the agents may be trained on: its checkpoints bear it, and states are kept; None
        trains to the end.

    Returns:
      The agents; None if interrupted.

    Raises:
      ConfigError: training of an agent diverges before its first evaluation.
    """
    everyone, size = job.agents if begun is None else begun.agents, programs.size
    bar = Progress(len(everyone) * job.n_iterations * job.steps, None, progress)
    bar.announce("training")
    trained, seconds = [], 0.0
    parts: list[Any] = []
    try:
        for start in range(0, len(everyone), size):
            checkpoints = Checkpoints(job.folder / "checkpoints" / f"{name or 'agents'}-{start}", 1)
            agents = everyone[start : start + size]
            part = None if begun is None else begun.at(range(start, start + len(agents)))
            batch = _Batch(job, programs, agents, checkpoints, part)
            try:
                for iteration in batch.train(record):
                    batch.save_if_due(iteration, bool(stop))
                    bar.update((start * job.n_iterations + iteration * len(batch.agents)) * job.steps, 0.0)
                    if stop and iteration < job.n_iterations:
                        return None
            finally:
                checkpoints.close()
            trained += batch.agents
            seconds += batch.seconds
            n_real = len(batch.agents)
            arrays = jax.device_get((batch.best, batch.untrained, () if name is None else batch.state))
            parts.append(jax.tree.map(lambda x, n=n_real: x[:n], arrays))
    finally:
        bar.close()
    best, untrained, states = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    return Trained(trained, best, untrained, states, seconds)


class _Batch:
    """Agents that are trained at the same time, from their checkpoint on; the last one repeated to fill the program.

    Attributes:
      agents: those that count.
      untrained: parameters before training, `[size, ...]` on the host.
      best: parameters that were best on validation, `[size, ...]`.
      seconds: of training and evaluation, over all resumes.
    """

    def __init__(
        self,
        job: Job,
        programs: Programs,
        agents: list[Agent],
        checkpoints: Checkpoints,
        begun: Trained | None = None,
    ):
        self.job, self.programs, self.agents, self.checkpoints = job, programs, agents, checkpoints
        # The program is compiled for a fixed number of agents: the last batch is filled with copies of its last agent.
        every = [*agents, *[agents[-1]] * (programs.size - len(agents))]
        self.params = job.params[[agent.fold for agent in every]]
        self.first = self._placed(np.array([job.validation[agent.fold] for agent in every], np.int32))
        self.values = self._placed(
            {key: np.array([agent.values[key] for agent in every], np.float32) for key in job.values[0]}
        )
        seeds = np.array([agent.seed for agent in every], np.uint32)
        net = self._placed(_first_policies(job, programs.network, every))
        self.state = programs.population.start(net, self._placed(seeds), self.params)
        self.untrained, self.best = jax.device_get(net), jax.tree.map(jnp.copy, net)
        self.iteration, self.seconds = 0, 0.0
        if begun is not None:
            fill = [*range(len(agents)), *[len(agents) - 1] * (programs.size - len(agents))]
            self.best, self.untrained, self.state = self._placed(begun.at(fill)[1:4])
            self.iteration = int(np.max(begun.states.iteration))
        if checkpoints.latest is not None:
            saved, host = checkpoints.restore_newest({"state": self.state, "best": self.best})
            self.state, self.best = self._placed(saved["state"]), self._placed(saved["best"])
            self.iteration, self.seconds, self.agents = _restored(host, agents, job.n_iterations)

    def _placed(self, tree: Any) -> Any:
        return jax.device_put(tree, self.programs.population.sharding)

    def train(self, record: Record) -> Iterator[int]:
        """Goes on to the end; yields the number of iterations done where an evaluation or a checkpoint is due."""
        job, programs = self.job, self.programs
        yield self.iteration
        while not self.finished:
            count, began = job.next_pause(self.iteration) - self.iteration, time.monotonic()
            span = jnp.int32(self.iteration), jnp.int32(count)
            self.state, metrics = programs.iterate(self.state, self.params, self.values, *span)
            rows = {name: np.asarray(values)[:, :count] for name, values in jax.device_get(metrics).items()}
            self.iteration += count
            for place, agent in enumerate(self.agents):
                self._follow(agent, {name: values[place] for name, values in rows.items()})
            if job.is_evaluated_after(self.iteration):
                self._validate(record)
            self.seconds += time.monotonic() - began
            yield self.iteration

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train or to evaluate."""
        stopped = all(agent.stopped and not _to_evaluate(agent) for agent in self.agents)
        return self.iteration >= self.job.n_iterations or stopped

    def _follow(self, agent: Agent, rows: dict[str, np.ndarray]) -> None:
        """Counts and checks the last iterations of an agent, up to the one in which it stops.

        Raises:
          ConfigError: a figure is not finite, and the agent was never evaluated.
        """
        if agent.stopped:
            return
        count = len(next(iter(rows.values())))
        for offset in range(count):
            row, iteration = {name: float(x[offset]) for name, x in rows.items()}, self.iteration - count + 1 + offset
            skipped = row.pop("skipped_updates")
            agent.skipped_updates += int(skipped)
            lost = self._lost(agent, iteration, row, skipped)
            found = lost or stop_in(self.job.setup.monitor, row)
            agent.iterations, agent.last = iteration, {} if lost else row
            if found:
                agent.stopped = {**found, "iteration": iteration}
                return

    def _validate(self, record: Record) -> None:
        """Evaluates the agents on their validations, and keeps the parameters of those that are better than ever."""
        equity = self.programs.population.equity(self.state.params, self.params, self.first)
        better = np.zeros(self.programs.size, bool)
        evaluated: list[tuple[Agent, np.ndarray]] = []
        for place, (agent, returns) in enumerate(zip(self.agents, returns_of(equity), strict=False)):
            known = agent.evaluations
            better[place] = self._evaluate(agent, returns)
            agent.last = {}
            evaluated += [(agent, returns)] if agent.evaluations > known else []
        if evaluated:
            record(self.iteration, evaluated)
        self.best = _chosen(self.best, self.state.params, self._placed(better))

    def _evaluate(self, agent: Agent, returns: np.ndarray) -> bool:
        """Whether the agent is better now than ever; one that was stopped is not evaluated any more.

        Raises:
          ConfigError: a figure is not finite, and the agent was never evaluated.
        """
        if agent.stopped and not _to_evaluate(agent):
            return False
        row = dict(agent.last)
        finite = np.isfinite(returns).all()
        score = sharpe_of(returns) * self.job.setup.periods_per_year**0.5 if finite else math.nan
        row |= {"validation_sharpe": score}
        found = self._lost(agent, self.iteration, row)
        if found:
            agent.stopped = {**found, "iteration": self.iteration}
            return False
        known = annual_error(returns, self.job.setup.periods_per_year)
        row |= {f"validation_{name}": value for name, value in known.items()}
        agent.evaluations += 1
        agent.rows.append({"iteration": self.iteration, **row})
        if agent.best_score is not None and score < agent.best_score:
            return False
        agent.best_score, agent.best_iteration = score, self.iteration
        return True

    def _lost(self, agent: Agent, iteration: int, row: dict[str, float], skipped: float = 0.0) -> dict[str, str] | None:
        """What is not finite in a lost iteration, as `limit`; None for one that is not lost.

        Raises:
          ConfigError: it is, and the agent was never evaluated.
        """
        try:
            check_iteration(iteration, row, skipped, self.job.setup.ppo)
        except LostIteration as lost:
            if not agent.evaluations and not self.job.tolerant:
                where = f"fold {agent.fold}, seed {agent.seed}, iteration {iteration}"
                raise divergence(where, lost, self.job.setup.ppo.learning_rate) from None
            return {"limit": lost.figure}
        return None

    def save_if_due(self, iteration: int, stopping: bool) -> None:
        """Saves a checkpoint at the end, before an interruption, and as often as the configuration says."""
        cadence = self.job.setup.config.training.checkpoint_every
        last = self.checkpoints.latest or 0
        due = self.finished or stopping or iteration // cadence > last // cadence
        if iteration != last and due:  # before the first iteration there is nothing to go on from
            host = {
                "iteration": iteration,
                "seconds": self.seconds,
                "agents": [dataclasses.asdict(agent) for agent in self.agents],
            }
            self.checkpoints.save(iteration, {"state": self.state, "best": self.best}, host)


def _to_evaluate(agent: Agent) -> bool:
    """Whether a stopped agent still has to be evaluated."""
    # One that a limit stops before its first evaluation is evaluated once: every fold needs one to trade.
    return not agent.evaluations and agent.stopped is not None and "level" in agent.stopped


def _restored(host: dict[str, Any], agents: Sequence[Agent], most: int) -> tuple[int, float, list[Agent]]:
    """Iterations, seconds and agents of a checkpoint.

    Args:
      host: of the checkpoint.
      agents: untrained, that it should be of.
      most: iterations at most.

    Raises:
      ConfigError: it holds something else.
    """
    iteration, seconds, saved = host.get("iteration"), host.get("seconds"), host.get("agents")
    found = [Agent.restored(fields) for fields in saved] if isinstance(saved, list) else []
    if not isinstance(iteration, int) or not 0 < iteration <= most or not isinstance(seconds, (int, float)):
        raise ConfigError(f"the last checkpoint is damaged: {str(host)[:200]}")
    if [_who(agent) for agent in found] != [_who(agent) for agent in agents]:
        raise ConfigError(f"the last checkpoint is damaged, or of other agents: {str(host)[:200]}")
    return iteration, seconds, found


def _who(agent: Agent) -> tuple[Any, ...]:
    return agent.fold, agent.seed, agent.values


def _first_policies(job: Job, network: ActorCritic, agents: Sequence[Agent]) -> Params:
    """Parameters of agents before any training, `[agents, ...]` on the host."""
    start, found = make_start(job.setup, network), {}
    drawn = {seed: first_policy(_seeded(job.setup, seed))[1] for seed in dict.fromkeys(job.seeds)}
    for agent in agents:
        # The last agent of a batch may come several times.
        if (agent.fold, agent.seed) not in found:
            net = start(drawn[agent.seed], job.params.one(agent.fold), agent.seed)
            found[agent.fold, agent.seed] = jax.device_get(net)
    return jax.tree.map(lambda *x: np.stack(x), *(found[agent.fold, agent.seed] for agent in agents))


def _seeded(setup: Setup, seed: int) -> Setup:
    return dataclasses.replace(setup, config=setup.config.model_copy(update={"seed": seed}))


@jax.jit
def _chosen(old: Params, new: Params, better: jax.Array) -> Params:
    """Takes the new parameters `[agents, ...]` where `better` `[agents]`, else the old ones."""
    return jax.tree.map(lambda x, y: jnp.where(better.reshape(-1, *[1] * (x.ndim - 1)), y, x), old, new)
