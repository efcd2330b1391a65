"""Commands of `vlcot` that are no run."""
