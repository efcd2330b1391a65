"""Model cards: what an exported policy is, as ``push_to_hub`` and the hub's pages expect it beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.record.code_version import code_version
from cluster.record.tables import eval_markdown
from configs.derive import COLDSTART
from configs.schema import Config, OwnData, Photographs, PolicyConfig
from rl.types import JsonDict

LIBRARY: Mapping[str, str] = {
    "token": "transformers",
    "unified": "transformers",
    "denoising": "diffusers",
}
CARD = "README.md"


def write_model_cards(
    config: Config, checkpoint: Path, evaluation: JsonDict, *, model_folder: str
) -> list[Path]:
    """Write a card into the exported folder of every policy; the card of its base model gives way to it.

    Args:
        config: The run.
        checkpoint: ``<run>/checkpoints/step_<n>``.
        evaluation: Content of ``eval.json``, whose held-out means are the card's results.
        model_folder: Name of the exported folder in that of a policy.

    Returns:
        The cards.
    """
    cards = []
    for name, policy in config.policies.items():
        folder = checkpoint / name / model_folder
        if folder.is_dir():
            cards.append(_write(config, name, policy, folder, evaluation))
    return cards


def _write(config: Config, name: str, policy: PolicyConfig, folder: Path, evaluation: JsonDict) -> Path:
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    path, base = folder / CARD, None if policy.source == COLDSTART else policy.source
    data = ModelCardData(
        model_name=f"{config.name}-{name}",
        base_model=base,
        library_name=LIBRARY[policy.kind],
        tags=["grpo", "reinforcement-learning", "vlcot"],
        license=_license(path),
        eval_results=[
            EvalResult(
                task_type="reinforcement-learning",
                dataset_type="held-out",
                dataset_name=f"held-out prompts of {_data(config)}",
                metric_type=metric,
                metric_value=round(cell["mean"], 4),
            )
            for metric, cell in evaluation["rows"].get("now", {}).items()
            if cell.get("mean") is not None
        ],
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(config, name, policy, evaluation)}").save(path)
    return path


def _license(card: Path) -> str | None:
    """Return the licence that the base model's card names: what is trained from it is under that too."""
    from huggingface_hub import ModelCard

    if not card.is_file():
        return None
    try:
        named: Any = ModelCard.load(card, ignore_metadata_errors=True).data.get("license")
    except ValueError:  # a README without a card's head
        return None
    return str(named) if named else None


def _data(config: Config) -> str:
    if isinstance(config.data, Photographs):
        return f"photographs ({config.data.images})"
    return config.data.target if isinstance(config.data, OwnData) else config.data.prompts


def _text(config: Config, name: str, policy: PolicyConfig, evaluation: JsonDict) -> str:
    """Return what stands under the card's head."""
    base = "a small model made from nothing" if policy.source == COLDSTART else f"`{policy.source}`"
    method = config.algorithm or f"GRPO ({policy.loss.surrogate.kind} surrogate)"
    rewards = "\n".join(
        f"| {reward} | `{settings.target}` | {settings.weight:g} |"
        for reward, settings in config.rewards.items()
    )
    return f"""# {config.name}: policy {name}

Trained from {base} by {method} with vlcot, {config.num_steps} steps of
{config.prompts_per_step} prompts and {config.group_size} answers each, on {_data(config)}. Code: {code_version()}.

| reward | | weight |
|---|---|---:|
{rewards}

## Held-out prompts

{eval_markdown(evaluation)}
"""
