"""The loggers of a training: those of its configuration and those that were given in Python."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence

from jaxppo.config import Config
from jaxppo.config.tracking import MlflowConfig
from jaxppo.errors import ConfigError
from jaxppo.tracking.broadcast import Loggers, in_background
from jaxppo.tracking.mlflow_store import MLflow
from jaxppo.tracking.protocol import Logger
from jaxppo.tracking.weights_and_biases import WeightsAndBiases

METHODS = ("start", "write", "finish", "close")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def make_loggers(config: Config, given: Sequence[Logger] = (), first: Sequence[Logger] = ()) -> Loggers:
    """Makes the loggers of a training, and checks that those of the configuration can work.

    Args:
      config: of the run; `tracking` names the trackers.
      given: loggers of the user's own.
      first: loggers that come before all others.

    Raises:
      ConfigError: a package or a key of W&B is missing, MLflow does not take its address, or one that is given is no
        logger.
    """
    for number, logger in enumerate(given):
        lacking = next((name for name in METHODS if not callable(getattr(logger, name, None))), None)
        if isinstance(logger, type) or lacking is not None:
            what = f"the class {logger.__name__}, not an object of it" if isinstance(logger, type) else repr(logger)
            raise ConfigError(f"loggers[{number}] is {what}; allowed: objects with the methods {', '.join(METHODS)}")
    found = [*first]
    mode = config.tracking.wandb.mode or os.environ.get("WANDB_MODE", "online")
    if config.tracking.wandb.project is not None and mode != "disabled":
        _check_wandb(mode)
        found.append(in_background(WeightsAndBiases(config.tracking.wandb)))
    if config.tracking.mlflow.experiment is not None:
        _check_mlflow(config.tracking.mlflow)
        found.append(in_background(MLflow(config.tracking.mlflow)))
    return Loggers([*found, *given])


def _check_wandb(mode: str) -> None:
    """Refuses what would leave a training without its tracking, as far as that can be seen without the network."""
    _check_installed("wandb", "tracking.wandb.project", "wandb")
    if mode != "online":
        return
    import wandb

    try:
        known = wandb.login(prompt=False)
    except Exception as error:
        raise ConfigError(f"tracking.wandb.project is given, but the key of W&B is none: {error}") from None
    if not known:
        raise ConfigError(
            "tracking.wandb.project is given, but there is no key of W&B: run `wandb login`, set WANDB_API_KEY, or set "
            "tracking.wandb.mode offline"
        )


def _check_mlflow(config: MlflowConfig) -> None:
    """Refuses addresses that MLflow does not take, without the network."""
    _check_installed("mlflow", "tracking.mlflow.experiment", "mlflow")
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme in DATABASES:
        _check_installed("sqlalchemy", f"tracking.mlflow.uri {scheme}", "mlflow")
    elif scheme == "file" or "://" not in uri:
        import mlflow

        try:
            mlflow.MlflowClient(tracking_uri=config.uri)
        except mlflow.MlflowException as error:
            raise ConfigError(f"tracking.mlflow.uri is {uri!r}; MLflow says: {error}") from None


def _check_installed(package: str, key: str, extra: str) -> None:
    """Refuses a key whose package is missing; a folder of that name, such as W&B leaves, is no package.

    It is imported here, since threads that import the same packages at the same time may see half of them.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ConfigError(f"{key} needs the package {package}: pip install 'jaxppo[{extra}]'")
    try:
        importlib.import_module(package)
    except Exception as error:
        raise ConfigError(f"{key} needs the package {package}, which cannot be imported: {error}") from None
