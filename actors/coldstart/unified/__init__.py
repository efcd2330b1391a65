"""Cold start of the unified policy: its picture codec, then supervised chains."""
