"""Denoising steps: schedules, samplers, log-probs, and which steps are trained."""
