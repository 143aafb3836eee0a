"""Risk: metrics of return series, whole or bar by bar; what training is rewarded for; limits that are watched."""

from jaxppo.risk import metrics, monitor, rewards, streaming

__all__ = ["metrics", "monitor", "rewards", "streaming"]
