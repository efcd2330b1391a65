"""Learner ranks in real processes, and the few lines of plain torch they must agree with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from actors.learner.rank import LearnerRank
from actors.learner.spec import LearnerSpec
from actors.shared.lora import add_adapter
from actors.weights.buckets import Bytes, unpack
from configs.methods import CISPO, GSPO, PPO, Adapter, TruncatedImportance
from configs.schema import PolicyConfig
from rl.advantage.batching import lay_out
from rl.errors import LearnerError
from rl.types import Example, Manifest, TokenStream, TrainBatch, TrainItem
from tests.reference.plain_losses import PlainSequence, step_loss
from tests.reference.policy_configs import policy_config
from tests.reference.tiny_policy import BLOCKS, TINY, TinyPolicy, make_examples

MAX_ACTIONS = 20
SEED = 3
ADVANTAGES = ({0: 0.7, 1: -1.1}, {0: -0.4, 1: 0.9}, {0: 0.0, 1: 1.5})


class ListStore:
    """Handles are indexes."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def get(self, handles: Sequence[object]) -> list[Example]:
        return [self.examples[handle] for handle in handles if isinstance(handle, int)]


def start_examples(start: Path, config: PolicyConfig, num: int = 21) -> list[Example]:
    policy = TinyPolicy.load(start, config, block_names=BLOCKS)
    return make_examples(policy, num, seed=5, mismatch=0.0 if config.loss.correction.kind == "none" else 0.3)


def make_batch(
    examples: Sequence[Example],
    indexes: Sequence[int],
    num_ranks: int,
    micro_batch_size: int,
    scale: float = 1,
) -> TrainBatch:
    items = []
    for index in indexes:
        stream = examples[index].segment
        assert isinstance(stream, TokenStream)
        advantages = {block: scale * a for block, a in ADVANTAGES[index % 3].items()}
        items.append(
            TrainItem(
                item_id=str(index),
                handle=index,
                advantages=advantages,
                num_actions=int(stream.action_mask.sum()),
                num_scored=int(stream.action_mask.sum()),
                shape_key=(),
                length=stream.tokens.size,
            )
        )
    return lay_out("tiny", items, num_ranks, micro_batch_size, max_actions=MAX_ACTIONS)


