"""The configuration schema, its loader, and the shipped configurations."""

PACKAGES = ("rl", "actors", "rewards", "cluster", "configs")
"""Our packages: nothing of a user's may stand in for them."""
