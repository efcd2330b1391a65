"""Learner ranks that save their state, and others, more or fewer, that go on from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.learner.rank import LearnerRank
from actors.shared import deepspeed_engine
from configs.methods import Adapter, Cosine
from rl.types import Example
from tests.reference.learner_jobs import LIFE, STEPS, make_batch, make_learner, received
from tests.reference.policy_configs import policy_config

LORA = Adapter(rank=2, alpha=3.0, targets=["mixer", "head"])
DECAY = 0.3

Keys = Mapping[str, Any]
"""What a life sets besides ``LIFE``."""


def saved_lives(
    rank: int, world_size: int, port: int, root: Path, lives: Mapping[str, Keys]
) -> dict[str, Any]:
    """Train for two steps, save, train on."""
    found = {}
    for name, keys in lives.items():
        learner, examples = _learner(rank, world_size, port, root, keys)
        _train(learner, examples, STEPS[:2])
        learner.save(root / name / str(world_size), "step")
        found[name] = _shown_then_trained(learner, examples)
    return found


def resumed_lives(
    rank: int, world_size: int, port: int, root: Path, lives: Mapping[str, Keys], saved: str, saved_by: int
) -> dict[str, Any]:
    """Go on from what ``saved_by`` ranks left; ``saved`` names another life's state to go on from, or is ''."""
    found = {}
    for name, keys in lives.items():
        learner, examples = _learner(rank, world_size, port, root, keys)
        learner.load(root / (saved or name) / str(saved_by), "step")
        # On the CPU this goes from host to host, but through all that DeepSpeed does.
        learner.model.move(is_asleep=True)
        learner.model.move(is_asleep=False)
        found[name] = _shown_then_trained(learner, examples)
    return found


def _learner(
    rank: int, world_size: int, port: int, root: Path, keys: Keys
) -> tuple[LearnerRank, Sequence[Example]]:
    deepspeed_engine.PERSISTENCE_ELEMENTS = 0
    config = policy_config(
        micro_batch_size=2, ema_decay=DECAY, schedule=Cosine(floor=0.1), **(dict(LIFE) | dict(keys))
    )
    return make_learner(root / "start", config, rank, world_size, port)


def _train(learner: LearnerRank, examples: Sequence[Example], steps: Sequence[Sequence[int]]) -> list[Any]:
    batches = [make_batch(examples, step, learner.spec.world_size, 2) for step in steps]
    return [one.sums["learner/tiny/lr"][0] for one in learner.update(batches)]


def _shown_then_trained(learner: LearnerRank, examples: Sequence[Example]) -> dict[str, Any]:
    return {
        "version": learner.version,
        "weights": received(learner),
        "average": received(learner, averaged=True),
        "rates": _train(learner, examples, STEPS[2:]),
        "next": received(learner),
        "next average": received(learner, averaged=True),
        "devices": [str(shard.device) for shard in deepspeed_engine.master_shards(learner.model.engine)],
    }
