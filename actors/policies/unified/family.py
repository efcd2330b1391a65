"""Record of models that write text and pictures as ids of one vocabulary, served by vLLM."""

from __future__ import annotations

from actors.policies.family import PolicyFamily

UNIFIED = PolicyFamily(
    name="unified",
    kind="unified",
    checkpoint="actors.policies.unified.checkpoint:check_unified",
    learner="actors.policies.unified.policy:UnifiedPolicy",
    rollout="actors.rollout.unified_worker:UnifiedRolloutWorker",
    coldstart="actors.coldstart.unified.trainer:train_unified",
    coldstart_steps="text_steps",
    codec="actors.coldstart.unified.trainer:train_picture_tokenizer",
    lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    settings="actors.policies.unified.checkpoint:check_settings",
    vocabulary="actors.policies.unified.vocabulary:load_unified_vocabulary",
)
