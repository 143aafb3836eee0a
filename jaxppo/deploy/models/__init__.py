"""What a registry of models is made of: versions, history, returns, comparisons, what promotion demands."""
