"""Pools of actors and the driver's side of them."""
