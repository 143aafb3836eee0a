"""Risk: metrics of return series."""

from jaxppo.risk import metrics

__all__ = ["metrics"]
