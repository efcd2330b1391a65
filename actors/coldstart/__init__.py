"""The supervised start: data, losses and loop."""
