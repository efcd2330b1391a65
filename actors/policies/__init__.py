"""Policies as torch modules, a folder a model family."""
