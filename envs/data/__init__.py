"""From price tables to checked markets: reading, columns, times, sessions, history, checks."""
