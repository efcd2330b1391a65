"""Learner ranks: update, publish, save."""
