"""Language models of several families, none of which the code names: sampled by vLLM, scored and updated here.

Each with all weights and with adapters: ratio 1 before an update, the canary after it, and an export that plain
transformers opens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.policies.token.checkpoint import check_language_model
from actors.policies.token.family import LANGUAGE_MODEL
from actors.policies.token.policy import TokenPolicy
from actors.policies.token.vocabulary import TextVocabulary, load_vocabulary
from actors.rollout.canary import NUM_TOKENS
from actors.shared.lora import adapters_only, add_adapter, export_adapter, switched_off, with_targets
from actors.shared.token_rows import ROWS
from actors.weights.buckets import Bytes, stream_buckets
from configs.methods import Adapter
from rl.chain.scored import ScoredContext
from rl.types import Example, Manifest, Message, PicturePart, Pixels, TextPart, TextRequest, TextSampling
from tests.reference.language_models import MAKERS, block_names, make
from tests.reference.policy_configs import policy_config
from tests.reference.rollout import make_worker
from tests.reference.tiny_text import photo

pytestmark = pytest.mark.engine

LORA = Adapter(rank=4, alpha=8.0)
WORST_NATS, MEAN_NATS = 1e-4, 1e-5
TEMPERATURE = 0.9


class Case:
    """A family under one way to train it: checkpoint, engine, and the learner's policy."""

    def __init__(self, family: str, directory: Path, *, adapted: bool) -> None:
        self.family, self.directory, self.adapted = family, directory, adapted
        self.blocks = block_names(family)
        lora = {"lora": LORA} if adapted else {}
        self.config = policy_config(kind="token", temperature=TEMPERATURE, **lora)
        self.vocabulary: TextVocabulary = load_vocabulary(directory, self.blocks)
        self.policy = TokenPolicy.load(directory, self.config, block_names=self.blocks)
        if adapted:
            net = self.policy.trained_net
            add_adapter(net, self.adapter, key="", seed=0, row_ids=self.policy.row_ids)
        self.policy.eval()
        self.worker: Any = make_worker(directory, self.config, self.blocks)
        self.version = 0

    @property
    def adapter(self) -> Adapter:
        return with_targets(LORA, LANGUAGE_MODEL.lora_targets)

    @property
    def reads_pictures(self) -> bool:
        return bool(self.vocabulary.tags.picture)

    def request(self, seed: int) -> TextRequest:
        pictures = (PicturePart("photo"),) if self.reads_pictures else ()
        parts = (TextPart("a cat "), *pictures, TextPart(" on a red chair"))
        prompt = self.vocabulary.encode((Message(role="user", parts=parts),))
        opening = sorted(self.vocabulary.tags.opening.values())[:1]
        return TextRequest(
            request_id=f"chain-{seed}",
            tokens=np.asarray([*prompt, *opening], dtype=np.int32),
            pictures=(0,) if self.reads_pictures else (),
            max_tokens=12,
            stop_ids=tuple(sorted(self.vocabulary.tags.end)),
            sampling=TextSampling(temperature=TEMPERATURE, forbidden_ids=self.vocabulary.forbidden_ids),
            seed=seed,
        )

    def sample(self, num: int = 6) -> list[Example]:
        pictures: tuple[Pixels, ...] = (photo(7, 24),) if self.reads_pictures else ()
        requests = [self.request(seed) for seed in range(num)]
        replies = asyncio.run(self.worker.generate(requests, *pictures))
        examples = []
        for request, reply in zip(requests, replies, strict=True):
            scored = ScoredContext()
            context = request.tokens if reply.context is None else reply.context
            scored.add(0, context, reply.tokens, reply.logprobs, ("photo",) * len(pictures))
            examples.append(Example(segment=scored.stream(request.sampling), pictures=pictures))
        return examples

    def update(self) -> None:
        """One optimizer step that moves the policy far."""
        trained = [p for p in self.policy.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=1.0)
        self.policy(self.policy.collate(self.sample(4)).inputs).logprobs.sum().backward()
        norm = float(torch.nn.utils.clip_grad_norm_(trained, 0.5))
        assert norm > 0
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def publish(self) -> None:
        self.version += 1
        named = self.policy.published()
        trained = adapters_only(named) if self.adapted else named
        *buckets, manifest = stream_buckets("text", self.version, trained, 1 << 20)
        assert isinstance(manifest, Manifest)
        data: list[list[Bytes]] = [bucket for bucket in buckets if not isinstance(bucket, Manifest)]
        asyncio.run(self.worker.load_weights(manifest, *data))

    def canary(self) -> list[Example]:
        return [asyncio.run(self.worker.canary())]

    def export(self, directory: Path) -> None:
        weights = {name: parameter.detach() for name, parameter in self.policy.published()}
        if self.adapted:
            weights = export_adapter(
                directory / "adapter",
                self.adapter,
                weights,
                net_name=self.policy.net_name,
                row_ids=self.policy.row_ids,
            )
        self.policy.export(directory / "model", weights)


