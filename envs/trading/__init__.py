"""The trading environment: actions, one bar, observations, and views for other trainers."""
