"""From orders to fills: costs, slippage, impact, limits, and the one accounting function."""
