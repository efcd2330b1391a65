"""Learner ranks that train a small random diffusers pipeline on recorded pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.learner.rank import LearnerRank
from actors.learner.spec import LearnerSpec
from actors.policies.denoising.sampler import PaintJob
from actors.policies.family import family_of
from actors.shared import deepspeed_engine
from configs.derive import is_stepwise
from configs.methods import GSPO, PPO, Surrogate
from configs.schema import PolicyConfig
from rl.advantage.batching import by_step, lay_out
from rl.types import Example, ImageRequest, SamplerSpec, StepPlan, TrainBatch, TrainItem
from tests.reference.learner_jobs import ListStore, received
from tests.reference.painting import paint_examples
from tests.reference.pipelines import PIPELINES
from tests.reference.policy_configs import policy_config

NUM_STEPS = 4
PLANS = ((0, 1, 2), (1,), (0, 2), (2,), (1, 2), (0,))
"""Trained steps of each picture: ranks have unequally many, and different ones."""
SURROGATES: dict[str, Surrogate] = {"ppo": PPO(), "gspo": GSPO()}
"""One that may score a picture's steps apart, and one that may not."""


def picture_config(name: str, surrogate: str, **settings: Any) -> PolicyConfig:
    small = PIPELINES[name]
    sampler = "flow_grpo" if name == "stable_diffusion_3" else "ddim"
    return policy_config(
        "denoising",
        call=dict(small.call),
        sampler=sampler,
        noise_level=0.6,
        surrogate=SURROGATES[surrogate],
        learning_rate=1e-3,
        **settings,
    )


def picture_examples(directory: Path, name: str) -> list[Example]:
    small = PIPELINES[name]
    sampler = "flow_grpo" if name == "stable_diffusion_3" else "ddim"
    jobs = [
        PaintJob(
            request=ImageRequest(
                request_id=str(seed),
                block="picture",
                size_px=small.size_px,
                height_px=small.size_px,
                num_steps=NUM_STEPS,
                sampler=SamplerSpec(kind=sampler, noise_level=0.6),
                pictures={},
                words={"text": "a red house", "question": ""},
                seed=seed,
                steps=StepPlan(random=(0, 1, 2), trained=trained),
            ),
            pictures={},
        )
        for seed, trained in enumerate(PLANS)
    ]
    return paint_examples(directory, jobs, dict(small.call))


def picture_batch(config: PolicyConfig, num_ranks: int, micro_batch_size: int) -> TrainBatch:
    items: list[TrainItem] = []
    for index, steps in enumerate(PLANS):
        item = TrainItem(
            item_id=str(index),
            handle=index,
            advantages={0: (-1.0) ** index * (0.5 + 0.1 * index)},
            num_actions=len(steps),
            num_scored=len(steps),
            shape_key=(),
            length=NUM_STEPS,
            steps=steps,
        )
        items += by_step(item) if is_stepwise(config.loss) else [item]
    return lay_out("image", items, num_ranks, micro_batch_size, max_actions=NUM_STEPS - 1)


def picture_stages(
    rank: int, world_size: int, port: int, root: Path, lives: Sequence[tuple[str, str, int]]
) -> dict[str, Any]:
    """Make one update under each (pipeline, surrogate, stage); return ratios and the weights after."""
    deepspeed_engine.PERSISTENCE_ELEMENTS = 0  # so that ZeRO-3 shards even small nets
    found = {}
    for name, surrogate, stage in lives:
        config = picture_config(name, surrogate, zero_stage=stage, num_ranks=world_size, micro_batch_size=2)
        spec = LearnerSpec(
            policy_name="image",
            family=family_of("image", config),
            config=config,
            directory=root / name,
            block_names=("picture",),
            bucket_bytes=1 << 18,
            num_optimizer_steps=2,
            rank=rank,
            world_size=world_size,
            seed=0,
        )
        learner = LearnerRank(spec)
        learner.setup("127.0.0.1", port, ListStore(picture_examples(root / name, name)))
        (stats,) = learner.update([picture_batch(config, world_size, 2)])
        after = received(learner)
        found[f"{name}/{surrogate}/{stage}"] = {
            "ratio": stats.maxima.get("policy/image/ratio_before_update/max_dev", 0.0),
            "grad_norm": stats.sums["learner/image/grad_norm"][0],
            "after": {key: np.array(value) for key, value in after.items()},
        }
        learner.parts.loader.close()
    return found
