"""Unified policy: one causal model that writes text and pictures as codes, and its picture codec."""
