"""Record of picture policies: any diffusers pipeline whose steps have a density."""

from __future__ import annotations

from actors.policies.family import PolicyFamily

DIFFUSERS = PolicyFamily(
    name="diffusers",
    kind="denoising",
    checkpoint="actors.policies.denoising.checkpoint:read_pipeline",
    learner="actors.policies.denoising.policy:DenoisingPolicy",
    rollout="actors.rollout.image_worker:ImageRolloutWorker",
    coldstart="actors.coldstart.painter:train_painter",
    coldstart_steps="image_steps",
    settings="actors.policies.denoising.checks:check_settings",
    lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
)
