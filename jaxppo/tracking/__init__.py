"""Where a training is recorded beside its folder: TensorBoard, Weights & Biases, MLflow, and loggers of your own."""

from jaxppo.tracking.broadcast import Loggers, in_background
from jaxppo.tracking.configured import make_loggers
from jaxppo.tracking.mlflow_store import MLflow
from jaxppo.tracking.protocol import Curves, LoggedRun, Logger, Results, Status
from jaxppo.tracking.tensorboard import TensorBoard
from jaxppo.tracking.weights_and_biases import WeightsAndBiases

__all__ = [
    "Curves",
    "LoggedRun",
    "Logger",
    "Loggers",
    "MLflow",
    "Results",
    "Status",
    "TensorBoard",
    "WeightsAndBiases",
    "in_background",
    "make_loggers",
]
