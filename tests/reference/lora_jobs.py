"""Learner ranks that train adapters, and what they publish, score, write and read again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from actors.shared import deepspeed_engine
from configs.methods import Adapter
from configs.schema import PolicyConfig
from tests.reference.learner_jobs import LIFE, STEPS, make_batch, make_learner, received
from tests.reference.policy_configs import policy_config

LORA = Adapter(rank=2, alpha=3.0, targets=["mixer", "head"])
DECAY = 0.3


def adapter_config(stage: int) -> PolicyConfig:
    return policy_config(zero_stage=stage, micro_batch_size=4, lora=LORA, ema_decay=DECAY, **LIFE)


def adapted_lives(rank: int, world_size: int, port: int, root: Path, stages: Sequence[int]) -> list[Any]:
    """Live once under each ZeRO stage."""
    deepspeed_engine.PERSISTENCE_ELEMENTS = 0
    return [adapted_life(rank, world_size, port, root, stage) for stage in stages]


def adapted_life(rank: int, world_size: int, port: int, root: Path, stage: int) -> dict[str, Any]:
    """Train adapters, show and export them, save, train on; then load and train on again."""
    config = adapter_config(stage)
    folder = root / f"{world_size}-{stage}"
    learner, examples = make_learner(root / "start", config, rank, world_size, port)
    history = [received(learner)]
    masters = deepspeed_engine.master_shards(learner.model.engine)
    stats = []
    for step in STEPS:
        stats += learner.update([make_batch(examples, step, world_size, 4)])
        history.append(received(learner))
    found: dict[str, Any] = {
        "history": history,
        "stats": [{"sums": dict(one.sums), "maxima": dict(one.maxima)} for one in stats],
        "num_masters": sum(master.numel() for master in masters),
        "average": received(learner, averaged=True),
        "scores": learner.score(*examples[:2], averaged=True),
    }
    learner.save(folder / "checkpoint", "step")
    learner.export(folder / "model")
    found["merged"] = dict(load_file(folder / "model" / "model.safetensors").items())
    batch = make_batch(examples, STEPS[0], world_size, 4)
    found["uninterrupted"] = [learner.update([batch]) and received(learner), received(learner, averaged=True)]
    again, _ = make_learner(root / "start", config, rank, world_size, port)
    again.load(folder / "checkpoint", "step")
    # On the CPU this goes from host to host, but through all that DeepSpeed does.
    again.model.move(is_asleep=True)
    again.model.move(is_asleep=False)
    found["loaded"] = received(again)
    found["resumed"] = [again.update([batch]) and received(again), received(again, averaged=True)]
    return found
