"""A real policy of a few hundred parameters, so that learner tests take seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from actors.policies.base import PolicyBatch, TrainablePolicy
from actors.policies.family import CheckpointMark, PolicyFamily
from configs.schema import PolicyConfig
from rl.loss.actions import ActionScores
from rl.types import Example, TextSampling, TokenStream

TINY = PolicyFamily(
    name="tiny",
    kind="token",
    checkpoint=CheckpointMark(file="config.json", key="model_type", value="tiny"),
    learner="tests.reference.tiny_policy:TinyPolicy",
    rollout="",
    coldstart="",
    coldstart_steps="text_steps",
    lora_targets=(),
)
VOCABULARY = 13
WIDTH = 8
BLOCKS = ("one", "two")


class TinyPolicy(TrainablePolicy):
    """Scores token t from token t-1 and the mean of all before it."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.entropy_gradient = False
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.mixer = nn.Linear(2 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    @classmethod
    def load(cls, directory: Path, config: PolicyConfig, *, block_names: Sequence[str]) -> Self:
        assert tuple(block_names) == BLOCKS
        policy = cls(config.rollout.temperature)
        policy.entropy_gradient = config.loss.entropy_weight > 0
        policy.load_state_dict(load_file(directory / "model.safetensors"), strict=False)
        return policy

    def collate(self, examples: Sequence[Example]) -> PolicyBatch:
        streams = [example.segment for example in examples]
        assert all(isinstance(stream, TokenStream) for stream in streams)

        def pad(field: str, value: float) -> Tensor:
            rows = [torch.from_numpy(np.array(getattr(stream, field))) for stream in streams]
            return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

        return PolicyBatch(
            inputs={"tokens": pad("tokens", 0).long()},
            behaviour_logprobs=pad("behaviour_logprobs", 0.0),
            action_mask=pad("action_mask", False),
            block_of=pad("block_of", -1).long(),
        )

    def forward(self, inputs: Mapping[str, Tensor]) -> ActionScores:
        tokens = inputs["tokens"]
        embedded = self.embedding(tokens)[:, :-1]
        steps = torch.arange(1, tokens.shape[1], device=tokens.device)[None, :, None]
        context = embedded.cumsum(1) / steps
        hidden = torch.tanh(self.mixer(torch.cat([embedded, context], dim=-1)))
        logits = self.head(hidden).float() / self.temperature
        table = torch.log_softmax(logits, dim=-1)
        logprobs = table.gather(-1, tokens[:, 1:, None])[..., 0]
        entropy = -(table.exp() * table).sum(-1)
        entropy = entropy if self.entropy_gradient else entropy.detach()
        return ActionScores(
            logprobs=nn.functional.pad(logprobs, (1, 0)), entropy=nn.functional.pad(entropy, (1, 0))
        )

    def published(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.named_parameters()

    def export(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        save_file(dict(weights), directory / "model.safetensors")


class CuspPolicy(TinyPolicy):
    """The same log-probs, with a gradient that is not a number."""

    def forward(self, inputs: Mapping[str, Tensor]) -> ActionScores:
        scores = super().forward(inputs)
        cusp = torch.sqrt(scores.logprobs - scores.logprobs)
        return ActionScores(logprobs=scores.logprobs + cusp, entropy=scores.entropy)


class BareParameterPolicy(TinyPolicy):
    """Owns a parameter that is in no submodule."""

    def __init__(self, temperature: float) -> None:
        super().__init__(temperature)
        self.bias = nn.Parameter(torch.zeros(1))


class TinyClassifier(nn.Module):
    """For the supervised loop: mean cross-entropy of a one-layer classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.layer(batch["x"]), batch["y"])


def write_start(directory: Path, seed: int = 0) -> None:
    """Write starting weights where ``TinyPolicy.load`` finds them."""
    torch.manual_seed(seed)
    TinyPolicy(1.0).export(directory, TinyPolicy(1.0).state_dict())


def make_examples(policy: TinyPolicy, num: int, seed: int, mismatch: float = 0.0) -> list[Example]:
    """Random token streams of unequal lengths with the log-probs the policy gives them, ``mismatch`` nats off."""
    generator = np.random.default_rng(seed)
    return [_example(policy, int(generator.integers(6, 15)), generator, mismatch) for _ in range(num)]


def _example(policy: TinyPolicy, length: int, generator: np.random.Generator, mismatch: float) -> Example:
    tokens = generator.integers(0, VOCABULARY, length).astype(np.int32)
    block_of = np.full(length, -1, dtype=np.int8)
    block_of[3:5], block_of[5:] = 0, 1
    action_mask = (block_of >= 0) & (generator.random(length) < 0.8)
    action_mask[-1] = True
    with torch.no_grad():
        scores = policy({"tokens": torch.from_numpy(tokens)[None].long()}).logprobs[0].numpy()
    if mismatch:
        scores = scores + mismatch * generator.standard_normal(length)
    stream = TokenStream(
        tokens=tokens,
        pictures=(),
        action_mask=action_mask,
        behaviour_logprobs=np.where(action_mask, scores, 0).astype(np.float32),
        block_of=block_of,
        sampling=TextSampling(temperature=policy.temperature),
    )
    return Example(segment=stream, pictures=())
