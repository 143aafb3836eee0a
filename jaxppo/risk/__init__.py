"""Risk: metrics of return series, whole or bar by bar."""

from jaxppo.risk import metrics, streaming

__all__ = ["metrics", "streaming"]
