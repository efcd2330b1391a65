"""The supervised start of policies and learned expert: tasks, data, losses, loop."""
