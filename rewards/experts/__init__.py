"""Visual experts: pyiqa's metrics by name."""
