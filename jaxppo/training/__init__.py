"""The host side of training: experiments, the loop, checkpoints, loggers."""

from jaxppo.training.experiment import Evaluator
from jaxppo.training.trainer import TrainResult, train

__all__ = ["Evaluator", "TrainResult", "train"]
