"""Slow, obvious versions of the algorithm that the fast ones are tested against."""
