"""Rewards: the interface, the four of the paper, the visual experts, and how they are checked."""
