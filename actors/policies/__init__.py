"""Policies as torch modules: log-probs of a token policy and of a denoising policy."""
