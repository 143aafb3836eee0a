"""Keys of experiment tracking: where figures and results of a training are sent beside its folder."""

from __future__ import annotations

import re
from typing import Literal

from jaxppo.arguments import Text
from jaxppo.config.items import Keys

WANDB_NAME = re.compile(r"[^/\\#?%:]{1,128}")
"""Names of projects and entities of Weights & Biases."""
LONGEST_TAG = 64
"""Characters of a tag of Weights & Biases."""
LONGEST_EXPERIMENT = 500
"""Characters of the name of an experiment of MLflow."""
MLFLOW_KEY = re.compile(r"[\w./: -]{1,250}")
"""Names of tags of MLflow."""
SCHEME = re.compile(r"([\w-]+)(?:\+\w+)?:")
"""Begins an address; `sqlite` and `postgresql` may name a driver."""
STORES = ("http", "https", "databricks", "sqlite", "postgresql", "mysql", "mssql", "file")
"""Schemes of addresses of MLflow; `file` and a folder alone are left to MLflow, whose versions differ."""


class WandbConfig(Keys):
    """Weights & Biases; needs `pip install 'jaxppo[wandb]'`."""

    project: Text | None = None
    """Project that the run is sent to; naming it turns tracking on."""
    entity: Text | None = None
    """User or team that owns the project; absent: the default of the account."""
    name: Text | None = None
    """Name of the run; absent: that of its folder."""
    group: Text | None = None
    """Group of runs that it is shown in."""
    tags: tuple[Text, ...] = ()
    """Tags of the run, of up to 64 characters."""
    mode: Literal["online", "offline", "disabled"] | None = None
    """Send at once, write beside the run folder for `wandb sync`, or neither; absent: WANDB_MODE of the environment, or
    online."""


class MlflowConfig(Keys):
    """MLflow; needs `pip install 'jaxppo[mlflow]'`."""

    experiment: Text | None = None
    """Experiment that the run is written to, made if it is not there; naming it turns tracking on."""
    uri: Text | None = None
    """Database such as sqlite:///mlflow.db, or server such as http://localhost:5000; absent: MLFLOW_TRACKING_URI of
    the environment, or mlflow.db in the working directory."""
    name: Text | None = None
    """Name of the run; absent: that of its folder."""
    tags: dict[str, Text] | None = None
    """Tags of the run, such as `{desk: rates}`."""


class TrackingConfig(Keys):
    """Experiment tracking; changes nothing of a run, and its failures do not end one."""

    wandb: WandbConfig = WandbConfig()
    mlflow: MlflowConfig = MlflowConfig()


def check_tracking(tracking: TrackingConfig) -> None:
    """Refuses names that the trackers would refuse, and keys that nothing reads.

    Args:
      tracking: the section.

    Raises:
      ValueError: names the key, its value and what is allowed.
    """
    for name, switch in (("wandb", "project"), ("mlflow", "experiment")):
        keys = getattr(tracking, name)
        if getattr(keys, switch) is None and keys != type(keys)():
            given = next(key for key in type(keys).model_fields if getattr(keys, key) not in (None, ()))
            raise ValueError(f"tracking.{name}.{given} is given, but tracking.{name}.{switch} is not; name it")
    wandb, mlflow = tracking.wandb, tracking.mlflow
    for key in ("project", "entity"):
        value = getattr(wandb, key)
        if value is not None and not WANDB_NAME.fullmatch(value):
            raise ValueError(
                f"tracking.wandb.{key} is {value!r}; allowed: up to 128 characters without / \\ # ? % and colons"
            )
    if long := next((tag for tag in wandb.tags if len(tag) > LONGEST_TAG), None):
        raise ValueError(f"tracking.wandb.tags has {long!r}; allowed: up to {LONGEST_TAG} characters each")
    if len(mlflow.experiment or "") > LONGEST_EXPERIMENT:
        raise ValueError(f"tracking.mlflow.experiment has more than {LONGEST_EXPERIMENT} characters")
    if wrong := next((key for key in mlflow.tags or () if not MLFLOW_KEY.fullmatch(key)), None):
        raise ValueError(f"tracking.mlflow.tags names {wrong!r}; allowed: letters, digits, spaces and _ - . / :")
    scheme = SCHEME.match(mlflow.uri or "")
    if scheme and scheme[1] not in STORES:
        raise ValueError(
            f"tracking.mlflow.uri is {mlflow.uri!r}; allowed: a database such as sqlite:///mlflow.db, or a server such "
            "as http://localhost:5000"
        )
