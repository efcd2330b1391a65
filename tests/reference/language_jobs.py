"""Supervised chains of a language model in real ranks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from actors.coldstart.language_model import train_language_model
from actors.coldstart.task import ColdstartTask
from actors.policies.token.policy import TokenPolicy
from configs.load import layered
from configs.schema import Config
from rl.data.source import Answer, PromptSource
from rl.types import Message, Prompt, TextPart
from tests.reference.policy_configs import policy_config


class Animals(PromptSource):
    """Two texts: what was asked for, and its plural."""

    WORDS = ("cat", "chair", "rocket", "sky")

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def train(self, index: int) -> Prompt:
        word = self.WORDS[index % len(self.WORDS)]
        ask = Message(role="user", parts=(TextPart(f"say {word}"),))
        return Prompt(prompt_id=f"{word}/{index}", messages=(ask,), reference={"word": word})

    def held_out(self, num: int) -> list[Prompt]:
        return [self.train(10**6 + index) for index in range(num)]

    def answer(self, prompt: Prompt, blocks: Any, seed: int) -> Answer:
        word = str(prompt.reference["word"])
        return Answer(texts=dict(zip(blocks, (word, f"{word}s"), strict=False)), pictures={})


def animal_config(source: Path | str, num_steps: int, *settings: str) -> Config:
    """A chain of two texts from a checkpoint."""
    block = {"kind": "text", "policy": "text", "max_tokens": 16}
    content = {
        "name": "animals",
        "chain": {"one": block, "many": block},
        "policies": {
            "text": {
                "kind": "token",
                "source": str(source),
                "coldstart": True,
                "learner": {"micro_batch_size": 4},
            }
        },
        "data": {"kind": "own", "target": "tests.reference.language_jobs:Animals"},
        "coldstart": {
            "text_steps": num_steps,
            "text_batch_size": 8,
            "text_learning_rate": 3e-3,
            "num_examples": 16,
        },
    }
    return layered(content, settings)


def teach(
    rank: int, world_size: int, port: int, source: Path, folder: Path, *settings: str
) -> dict[str, Any]:
    """Train on supervised chains; return losses and, by name, the exported weights."""
    if world_size > 1:  # what Ray Train does before it calls us
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
        torch.distributed.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size
        )
    losses: list[float] = []
    task = ColdstartTask(
        config=animal_config(source, 12, *settings),
        policy="text",
        directory=folder / "made",
        made=folder,
        work=folder / "work",
        rank=rank,
        world_size=world_size,
        report=lambda step, metrics: losses.append(metrics["loss"]),
        note=lambda _: None,
    )
    (folder / "work").mkdir(parents=True, exist_ok=True)
    train_language_model(task)
    return {"losses": losses}


def exported(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of what was made."""
    policy = TokenPolicy.load(folder / "made", policy_config(kind="token"), block_names=("one", "many"))
    return {name: parameter.detach() for name, parameter in policy.published()}
