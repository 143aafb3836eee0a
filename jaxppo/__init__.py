"""PPO trading agents, trained, validated and shipped in JAX."""

from jaxppo import backtest, masks, ppo, risk
from jaxppo.config import Config, ConfigError, load_config
from jaxppo.envs.market import regimes
from jaxppo.policy import networks
from jaxppo.training.trainer import TrainResult, train

__all__ = [
    "Config",
    "ConfigError",
    "TrainResult",
    "backtest",
    "load_config",
    "masks",
    "networks",
    "ppo",
    "regimes",
    "risk",
    "train",
]
