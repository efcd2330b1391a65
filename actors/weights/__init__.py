"""Weights between processes: buckets with a manifest, and the ways they travel."""
