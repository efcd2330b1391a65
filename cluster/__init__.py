"""Ray and composition: everything that spawns, waits, places, checkpoints, reports."""
