"""Record of the family Qwen2.5-VL: writes tokens and sees pictures, served by vLLM."""

from __future__ import annotations

from actors.policies.family import CheckpointMark, PolicyFamily

QWEN2_5_VL = PolicyFamily(
    name="qwen2_5_vl",
    kind="token",
    checkpoint=CheckpointMark(file="config.json", key="model_type", value="qwen2_5_vl"),
    learner="actors.policies.token.policy:TokenPolicy",
    rollout="actors.rollout.text_worker:TextRolloutWorker",
    coldstart="actors.coldstart.restoration.text_trainer:train_text",
    coldstart_steps="text_steps",
    lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    vocabulary="actors.policies.token.tokenizer:load_vocabulary",
    published_name="actors.policies.token.qwen2_5_vl:published_name",
)
