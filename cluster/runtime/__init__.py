"""Ray: starting it, spawning actors, waiting for calls, signs of life."""
