"""Whoever decides: the policy protocol, networks, distributions, rules."""

from jaxppo.policy import networks, rules
from jaxppo.policy.agent import agent
from jaxppo.policy.arrays import from_array
from jaxppo.policy.protocol import Encoding, Observed, Policy, Targets

__all__ = ["Encoding", "Observed", "Policy", "Targets", "agent", "from_array", "networks", "rules"]
