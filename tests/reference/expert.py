"""The learned expert's lessons once more, pair by pair."""

import math

import numpy as np

from actors.coldstart.restoration.expert_data import ExpertDataset, make_expert_dataset
from tests.reference.rewards import picture


def tiny_dataset(num: int = 5, *, seed: int = 0, size_px: int = 32, samples: int = 3) -> ExpertDataset:
    truths = [picture(10 + i, size_px, level=0.0) for i in range(num)]
    restored = {
        f"noise0.7/{k}": [np.clip(t + np.random.default_rng(k).normal(0, 9.0, t.shape), 0, 255).astype(np.uint8)
                          for t in truths]
        for k in range(samples)
    }  # fmt: skip
    return make_expert_dataset(truths, restored, seed=seed)


def ranking_loss(scores, qualities, temperature: float, regression: float) -> float:
    """Divergence of each pair's odds from what they should be, and the squared error, in plain Python."""
    divergences, errors = [], []
    for row, wanted in zip(scores, qualities, strict=True):
        for i in range(len(row)):
            errors.append(((row[i] - wanted[i]) / temperature) ** 2)
            for j in range(i + 1, len(row)):
                p = 1 / (1 + math.exp((wanted[j] - wanted[i]) / temperature))
                q = 1 / (1 + math.exp((row[j] - row[i]) / temperature))
                divergences.append(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    return sum(divergences) / len(divergences) + regression * sum(errors) / len(errors)
