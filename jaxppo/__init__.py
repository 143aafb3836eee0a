"""PPO trading agents, trained, validated and shipped in JAX."""

from jaxppo import backtest, networks, ppo, risk
from jaxppo.config import Config, ConfigError, load_config
from jaxppo.training.trainer import TrainResult, train

__all__ = ["Config", "ConfigError", "TrainResult", "backtest", "load_config", "networks", "ppo", "risk", "train"]
