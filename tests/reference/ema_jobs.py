"""Learner ranks that keep a moving average, and what they show of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from actors.learner.rank import LearnerRank
from actors.shared import deepspeed_engine
from configs.methods import Cosine
from rl.types import Example
from tests.reference.learner_jobs import LIFE, STEPS, make_batch, make_learner, received
from tests.reference.policy_configs import policy_config

DECAY = 0.3
"""Below what the warm-up reaches in these steps, so that both of its halves are used."""

EmaLife = tuple[int, str, int]
"""ZeRO stage, number type, elements below which ZeRO-3 keeps a parameter whole."""


def averaged_lives(rank: int, world_size: int, port: int, root: Path, lives: Sequence[EmaLife]) -> list[Any]:
    """Live each life in turn."""
    return [averaged_life(rank, world_size, port, root, life) for life in lives]


def averaged_life(rank: int, world_size: int, port: int, root: Path, life: EmaLife) -> dict[str, Any]:
    """Train, show the average, save, train on; then load and train on again."""
    stage, dtype, deepspeed_engine.PERSISTENCE_ELEMENTS = life
    # The rate falls, so that a resumed run must know how many steps it has made.
    schedule = Cosine(floor=0.1)
    config = policy_config(zero_stage=stage, dtype=dtype, ema_decay=DECAY, schedule=schedule, **LIFE)
    folder = root / "-".join(map(str, (world_size, *life)))
    learner, examples = make_learner(root / "start", config, rank, world_size, port)
    history, masters = [received(learner)], [_masters(learner)]
    for step in STEPS:
        learner.update([make_batch(examples, step, world_size, 4)])
        history.append(received(learner))
        masters.append(_masters(learner))
    found = {
        "history": history,
        "masters": masters,
        "average": received(learner, averaged=True),
        "average_shards": _masters(learner, averaged=True),
        "scores": learner.score(*examples[:2], averaged=True),
        "plain_scores": learner.score(*examples[:2]),
        "after": received(learner),
    }
    learner.save(folder / "checkpoint", "step")
    learner.export(folder / "export")
    found["exported"] = dict(load_file(folder / "export" / "model.safetensors").items())
    found["uninterrupted"] = _one_more(learner, examples)
    again, _ = make_learner(root / "start", config, rank, world_size, port)
    again.load(folder / "checkpoint", "step")
    found["loaded"] = received(again, averaged=True)
    found["resumed"] = _one_more(again, examples)
    return found


def _one_more(learner: LearnerRank, examples: Sequence[Example]) -> list[Any]:
    learner.update([make_batch(examples, STEPS[0], learner.spec.world_size, 4)])
    return [received(learner), received(learner, averaged=True)]


def _masters(learner: LearnerRank, *, averaged: bool = False) -> list[Any]:
    with learner.model.shown(averaged=averaged):
        shards = deepspeed_engine.master_shards(learner.model.engine)
        return [shard.detach().clone() for shard in shards]
