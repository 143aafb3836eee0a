"""Policy networks: an encoder that reads the market once per chunk, and a head that adds the portfolio."""

from jaxppo.networks.attention import attention_over_assets, rotate, sliding_window_attention
from jaxppo.networks.encoder import Encoder, EncoderConfig
from jaxppo.networks.policy import ActionConfig, Policy, make_policy

__all__ = [
    "ActionConfig",
    "Encoder",
    "EncoderConfig",
    "Policy",
    "attention_over_assets",
    "make_policy",
    "rotate",
    "sliding_window_attention",
]
