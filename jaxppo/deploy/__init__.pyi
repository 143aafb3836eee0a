from .decision import Decision
from .drift.fills import Fill
from .drift.tracker import Drift
from .export import export_run
from .live import live_policy
from .live_account import LivePolicy
from .load import BatchStep, load_batch_step, load_policy
from .models.text import describe_comparison, describe_line, describe_model, describe_models
from .next_orders import next_orders
from .positions import Positions, given_positions, read_positions
from .registry import Registry
from .trader import Trader, follow

__all__ = [
    "BatchStep",
    "Decision",
    "Drift",
    "Fill",
    "LivePolicy",
    "Positions",
    "Registry",
    "Trader",
    "describe_comparison",
    "describe_line",
    "describe_model",
    "describe_models",
    "export_run",
    "follow",
    "given_positions",
    "live_policy",
    "load_batch_step",
    "load_policy",
    "next_orders",
    "read_positions",
]
