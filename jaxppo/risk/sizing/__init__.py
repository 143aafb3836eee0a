"""Sizing transforms: from the targets of a decision to the sizes that are traded."""

from jaxppo.risk.sizing.transform import ScaleState, SizingTransform, chain, scaling

__all__ = ["ScaleState", "SizingTransform", "chain", "scaling"]
