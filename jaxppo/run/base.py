"""The base of a run: what is traded where the agent is not."""

from __future__ import annotations

from jaxppo.policy import rules
from jaxppo.policy.protocol import Policy
from jaxppo.run.setup import Setup


def base_policy(setup: Setup) -> Policy:
    """The policy that a run falls back to, and that its agent is measured against.

    Args:
      setup: of the run.
    """
    del setup
    return rules.flat()