def plain_training(
    start: Path, config: PolicyConfig, steps: Sequence[Sequence[int]]
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same optimizer steps without DeepSpeed, ranks, padding or micro-batches."""
    policy = TinyPolicy.load(start, config, block_names=BLOCKS)
    frozen = TinyPolicy.load(start, config, block_names=BLOCKS)
    examples = start_examples(start, config)
    if isinstance(config.learner.lora, Adapter):
        add_adapter(policy, config.learner.lora, key="", seed=SEED)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=config.learner.learning_rate, weight_decay=config.learner.weight_decay
    )
    losses = []
    proximal = [plain_scores(policy, example) for example in examples]
    for step, indexes in enumerate(steps):
        sequences = []
        for index in indexes:
            stream = examples[index].segment
            assert isinstance(stream, TokenStream)
            mask = torch.from_numpy(np.array(stream.action_mask))
            inputs = policy.collate([examples[index]]).inputs
            scores = policy(inputs)
            assert scores.entropy is not None
            per_block = torch.tensor(
                [ADVANTAGES[index % 3].get(int(block), 0.0) for block in stream.block_of]
            )
            with torch.no_grad():
                reference = frozen(inputs).logprobs
            sequences.append(
                PlainSequence(
                    logprobs=scores.logprobs[0][mask],
                    entropy=scores.entropy[0][mask],
                    advantages=per_block[mask],
                    behaviour=torch.from_numpy(np.array(stream.behaviour_logprobs))[mask],
                    proximal=proximal[index][mask],
                    reference=reference[0][mask],
                )
            )
        loss = step_loss(config, sequences, MAX_ACTIONS)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.learner.max_grad_norm)
        optimizer.param_groups[0]["lr"] = config.learner.learning_rate * min(
            1.0, (step + 1) / config.learner.warmup_steps
        )
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, {name: p.detach().clone() for name, p in policy.named_parameters()}


def plain_scores(policy: TinyPolicy, example: Example) -> torch.Tensor:
    with torch.no_grad():
        return policy(policy.collate([example]).inputs).logprobs[0]


def received(learner: LearnerRank, *, averaged: bool = False) -> dict[str, torch.Tensor]:
    """What a rollout worker would get, copied away as it is handed out; {} on all ranks but the first."""
    data: list[list[Bytes]] = []
    manifest = Manifest(policy="none", version=-1, tensors=(), bucket_bytes=(), digests=())
    for part in learner.publish(averaged=averaged):
        if isinstance(part, Manifest):
            manifest = part
        else:
            data.append([piece.copy() for piece in part])
    return {name: tensor.clone() for name, tensor in unpack(manifest, data)}


def make_learner(
    start: Path,
    config: PolicyConfig,
    rank: int,
    world_size: int,
    port: int,
    target: str = "tests.reference.tiny_policy:TinyPolicy",
) -> tuple[LearnerRank, list[Example]]:
    spec = LearnerSpec(
        policy_name="tiny",
        family=replace(TINY, learner=target),
        config=config,
        directory=start,
        block_names=BLOCKS,
        bucket_bytes=300,
        num_optimizer_steps=len(STEPS) + 1,
        rank=rank,
        world_size=world_size,
        seed=SEED,
        deterministic=True,
    )
    learner = LearnerRank(spec)
    examples = start_examples(start, config)
    learner.setup("127.0.0.1", port, ListStore(examples))
    return learner, examples


# ------------------------------------------------------------------------------- jobs

STEPS = ([*range(7)], [*range(7, 12)], [*range(12, 21)])


LIFE = {
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "weight_decay": 0.1,
    "max_grad_norm": 0.2,
    "kl_weight": 0.05,
}
"""Settings of every life, ZeRO stage and micro-batch size apart."""


def all_stages(
    rank: int, world_size: int, port: int, root: Path, lives: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """Train, publish, score, export, save, load and diverge under each (ZeRO stage, micro-batch size)."""
    from actors.shared import deepspeed_engine

    deepspeed_engine.PERSISTENCE_ELEMENTS = 0  # so that ZeRO-3 shards even the tiny policy
    found: dict[str, Any] = {}
    for stage, micro in lives:
        config = policy_config(zero_stage=stage, micro_batch_size=micro, **LIFE)
        found[f"{stage}/{micro}"] = one_life(rank, world_size, port, root, config, whole=micro == 4)
    return found


def one_life(
    rank: int, world_size: int, port: int, root: Path, config: PolicyConfig, *, whole: bool
) -> dict[str, Any]:
    learner, examples = make_learner(root / "start", config, rank, world_size, port)
    found: dict[str, Any] = {"before": received(learner), "scores": learner.score(*examples[:2])}
    found["behaviour"] = [(e.segment.behaviour_logprobs, e.segment.action_mask) for e in examples[:2]]
    batches = [make_batch(examples, step, world_size, config.learner.micro_batch_size) for step in STEPS]
    found["stats"] = [_plain(stats) for stats in learner.update(batches)]
    found["after"] = received(learner)
    found["version"] = learner.version
    if whole:
        found |= _resume_and_diverge(
            learner, examples, root / f"{world_size}-{config.learner.zero_stage}", port
        )
    return found


METHODS: dict[str, dict[str, Any]] = {
    "gspo": {
        "surrogate": GSPO(clip_low=0.01, clip_high=0.01),
        "aggregation": "sequence_mean",
        "zero_stage": 2,
        "micro_batch_size": 4,
    },
    "truncate": {
        "surrogate": PPO(clip_low=0.05, clip_high=0.05),
        "correction": TruncatedImportance(cap=1.1),
        "zero_stage": 3,
        "micro_batch_size": 3,
    },
    "cispo": {
        "surrogate": CISPO(clip_low=0.05, clip_high=0.05),
        "aggregation": "constant",
        "kl_estimator": "k2",
        "entropy_weight": 0.02,
        "zero_stage": 1,
        "micro_batch_size": 2,
    },
}
"""What each method's life sets besides ``LIFE``."""


def all_methods(rank: int, world_size: int, port: int, root: Path) -> dict[str, Any]:
    """Train under each method."""
    from actors.shared import deepspeed_engine

    deepspeed_engine.PERSISTENCE_ELEMENTS = 0
    found = {}
    for name, method in METHODS.items():
        config = policy_config(**LIFE, **method)
        learner, examples = make_learner(root / "start", config, rank, world_size, port)
        batches = [make_batch(examples, step, world_size, config.learner.micro_batch_size) for step in STEPS]
        found[name] = {
            "stats": [_plain(stats) for stats in learner.update(batches)],
            "after": received(learner),
        }
    return found


def _plain(stats: Any) -> dict[str, Any]:
    return {"sums": dict(stats.sums), "maxima": dict(stats.maxima)}


def _resume_and_diverge(
    learner: LearnerRank, examples: Sequence[Example], folder: Path, port: int
) -> dict[str, Any]:
    spec = learner.spec
    found: dict[str, Any] = {"no average": _error_of(lambda: learner.score(averaged=True))}
    learner.save(folder / "checkpoint", "step-1")
    learner.export(folder / "export")
    exported = load_file(folder / "export" / "model.safetensors")
    found["exported"] = dict(exported.items())
    batch = make_batch(examples, STEPS[0], spec.world_size, spec.config.learner.micro_batch_size)
    found["uninterrupted"] = [_plain(learner.update([batch])[0]), received(learner)]

    again, _ = make_learner(spec.directory, spec.config, spec.rank, spec.world_size, port)
    again.load(folder / "checkpoint", "step-1")
    found["loaded"] = [again.version, received(again)]
    found["resumed"] = [_plain(again.update([batch])[0]), received(again)]

    cusp, _ = make_learner(
        spec.directory,
        spec.config,
        spec.rank,
        spec.world_size,
        port,
        "tests.reference.tiny_policy:CuspPolicy",
    )
    for name, victim, scale in (("loss", again, float("nan")), ("gradient", cusp, 1.0)):
        before = received(victim)
        poisoned = make_batch(examples, STEPS[1][:1], spec.world_size, 4, scale=scale)
        error = _error_of(lambda v=victim, b=poisoned: v.update([b]))
        found[name] = [error, before, received(victim)]
    return found


def _error_of(call: Callable[[], object]) -> str:
    try:
        call()
    except LearnerError as error:
        return str(error)
    return "none"
