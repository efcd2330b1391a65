"""A policy whose net is a small Qwen3 of transformers, for what hangs on its layers; and jobs that train it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from configs.methods import Adapter
from configs.schema import PolicyConfig
from rl.loss.actions import ActionScores
from tests.reference.learner_jobs import LIFE, STEPS, make_batch, make_learner, received
from tests.reference.policy_configs import policy_config
from tests.reference.tiny_policy import BLOCKS, VOCABULARY, TinyPolicy

LORA = Adapter(rank=2, alpha=4.0, targets=["q_proj", "down_proj"])
NUM_LAYERS = 3


def small_qwen3() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return Qwen3ForCausalLM(config)


class LayeredPolicy(TinyPolicy):
    """Collates as ``TinyPolicy`` does; the same weights wherever it is made."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.model = small_qwen3()

    @classmethod
    def load(cls, directory: Path, config: PolicyConfig, *, block_names: Sequence[str]) -> Self:
        assert tuple(block_names) == BLOCKS
        return cls()

    @property
    def trained_net(self) -> nn.Module:
        return self.model

    def forward(self, inputs: Mapping[str, Tensor]) -> ActionScores:
        tokens = inputs["tokens"]
        logits = self.model(input_ids=tokens, use_cache=False).logits[:, :-1].float()
        table = torch.log_softmax(logits, dim=-1)
        logprobs = table.gather(-1, tokens[:, 1:, None])[..., 0]
        return ActionScores(
            logprobs=nn.functional.pad(logprobs, (1, 0)),
            entropy=nn.functional.pad(-(table.exp() * table).sum(-1).detach(), (1, 0)),
        )

    def published(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.model.named_parameters()


def layered_lives(
    rank: int, world_size: int, port: int, root: Path, lives: Sequence[tuple[int, bool]]
) -> list[dict[str, Any]]:
    """Train each life, (ZeRO stage, with adapters), with recomputation and without."""
    from actors.shared import deepspeed_engine

    deepspeed_engine.PERSISTENCE_ELEMENTS = 0
    return [
        {is_on: _life(rank, world_size, port, root, stage, lora, is_on=is_on) for is_on in (False, True)}
        for stage, lora in lives
    ]


def _life(
    rank: int, world_size: int, port: int, root: Path, stage: int, with_lora: bool, *, is_on: bool
) -> dict[str, Any]:
    more = {"lora": LORA} if with_lora else {}
    config = policy_config(zero_stage=stage, micro_batch_size=2, gradient_checkpointing=is_on, **more, **LIFE)
    target = "tests.reference.layered_policy:LayeredPolicy"
    learner, examples = make_learner(root / "start", config, rank, world_size, port, target)
    runs = []
    for layer in learner.model.policy.model.model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    batches = [make_batch(examples, step, world_size, 2) for step in STEPS[:2]]
    stats = learner.update(batches)
    num_passes = sum(len(batch.micro_batches[rank]) for batch in batches)
    return {
        "grad_norms": [one.sums["learner/tiny/grad_norm"][0] for one in stats],
        "runs_a_layer": len(runs) / NUM_LAYERS / num_passes,
        "after": received(learner),
    }
