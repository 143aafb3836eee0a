"""Whoever decides: the policy protocol, networks, distributions, rules."""
