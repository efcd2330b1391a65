"""Record of the small restoration painter: a flow model in pixel space, a diffusers pipeline of ours."""

from __future__ import annotations

from actors.policies.family import CheckpointMark, PolicyFamily

RESTORATION = PolicyFamily(
    name="restoration",
    kind="denoising",
    checkpoint=CheckpointMark(file="model_index.json", key="_class_name", value="RestorationPipeline"),
    learner="actors.policies.denoising.policy:DenoisingPolicy",
    rollout="actors.rollout.image_worker:ImageRolloutWorker",
    coldstart="actors.coldstart.restoration.image_trainer:train_image",
    coldstart_steps="image_steps",
    lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
)
