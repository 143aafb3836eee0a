"""A run: its folder, periods, devices, checkpoints, register of trials, and how it is opened."""
