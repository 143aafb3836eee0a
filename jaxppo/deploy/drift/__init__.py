"""Drift: live features, spreads, volatility and costs against those of training, with a stated rate of false alarms."""
