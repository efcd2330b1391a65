"""Language models, which write tokens."""
