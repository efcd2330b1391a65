"""Record of language models: write tokens, read pictures where they can, served by vLLM."""

from __future__ import annotations

from actors.policies.family import PolicyFamily

LANGUAGE_MODEL = PolicyFamily(
    name="language_model",
    kind="token",
    checkpoint="actors.policies.token.checkpoint:check_language_model",
    learner="actors.policies.token.policy:TokenPolicy",
    rollout="actors.rollout.text_worker:TextRolloutWorker",
    coldstart="actors.coldstart.language_model:train_language_model",
    coldstart_steps="text_steps",
    lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    vocabulary="actors.policies.token.vocabulary:load_vocabulary",
)
