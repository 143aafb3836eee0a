"""Prices by the name of their source: `yfinance:SPY`, `ccxt:binance:BTC/USDT:1h`, ..., downloaded once and kept."""
