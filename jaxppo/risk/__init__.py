"""Risk: metrics of return series, whole or bar by bar; sizing of positions; rewards of training; watched limits."""

from jaxppo.risk import metrics, monitor, rewards, sizing, streaming

__all__ = ["metrics", "monitor", "rewards", "sizing", "streaming"]
