"""The command line: parsers, one-line errors, exit codes."""

from jaxppo.cli.command import (
    OneLineParser,
    a_device_for_each_core,
    add_compilation_cache,
    add_progress_options,
    announce_report,
    keeping_programs,
    parse_amount,
    parse_shard,
    parse_training,
    run,
    showing_phases,
)

__all__ = [
    "OneLineParser",
    "a_device_for_each_core",
    "add_compilation_cache",
    "add_progress_options",
    "announce_report",
    "keeping_programs",
    "parse_amount",
    "parse_shard",
    "parse_training",
    "run",
    "showing_phases",
]
