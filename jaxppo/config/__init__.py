"""Configuration of a run: one YAML file, checked before anything is compiled."""

from jaxppo.config.digest import digest_tree
from jaxppo.config.evaluation import EvaluationConfig
from jaxppo.config.given import OwnParts, with_own
from jaxppo.config.load import dump_config, load_config, validate_config
from jaxppo.config.schema import (
    PERIODS,
    Config,
    CostsConfig,
    DataConfig,
    EnvConfig,
    FeaturesConfig,
    PathwiseConfig,
    PolicyConfig,
    PPOConfig,
    RegimesConfig,
    TrainingConfig,
)
from jaxppo.errors import ConfigError

__all__ = [
    "PERIODS",
    "Config",
    "ConfigError",
    "CostsConfig",
    "DataConfig",
    "EnvConfig",
    "EvaluationConfig",
    "FeaturesConfig",
    "OwnParts",
    "PPOConfig",
    "PathwiseConfig",
    "PolicyConfig",
    "RegimesConfig",
    "TrainingConfig",
    "digest_tree",
    "dump_config",
    "load_config",
    "validate_config",
    "with_own",
]
