"""Rollout workers: text with vLLM, pictures with diffusers."""
