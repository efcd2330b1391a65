"""Chains: their grammar, and the state of one while it is written."""
