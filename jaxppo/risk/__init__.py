"""Risk: metrics of return series, whole or bar by bar; sizing of positions."""

from jaxppo.risk import metrics, sizing, streaming

__all__ = ["metrics", "sizing", "streaming"]
