"""Bars of exchanges and brokers, asked for over the network and handed on once they have closed."""
