"""Risk: metrics of return series, whole or bar by bar; sizing of positions; books of strategies."""

from jaxppo.risk import book, metrics, sizing, streaming

__all__ = ["book", "metrics", "sizing", "streaming"]
