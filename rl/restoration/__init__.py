"""Restoration: photographs, their degradation with labels, prompts made of them, and tiling."""
