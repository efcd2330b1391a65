"""Checks of a configuration: ranges of single values, and what values must be together."""
