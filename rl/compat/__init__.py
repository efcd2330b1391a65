"""Repairs and settings without which torchvision and vLLM do not start here."""
