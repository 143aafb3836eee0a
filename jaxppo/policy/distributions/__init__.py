"""Action distributions: one independent component per asset, joint log-probability and entropy summed over assets."""

from jaxppo.policy.distributions.continuous import Beta, ClippedGaussian, Gaussian, SquashedGaussian
from jaxppo.policy.distributions.discrete import DirectionAndSize, Hierarchical, MaskedCategorical

__all__ = [
    "Beta",
    "ClippedGaussian",
    "DirectionAndSize",
    "Gaussian",
    "Hierarchical",
    "MaskedCategorical",
    "SquashedGaussian",
]
