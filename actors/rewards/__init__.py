"""The reward worker."""
