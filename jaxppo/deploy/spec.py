"""What a live policy has to be told of its run: how bars are read, what trades and under which limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxppo.deploy.feed import FeedRules
from jaxppo.envs.data.spreads import EDGE_CAP, WIDEST
from jaxppo.run.setup import Setup


def feed_rules(setup: Setup) -> FeedRules:
    """How bars of the market of a run are read.

    Args:
      setup: of the run.
    """
    data, market = setup.config.data, setup.market
    report, symbols = market.info.report, market.info.symbols or tuple(f"asset {i}" for i in range(market.n_assets))
    known = tuple(bool(x) for x in np.asarray(market.volume_known))
    # A volume that is no number of units may still say that nobody traded, unless there is none at all.
    counted = tuple((here or data.volume == "ticks") and not data.zero_volume_tradable for here in known)

    def each(value: Any, otherwise: Any = None) -> tuple[Any, ...]:
        return tuple(value.get(s, otherwise) if isinstance(value, Mapping) else value for s in symbols)

    optional = tuple(name for name in ("ended", "carry", "funding") if not isinstance(getattr(market, name), tuple))
    seconds = setup.config.policy.bar_seconds or 1.0
    return FeedRules(
        symbols=symbols,
        daily=bool(report.get("daily", seconds >= 20 * 3600)),
        bar_seconds=float(seconds),
        timezone=str(report.get("timezone", data.timezone or "UTC")),
        calendar=data.calendar,
        volume_known=known,
        counted=counted,
        notional=data.volume == "notional",
        multiplier=tuple(float(x) for x in each(data.multiplier, 1.0)),
        spread=tuple(data.spread or ("invariance" if here else "edge") for here in known),
        half_spread=each(data.half_spread),
        tick=each(data.tick),
        min_half_spread=data.min_half_spread,
        widest_edge=WIDEST if data.spread else EDGE_CAP,
        spread_window=data.spread_window,
        range_tolerance=data.range_tolerance,
        max_log_jump=data.max_log_jump,
        max_log_range=data.max_log_range,
        split_tolerance=data.split_tolerance,
        max_hole_days=data.max_hole_days,
        optional=optional,
        columns=tuple(market.columns),
        funding="" if isinstance(market.funding, tuple) else data.funding or "funding",
    )
