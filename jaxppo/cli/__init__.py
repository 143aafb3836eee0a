"""The command line: parsers, one-line errors, exit codes."""

from jaxppo.cli.command import OneLineParser, parse_amount, parse_shard, parse_training, run

__all__ = ["OneLineParser", "parse_amount", "parse_shard", "parse_training", "run"]
