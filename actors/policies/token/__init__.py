"""Qwen2.5-VL, which writes tokens."""
