"""Shape of the encoder."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jaxppo.policy.networks.own import OwnNetwork
from jaxppo.policy.networks.positions import POSITIONS

KINDS = ("transformer", "mlp", "linear")
REMATERIALISE = ("none", "minimal", "full")
DROPOUT_PLACES_OF_A_BLOCK = 3
ATTENTION = ("xla", "cudnn")
PORTFOLIO = ("add", "film", "cross_attention")


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Shape of the encoder (static).

    Attributes:
      kind: "transformer"; "mlp", which reads the current bar only; "linear", likewise, without hidden layers; or the
        name of `own`.
      groups: width of each feature group, in column order; each has its own embedding.
      width: D, model width.
      layers: number of blocks, >= 1.
      heads: attention heads; twice their number must divide `width`.
      window: bars that one layer of attention sees; this and what follows, but for `dtype`, is read by the
        transformer only.
      expansion: hidden width of the feed-forward part, in multiples of `width`.
      asset_attention: attend across assets at each bar.
      dtype: compute dtype; parameters are float32.
      positions: one of `jaxppo.policy.networks.positions.POSITIONS`.
      bar_seconds: time that counts as one bar for positions on elapsed time, > 0.
      coarse_pools: bars pooled into one token, for each coarser level.
      coarse_window: tokens of each coarser level that a bar attends to; they do not overlap.
      rematerialise: what the backward pass computes again instead of storing it: "none", "minimal" (the insides of
        attention and feed-forward) or "full" (whole blocks).
      attention: "xla", or "cudnn", the fused kernel on GPUs: bfloat16 only, no coarser levels, no biases by lag.
      portfolio: how the head joins a portfolio to the memory: "add" (the first layer of a perceptron on both), "film"
        (the portfolio scales and shifts the memory) or "cross_attention" (added, and every position attends to the
        memories of all assets).
      own: network of a user's own in the place of the blocks.
    """

    kind: str
    groups: tuple[int, ...]
    width: int
    layers: int
    heads: int
    window: int
    expansion: int
    asset_attention: bool
    dtype: jnp.dtype
    positions: str = "rotary"
    bar_seconds: float = 86_400.0
    coarse_pools: tuple[int, ...] = ()
    coarse_window: int = 16
    rematerialise: str = "none"
    attention: str = "xla"
    portfolio: str = "add"
    own: OwnNetwork | None = None

    def __post_init__(self) -> None:
        choices: dict[str, tuple[str, ...]] = {} if self.own is not None else {"kind": KINDS}
        choices |= {"positions": POSITIONS, "rematerialise": REMATERIALISE}
        choices |= {"attention": ATTENTION, "portfolio": PORTFOLIO}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"policy {name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        if self.own is None and self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of twice the number of heads ({self.heads})")
        if self.attention == "cudnn" and (missing := self.not_fused):
            raise ValueError(f"policy attention is 'cudnn', which {missing}")
        if not self.bar_seconds > 0:
            raise ValueError(f"bar_seconds is {self.bar_seconds}; it must be > 0")

    @property
    def not_fused(self) -> str:
        """Reason why cuDNN's kernel cannot compute this shape; empty if it can."""
        dimension = self.width // self.heads
        if self.dtype != jnp.bfloat16:
            return f"needs bfloat16, not {self.dtype}"
        if dimension % 8 or dimension > 128:
            return f"needs heads of a multiple of 8 and at most 128 numbers, not {dimension}"
        if self.coarse_pools:
            return "has no coarser levels"
        if self.positions not in ("rotary", "rotary_rows", "none"):
            return f"has no biases by lag ({self.positions})"
        return ""

    @property
    def dropout_places(self) -> int:
        """Number of places where units can be dropped: the embedding, and three a block."""
        if self.own is not None:
            return 1
        return 1 + DROPOUT_PLACES_OF_A_BLOCK * self.layers

    @property
    def context(self) -> int:
        """Bars that one memory depends on: the receptive field.

        `layers * (window - 1) + 1`, or what the first layer sees of the coarsest level from its earliest bar.
        """
        if self.own is not None:
            return self.own.context
        if self.kind != "transformer":
            return 1
        farthest = max([self.window - 1, *(pool * self.coarse_window - 1 for pool in self.coarse_pools)])
        return (self.layers - 1) * (self.window - 1) + farthest + 1
