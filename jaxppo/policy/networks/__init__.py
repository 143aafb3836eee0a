"""Policy networks: an encoder that reads the market once per chunk, and a head that adds the portfolio."""

from jaxppo.policy.networks import inspect
from jaxppo.policy.networks.actor_critic import Policy, make_policy
from jaxppo.policy.networks.config import EncoderConfig
from jaxppo.policy.networks.encoder import Bars, Cache, Encoder
from jaxppo.policy.networks.head import ActionConfig

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
