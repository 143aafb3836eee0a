"""Walk-forward: agents trained fold by fold, and what they do on the bars that follow."""

from jaxppo.walk_forward.plan import Fold, Plan, make_plan
from jaxppo.walk_forward.prepare import load_fold
from jaxppo.walk_forward.walk import WalkForward, walk_forward

__all__ = ["Fold", "Plan", "WalkForward", "load_fold", "make_plan", "walk_forward"]
