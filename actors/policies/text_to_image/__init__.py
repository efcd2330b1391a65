"""Small text-to-image painter: a StableDiffusion3 pipeline made from nothing."""
