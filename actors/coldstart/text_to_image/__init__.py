"""Cold start of the small text-to-image painter."""
