"""Proximal policy optimisation on batches of P paths and K portfolios."""

from jaxppo.policy.rollout import Rollout
from jaxppo.ppo.iteration import TrainState
from jaxppo.ppo.learner import Learner, data_mesh, make_learner
from jaxppo.ppo.returns import generalised_advantage_estimation, lambda_returns, n_step_returns
from jaxppo.ppo.task import Task
from jaxppo.ppo.trading_task import trading_task

__all__ = [
    "Learner",
    "Rollout",
    "Task",
    "TrainState",
    "data_mesh",
    "generalised_advantage_estimation",
    "lambda_returns",
    "make_learner",
    "n_step_returns",
    "trading_task",
]
