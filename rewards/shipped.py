"""Shipped rewards by short name: for listing, and so that commands can name them."""

from __future__ import annotations

from collections.abc import Mapping

SHIPPED: Mapping[str, str] = {
    "format": "rewards.format:FormatReward",
    "degradation": "rewards.degradation:DegradationReward",
    "understanding": "rewards.understanding:UnderstandingReward",
    "generation": "rewards.generation:GenerationReward",
    "consistency": "rewards.consistency:ConsistencyReward",
    "fidelity": "rewards.fidelity:FidelityReward",
    "layout": "rewards.layout:LayoutReward",
    "http": "rewards.http:HttpReward",
    "vlm_judge": "rewards.vlm_judge:VlmJudgeReward",
}
"""Short name -> target in a config."""


def target_of(name: str) -> str:
    """Return the target a short name stands for; anything else stands for itself."""
    return SHIPPED.get(name, name)
