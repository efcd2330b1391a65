"""Measurement: metric names and sums, statistics of evaluations, correlation, the alarm."""
