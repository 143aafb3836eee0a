"""Proximal policy optimisation on batches of P market paths and K portfolios."""

from jaxppo.ppo.learner import Learner, TrainState, data_mesh, make_learner
from jaxppo.ppo.returns import generalised_advantage_estimation
from jaxppo.ppo.rollout import PathState, Rollout

__all__ = [
    "Learner",
    "PathState",
    "Rollout",
    "TrainState",
    "data_mesh",
    "generalised_advantage_estimation",
    "make_learner",
]
