"""The market as arrays, and what is computed from its bars: features, indicators, regimes, volatility."""
