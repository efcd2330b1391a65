"""Rewards that are plain functions, in TRL's and verl's forms."""
