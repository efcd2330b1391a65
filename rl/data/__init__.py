"""Photographs, their degradation, labels, tags and captions."""
