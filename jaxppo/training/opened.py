"""What a training begins with: a new folder, or one that is resumed, and the configuration that it was started with."""

from __future__ import annotations

import pathlib

from jaxppo.config import Config, validate_config
from jaxppo.errors import ConfigError
from jaxppo.run import folder as run_folder
from jaxppo.run.processes import Group
from jaxppo.run.setup import as_started
from jaxppo.tracking.flat import flat_config


def opened(
    config: Config, output: str | pathlib.Path | None, resume: bool, group: Group
) -> tuple[Config, pathlib.Path | None]:
    """The configuration to train, and the folder to go on with; of several processes only the first looks at folders.

    Args:
      config: as given.
      output: folder of the run, as given.
      resume: whether to continue the run in it.
      group: the processes, all of which must have been given the same configuration.

    Returns:
      The configuration with what was decided when the run was started, and the folder that is resumed; None for a new
      run, and on processes that do not lead.

    Raises:
      ConfigError: `output` does not allow it, or the configurations differ.
    """
    group.agree("the configuration", flat_config(config))
    if not group.leads:
        saved = group.hear("open")["saved"]
        return config if saved is None else as_started(config, validate_config(saved)), None
    if not resume:
        run_folder.check_output(output)
        group.tell("open", saved=None)
        return config, None
    if output is None:
        raise ConfigError("--resume needs --output: the folder of the run to continue")
    resumed, started = run_folder.open_folder(output)
    if "sweep" in run_folder.read_metadata(resumed):
        raise ConfigError(f"--resume: {resumed} is the best agent of a sweep, which is not trained on")
    config = as_started(config, started)
    run_folder.check_same_run(started, config)
    group.tell("open", saved=started.model_dump(mode="json"))
    return config, resumed
