"""Policies that paint by denoising steps."""
