"""The life of a run, from the first check to the last checkpoint."""
