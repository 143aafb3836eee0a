"""Policy networks: an encoder that reads the market once per chunk, and a head that adds the portfolio."""

from jaxppo.networks import inspect
from jaxppo.networks.config import EncoderConfig
from jaxppo.networks.encoder import Bars, Cache, Encoder
from jaxppo.networks.head import ActionConfig
from jaxppo.networks.policy import Policy, make_policy

__all__ = [
    "ActionConfig",
    "Bars",
    "Cache",
    "Encoder",
    "EncoderConfig",
    "Policy",
    "inspect",
    "make_policy",
]
