"""The host side of a run: set-up, loop, checkpoints, loggers."""