def cases() -> list[Any]:
    """Return every family with all weights, and with adapters: two that are tried each time, the others are long."""
    kept = ("tagged", "qwen2_5_vl")
    return [
        *(pytest.param((name, False), id=f"all weights-{name}") for name in MAKERS),
        *(
            pytest.param(
                (name, True), id=f"adapters-{name}", marks=[] if name in kept else [pytest.mark.long]
            )
            for name in MAKERS
        ),
    ]


@pytest.fixture(scope="module", params=cases())
def case(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Case]:
    family, adapted = request.param
    directory = tmp_path_factory.mktemp(family)
    make(family, directory)
    check_language_model(directory)
    made = Case(family, directory, adapted=adapted)
    yield made
    made.worker.close()


def gaps(policy: TokenPolicy, examples: list[Example]) -> np.ndarray:
    batch = policy.collate(examples)
    with torch.no_grad():
        scored = policy(batch.inputs).logprobs
    return np.abs((scored - batch.behaviour_logprobs)[batch.action_mask].numpy())


def assert_equal_weights(policy: TokenPolicy, examples: list[Example], *, least: int = 6) -> None:
    found = gaps(policy, examples)
    assert len(found) >= least
    assert found.max() < WORST_NATS
    assert found.mean() < MEAN_NATS


def test_the_ratio_is_one_before_an_update_and_the_canary_proves_each_after(case: Case) -> None:
    before = case.sample()
    assert_equal_weights(case.policy, before)
    assert_equal_weights(case.policy, case.canary(), least=NUM_TOKENS)
    for _ in range(2):
        case.update()
        assert gaps(case.policy, before).max() > 0.01
        case.publish()
        assert_equal_weights(case.policy, case.canary(), least=NUM_TOKENS)
        assert_equal_weights(case.policy, case.sample())


def test_rows_of_tags_are_trained_beside_adapters_and_go_back_with_them(case: Case) -> None:
    if not (case.adapted and case.vocabulary.tags.opening):
        return
    tags = case.vocabulary.tags
    assert case.policy.row_ids == tuple(sorted([*tags.opening.values(), *tags.closing.values()]))
    rows = {name: row for name, row in case.policy.published() if name.endswith(ROWS)}
    assert len(rows) == (1 if case.family == "qwen2_5_vl" else 2)  # it shares them between input and output
    before = {name: row.detach().clone() for name, row in rows.items()}
    case.update()
    written = case.policy.row_ids.index(min(tags.opening.values()))
    moved = [(row.detach() - before[name]).abs().amax(-1) > 0 for name, row in rows.items()]
    assert all(rows[written] for rows in moved)
    assert moved[-1].all(), "every log-prob depends on all rows of the output matrix"
    examples = case.sample(2)
    start = TokenPolicy.load(case.directory, case.config, block_names=case.blocks).eval()
    inputs = case.policy.collate(examples).inputs
    with torch.no_grad(), switched_off(case.policy.trained_net):
        found = case.policy(inputs).logprobs
    assert torch.equal(found, start(inputs).logprobs)


def test_pictures_are_seen(case: Case) -> None:
    if not case.reads_pictures:
        with pytest.raises(ValueError, match="reads none"):
            case.policy.collate([replace(e, pictures=(photo(1),)) for e in case.sample(1)])
        return
    examples = case.sample()
    swapped = [replace(example, pictures=(photo(8, 24),)) for example in examples]
    assert gaps(case.policy, swapped).max() > 1e-3


def test_the_export_opens_in_plain_transformers_with_the_same_logprobs(case: Case, tmp_path: Path) -> None:
    case.update()
    case.publish()
    examples = case.sample()
    case.export(tmp_path)
    plain = policy_config(kind="token", temperature=TEMPERATURE)
    exported = TokenPolicy.load(tmp_path / "model", plain, block_names=case.blocks).eval()
    assert_equal_weights(exported, examples)
    if case.adapted:
        from peft import PeftModel

        adapted = TokenPolicy.load(case.directory, plain, block_names=case.blocks).eval()
        PeftModel.from_pretrained(adapted.trained_net, tmp_path / "adapter")
        assert_equal_weights(adapted, examples)
    again = load_vocabulary(tmp_path / "model", case.blocks)
    assert (again.tags, again.forbidden_ids) == (case.vocabulary.tags, case.vocabulary.forbidden_ids)
