"""Training the agents of a walk-forward, in batches that fit the memory; each keeps what was best on its validation."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.backtest.simulate import returns_of
from jaxppo.config import ConfigError
from jaxppo.policy.networks.actor_critic import Params, Policy
from jaxppo.ppo.learner import data_mesh, make_learner
from jaxppo.ppo.trading_task import trading_task
from jaxppo.run.checkpoints import Checkpoints
from jaxppo.run.objectives import make_reward_shaping
from jaxppo.run.setup import Setup, dropout_rate, first_policy, step_budget
from jaxppo.run.trials import sharpe_of
from jaxppo.training.loggers import Progress
from jaxppo.training.monitor import stop_in
from jaxppo.walk_forward.population import FoldParams, Population, make_population, memory_needed, memory_usable

Look = Callable[["Agent", int, np.ndarray], None]
"""`(agent, iteration, returns [n])`, called with what a checkpoint did on its validation."""


@dataclasses.dataclass
class Agent:
    """One agent, and what became of it so far.

    Attributes:
      fold: number of its fold.
      seed: of all its randomness.
      best_iteration: of the checkpoint that was best on validation.
      best_score: its Sharpe ratio a year there; None before the first look.
      looks: evaluations on validation.
      stopped: what ended its training: a watched limit, see `jaxppo.training.monitor.stop_in`, or as `limit` the
        figure that was no number.
      rows: metrics at each look, with `iteration` and `validation_sharpe`.
      iterations: that it was trained for before it was stopped.
    """

    fold: int
    seed: int
    best_iteration: int = 0
    best_score: float | None = None
    looks: int = 0
    stopped: dict[str, Any] | None = None
    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)
    iterations: int = 0


def stopped_text(stopped: dict[str, Any]) -> str:
    """What ended the training of an agent, as a line."""
    if "level" in stopped:
        reached = f"{stopped['limit']} reached {stopped['level']:.4g} where at most {stopped['allowed']:g} is allowed"
        return f"stopped by the monitor after iteration {stopped['iteration']}: {reached}"
    return f"diverged in iteration {stopped['iteration']}: {stopped['limit']}; what it was before is traded"


@dataclasses.dataclass(frozen=True)
class Job:
    """What is trained.

    Attributes:
      setup: of the first fold: environment, policy and hyper-parameters of all.
      params: of the environments of the folds.
      validation: first decision of the validation of each fold.
      n_validation: decisions of a validation.
      seeds: of the agents of each fold.
      folder: checkpoints are kept in it.
    """

    setup: Setup
    params: FoldParams
    validation: tuple[int, ...]
    n_validation: int
    seeds: tuple[int, ...]
    folder: pathlib.Path

    @property
    def agents(self) -> list[Agent]:
        """Fresh ones, fold by fold."""
        return [Agent(fold, seed) for fold in range(len(self.validation)) for seed in self.seeds]

    @property
    def steps(self) -> int:
        """Environment steps of an iteration of an agent."""
        ppo = self.setup.ppo
        return ppo.paths * ppo.portfolios * ppo.chunk

    @property
    def n_iterations(self) -> int:
        """Iterations of each agent."""
        return -(-step_budget(self.setup.config) // self.steps)

    @property
    def every(self) -> int:
        """Iterations from one look at validation to the next."""
        return min(self.setup.config.training.evaluate_every, self.n_iterations)


@dataclasses.dataclass(frozen=True)
class Programs:
    """A job, compiled.

    Attributes:
      policy: of all agents.
      population: its programs.
      iterate: `population.iterate` for `size` agents.
      size: agents in a batch.
      compile_seconds: what compiling took.
    """

    policy: Policy
    population: Population
    iterate: Callable[..., Any]
    size: int
    compile_seconds: float


def compile_job(job: Job, devices: Sequence[jax.Device], at_once: int | None, *, exactly: bool = False) -> Programs:
    """Compiles a job for as many agents at once as fit the memory, all of them if possible.

    Args:
      job: what is trained.
      devices: to spread the agents over.
      at_once: most agents in a program; None leaves it to the memory.
      exactly: `at_once` agents, whatever the memory, on as many devices as divide them.
    """
    n_agents, began = len(job.agents), time.monotonic()
    if exactly:
        devices = devices[: max(n for n in range(1, len(devices) + 1) if at_once % n == 0)]
    devices = devices[: min(len(devices), n_agents if at_once is None else at_once)]
    at_once = n_agents + len(devices) - 1 if at_once is None else at_once
    policy, net = first_policy(job.setup)
    config, ppo = job.setup.config, job.setup.ppo
    task = trading_task(policy, job.setup.env, ppo, dropout_rate(config), job.setup.monitor)
    learner = make_learner(task, ppo, data_mesh(devices[:1]), make_reward_shaping(config, job.setup.periods_per_year))
    budget = step_budget(config)

    def spent(iteration: jax.Array) -> jax.Array:
        return iteration * (job.steps / budget)

    population = make_population(job.setup, policy, learner, job.params, spent, job.every, job.n_validation, devices)
    while True:
        size = at_once if exactly else batch_size(n_agents, at_once, len(devices))
        params = job.params[[0] * size]
        states = jax.eval_shape(population.start, _repeated(net, size), jnp.zeros(size, jnp.uint32), params)
        placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=population.sharding), states)
        compiled = population.iterate.lower(placed, params, jnp.int32(0), jnp.int32(1)).compile()
        share = memory_usable(devices) / memory_needed(compiled)
        if exactly or share >= 1.0 or size == len(devices):
            return Programs(policy, population, compiled, size, time.monotonic() - began)
        at_once = max(int(size * share), len(devices))


def batch_size(n_agents: int, at_once: int, n_devices: int) -> int:
    """Agents in each of as few equal batches as possible, at most `at_once`, a multiple of the devices."""
    most = at_once // n_devices * n_devices
    n_batches = -(-n_agents // most)
    return -(-n_agents // (n_batches * n_devices)) * n_devices


def _repeated(net: Params, times: int) -> Params:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (times, *x.shape)), net)


def train_agents(
    job: Job, programs: Programs, look: Look, stop: Sequence[int], progress: bool
) -> tuple[list[Agent], Params, float] | None:
    """Trains all agents, or what an interruption has left of them.

    The budget, the schedules and the moments of validation are those of `jaxppo.train`: an agent learns what a run of
    its own learns on the same bars, up to rounding.

    Args:
      job: what is trained.
      programs: from `compile_job`.
      look: called at each look at a validation.
      stop: not empty once training is to be interrupted; what is done is saved.
      progress: report progress on stderr.

    Returns:
      The agents, for each the parameters that were best on its validation, `[agents, ...]` on the host, and the seconds
      of training over all resumes; None if interrupted.

    Raises:
      ConfigError: training of an agent diverges before it was ever looked at.
    """
    everyone, size = job.agents, programs.size
    bar = Progress(len(everyone) * job.n_iterations * job.steps, None, progress)
    trained, best, seconds = [], [], 0.0
    try:
        for start in range(0, len(everyone), size):
            kept = Checkpoints(job.folder / "checkpoints" / f"agents-{start}", 1)
            batch = _Batch(job, programs, everyone[start : start + size], kept)
            try:
                for iteration in batch.train(look):
                    batch.save_if_due(iteration, bool(stop))
                    bar.update((start * job.n_iterations + iteration * len(batch.agents)) * job.steps, 0.0)
                    if stop and iteration < job.n_iterations:
                        return None
            finally:
                kept.close()
            trained += batch.agents
            seconds += batch.seconds
            n_real = len(batch.agents)
            best.append(jax.tree.map(lambda x, n=n_real: np.asarray(x)[:n], batch.best))
    finally:
        bar.close()
    return trained, jax.tree.map(lambda *parts: np.concatenate(parts), *best), seconds


class _Batch:
    """Agents that are trained at the same time, where their checkpoint says; the last one repeated to fill the program.

    Attributes:
      agents: those that count.
      best: parameters that were best on validation, `[size, ...]`.
      seconds: of training and looking, over all resumes.
    """

    def __init__(self, job: Job, programs: Programs, agents: list[Agent], kept: Checkpoints):
        self.job, self.programs, self.agents, self.kept = job, programs, agents, kept
        every = [*agents, *[agents[-1]] * (programs.size - len(agents))]
        self.params = job.params[[agent.fold for agent in every]]
        self.first = self._placed(np.array([job.validation[agent.fold] for agent in every], np.int32))
        seeds = np.array([agent.seed for agent in every], np.uint32)
        nets = {seed: first_policy(_seeded(job.setup, seed))[1] for seed in dict.fromkeys(job.seeds)}
        net = self._placed(jax.tree.map(lambda *x: np.stack(x), *(nets[agent.seed] for agent in every)))
        self.state = programs.population.start(net, self._placed(seeds), self.params)
        self.best, self.iteration, self.seconds = jax.tree.map(jnp.copy, net), 0, 0.0
        if kept.latest is not None:
            saved, host = kept.restore({"state": self.state, "best": self.best})
            self.state, self.best = self._placed(saved["state"]), self._placed(saved["best"])
            self.iteration, self.seconds = host["iteration"], host["seconds"]
            self.agents = [Agent(**fields) for fields in host["agents"]]

    def _placed(self, tree: Any) -> Any:
        return jax.device_put(tree, self.programs.population.sharding)

    def train(self, look: Look) -> Iterator[int]:
        """Goes on to the end; yields the number of iterations done after each look at the validations."""
        job, programs = self.job, self.programs
        yield self.iteration
        while self.iteration < job.n_iterations and not all(agent.stopped for agent in self.agents):
            count, began = min(job.every, job.n_iterations - self.iteration), time.monotonic()
            self.state, metrics = programs.iterate(self.state, self.params, jnp.int32(self.iteration), jnp.int32(count))
            rows = {name: np.asarray(values)[:, :count] for name, values in jax.device_get(metrics).items()}
            equity = programs.population.equity(self.state.params, self.params, self.first)
            self.iteration += count
            better = np.zeros(programs.size, bool)
            for place, (agent, returns) in enumerate(zip(self.agents, returns_of(equity), strict=False)):
                own = {name: values[place] for name, values in rows.items()}
                better[place] = self._judged(agent, own, returns, look)
            self.best = _chosen(self.best, self.state.params, self._placed(better))
            self.seconds += time.monotonic() - began
            yield self.iteration

    def _judged(self, agent: Agent, rows: dict[str, np.ndarray], returns: np.ndarray, look: Look) -> bool:
        """Whether the agent is better now than ever; one that was stopped is not looked at any more.

        Raises:
          ConfigError: a figure is no number, and the agent was never looked at.
        """
        if agent.stopped:
            return False
        count = len(next(iter(rows.values())))
        for offset in range(count):
            row, iteration = {name: float(x[offset]) for name, x in rows.items()}, self.iteration - count + 1 + offset
            found = self._not_finite(agent, iteration, row) or stop_in(self.job.setup.monitor, row)
            agent.iterations = iteration
            if found:
                agent.stopped = {**found, "iteration": iteration}
                break
        if agent.stopped and agent.looks:
            return False
        finite = np.isfinite(returns).all()
        score = sharpe_of(returns) * self.job.setup.periods_per_year**0.5 if finite else math.nan
        row |= {"validation_sharpe": score}
        found = self._not_finite(agent, self.iteration, row)
        if found:
            agent.stopped = {**found, "iteration": self.iteration}
            return False
        look(agent, self.iteration, returns)
        agent.looks += 1
        agent.rows.append({"iteration": self.iteration, **row})
        if agent.best_score is not None and score < agent.best_score:
            return False
        agent.best_score, agent.best_iteration = score, self.iteration
        return True

    def _not_finite(self, agent: Agent, iteration: int, row: dict[str, float]) -> dict[str, str] | None:
        """The first figure that is no number; None for none.

        Raises:
          ConfigError: there is one, and the agent was never looked at.
        """
        bad = next((name for name, value in row.items() if not math.isfinite(value)), None)
        if bad is not None and not agent.looks:
            raise ConfigError(
                f"training diverged in fold {agent.fold}, seed {agent.seed}, iteration {iteration}: {bad} is {row[bad]}"
                f"; ppo.learning_rate is {self.job.setup.ppo.learning_rate:g}, try a smaller one"
            )
        return None if bad is None else {"limit": f"{bad} is {row[bad]}"}

    def save_if_due(self, iteration: int, stopping: bool) -> None:
        """A checkpoint at the end, before an interruption, and as often as the configuration says."""
        cadence = self.job.setup.config.training.checkpoint_every
        last = self.kept.latest
        due = iteration >= self.job.n_iterations or all(agent.stopped for agent in self.agents) or stopping
        if iteration != last and (due or iteration - (last or 0) >= cadence):
            host = {
                "iteration": iteration,
                "seconds": self.seconds,
                "agents": [dataclasses.asdict(agent) for agent in self.agents],
            }
            self.kept.save(iteration, {"state": self.state, "best": self.best}, host)


def _seeded(setup: Setup, seed: int) -> Setup:
    return dataclasses.replace(setup, config=setup.config.model_copy(update={"seed": seed}))


@jax.jit
def _chosen(old: Params, new: Params, better: jax.Array) -> Params:
    """Parameters `[agents, ...]` of the new networks where `better` `[agents]`, else of the old ones."""
    return jax.tree.map(lambda x, y: jnp.where(better.reshape(-1, *[1] * (x.ndim - 1)), y, x), old, new)
