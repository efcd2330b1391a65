"""Weights on their way: buckets with a manifest, and the ways they travel."""
