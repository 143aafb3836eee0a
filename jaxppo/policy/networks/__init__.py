"""Policy networks: an encoder that reads the market once per chunk, and a head that adds the portfolio."""

from jaxppo.policy.networks import inspect
from jaxppo.policy.networks.actor_critic import ActorCritic, make_actor_critic
from jaxppo.policy.networks.config import EncoderConfig
from jaxppo.policy.networks.encoder import Bars, Cache, Encoder
from jaxppo.policy.networks.head import ActionConfig
from jaxppo.policy.networks.own import OwnNetwork, sliding

__all__ = [
    "ActionConfig",
    "ActorCritic",
    "Bars",
    "Cache",
    "Encoder",
    "EncoderConfig",
    "OwnNetwork",
    "inspect",
    "make_actor_critic",
    "sliding",
]
