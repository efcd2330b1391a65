"""Whole chains out of a real vLLM engine, without guidance and with it: grammar, and the learner's log-probs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.policies.unified.policy import UnifiedPolicy
from actors.policies.unified.vocabulary import CODE_ROW, TEXT_ROW, UnifiedVocabulary
from actors.rollout.canary import NUM_TOKENS
from actors.rollout.text_worker import TextRolloutWorker
from actors.weights.buckets import Bytes, stream_buckets
from configs.derive import token_policy
from configs.schema import PolicyConfig
from rl.chain.plan import CODES, walked
from rl.errors import RolloutError
from rl.types import ChainPlan, Example, Finish, Manifest, PlannedBlock, TextReply, TextRequest
from tests.reference.policy_configs import policy_config
from tests.reference.tiny_unified import CHAIN, as_example, build, make_request, make_unified_worker, plan_of

pytestmark = pytest.mark.engine

TOLERANCE_NATS = 1e-4

Learner = Callable[..., UnifiedPolicy]
"""Makes the learner's policy; with a seed, of other weights than the checkpoint's."""


@pytest.fixture(scope="module", params=[1.0, 0.8], ids=["plain", "guided"])
def config(request: pytest.FixtureRequest) -> PolicyConfig:
    return policy_config(kind="unified", temperature=0.9, guidance_scale=request.param)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unified")


@pytest.fixture(scope="module")
def vocabulary(directory: Path) -> UnifiedVocabulary:
    return build(directory)


@pytest.fixture(scope="module")
def worker(
    directory: Path, vocabulary: UnifiedVocabulary, config: PolicyConfig
) -> Iterator[TextRolloutWorker]:
    made = make_unified_worker(directory, config)
    yield made
    made.close()


def write(
    worker: TextRolloutWorker, vocabulary: UnifiedVocabulary, plans: Sequence[ChainPlan], seed: int = 0
) -> list[TextReply]:
    return asyncio.run(worker.generate(requests_to(worker, vocabulary, plans, seed)))


def requests_to(
    worker: TextRolloutWorker, vocabulary: UnifiedVocabulary, plans: Sequence[ChainPlan], seed: int = 0
) -> list[TextRequest]:
    guidance = token_policy(worker.spec.config).rollout.guidance_scale
    return [
        make_request(vocabulary, f"chain-{seed}-{i}", seed=seed + i, plan=plan, guidance=guidance)
        for i, plan in enumerate(plans)
    ]


def loose_plan(vocabulary: UnifiedVocabulary, num_tokens: int) -> ChainPlan:
    """A picture, then any text: what weights that know nothing can write."""
    template = vocabulary.pictures.layout(5, 9).template
    blocks = (
        PlannedBlock(name="picture", opening=-1, closing=-1, template=template, is_image=True),
        PlannedBlock(name="text", opening=-1, closing=-1, max_tokens=num_tokens),
    )
    nothing: frozenset[int] = frozenset()
    return ChainPlan(
        blocks=blocks, end=min(vocabulary.tags.end), ends=nothing, whitespace=nothing, reserved=nothing
    )


def check_ids(vocabulary: UnifiedVocabulary, wanted: Sequence[int], reply: TextReply) -> None:
    """Compare with a template in which ``CODES`` is any code and -1 any text, and log-probs with 0 where forced."""
    assert len(reply.tokens) == len(wanted)
    for token, logprob, want in zip(reply.tokens.tolist(), reply.logprobs.tolist(), wanted, strict=True):
        if want < 0:
            assert vocabulary.masks[CODE_ROW if want == CODES else TEXT_ROW, token]
        else:
            assert (token, logprob) == (want, 0.0)


def check_many(worker: TextRolloutWorker, vocabulary: UnifiedVocabulary, num_ids: int) -> None:
    """Chains with given texts and four pictures' worth of codes, beside a picture and any text."""
    texts = {"look": [5, 6, 7], "say": [8]}
    given, loose = plan_of(vocabulary).given(texts), loose_plan(vocabulary, 60)
    tags, layouts = vocabulary.tags, vocabulary.pictures.of_block
    whole = [
        *(tags.opening["look"], *texts["look"], tags.closing["look"]),
        *(tags.opening["sketch"], *layouts(CHAIN["sketch"]).template, tags.closing["sketch"]),
        *(tags.opening["say"], *texts["say"], tags.closing["say"]),
        *(tags.opening["paint"], *layouts(CHAIN["paint"]).template, tags.closing["paint"]),
    ]
    free = [*vocabulary.pictures.layout(5, 9).template, *[-1] * 60]
    num, seed = 0, 0
    codes: set[int] = set()
    while num < num_ids:
        replies = write(worker, vocabulary, [given, loose] * 32, seed)
        for reply, wanted in zip(replies, [whole, free] * 32, strict=True):
            check_ids(vocabulary, wanted, reply)
            codes.update(t for t, want in zip(reply.tokens.tolist(), wanted, strict=True) if want == CODES)
            num += sum(want < 0 for want in wanted)
        seed += 64
    assert codes == set(vocabulary.pictures.code_ids)


def test_no_sampled_id_is_outside_the_grammar(
    worker: TextRolloutWorker, vocabulary: UnifiedVocabulary
) -> None:
    check_many(worker, vocabulary, 5_000)


@pytest.mark.long
def test_none_of_100_000_sampled_ids_is_outside_the_grammar(
    worker: TextRolloutWorker, vocabulary: UnifiedVocabulary
) -> None:
    check_many(worker, vocabulary, 100_000)


def test_a_chain_that_leaves_the_grammar_ends_there(
    worker: TextRolloutWorker, vocabulary: UnifiedVocabulary
) -> None:
    """Weights that know nothing do not open a block. The end that was forced behind it is not of the chain."""
    plan = plan_of(vocabulary)
    replies = write(worker, vocabulary, [plan] * 8)
    walks = [walked(plan, reply.tokens) for reply in replies]
    assert Finish.MALFORMED in {walk.finish for walk in walks}
    for walk, reply in zip(walks, replies, strict=True):
        assert walk.finish in {Finish.MALFORMED, Finish.LENGTH}
        assert set(walk.block_of) == {0}
        assert reply.stopped


def test_text_that_finds_no_end_runs_out_of_room(
    worker: TextRolloutWorker, vocabulary: UnifiedVocabulary
) -> None:
    plan = loose_plan(vocabulary, 7)
    (reply,) = write(worker, vocabulary, [plan])
    assert walked(plan, reply.tokens).finish is Finish.LENGTH
    assert len(reply.tokens) == len(plan.blocks[0].template) + 7


def test_the_same_seed_writes_the_same_chain(
    worker: TextRolloutWorker, vocabulary: UnifiedVocabulary
) -> None:
    plan = loose_plan(vocabulary, 9)
    first, again, other = (write(worker, vocabulary, [plan], seed)[0].tokens for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_chain_that_cannot_fit_is_refused_by_name(
    worker: TextRolloutWorker, vocabulary: UnifiedVocabulary
) -> None:
    with pytest.raises(RolloutError, match=r"chain-0-0: a prompt of .* do not fit into 512"):
        write(worker, vocabulary, [loose_plan(vocabulary, 500)])


def test_a_request_without_a_plan_is_refused(
    worker: TextRolloutWorker, vocabulary: UnifiedVocabulary
) -> None:
    (request,) = requests_to(worker, vocabulary, [plan_of(vocabulary)])
    with pytest.raises(RolloutError, match="chain-0-0: a unified policy writes whole chains"):
        asyncio.run(worker.generate([replace(request, plan=None, max_tokens=3)]))


def test_a_weights_canary_writes_codes_and_text(
    worker: TextRolloutWorker, vocabulary: UnifiedVocabulary
) -> None:
    segment = asyncio.run(worker.canary()).segment
    sampled = segment.tokens[segment.action_mask]
    assert vocabulary.masks[CODE_ROW, sampled].tolist() == [True] * 4 + [False] * NUM_TOKENS
    assert vocabulary.masks[TEXT_ROW, sampled].tolist() == [False] * 4 + [True] * NUM_TOKENS


# ------------------------------------------------------------------ against the learner


@pytest.fixture
def learner(directory: Path, config: PolicyConfig) -> Learner:
    def load(seed: int | None = None) -> UnifiedPolicy:
        policy = UnifiedPolicy.load(directory, config, block_names=list(CHAIN)).eval()
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for _, parameter in policy.published():
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(0.3 * parameter.std() * noise)
        return policy

    return load


def sample(worker: TextRolloutWorker, vocabulary: UnifiedVocabulary, seed: int = 0) -> list[Example]:
    """Chains with given texts and with free ones, and one that leaves its grammar."""
    plan = plan_of(vocabulary)
    plans = [plan.given({"look": [5, 6], "say": [7]}), loose_plan(vocabulary, 40), plan]
    requests = requests_to(worker, vocabulary, plans, seed)
    return [
        as_example(request, reply)
        for request, reply in zip(requests, asyncio.run(worker.generate(requests)), strict=True)
    ]


def gaps(policy: UnifiedPolicy, examples: list[Example]) -> torch.Tensor:
    batch = policy.collate(examples)
    with torch.no_grad():
        scored = policy(batch.inputs).logprobs
    return (scored - batch.behaviour_logprobs)[batch.action_mask]


def publication(policy: UnifiedPolicy, version: int) -> tuple[Manifest, list[list[Bytes]]]:
    *buckets, manifest = stream_buckets("one", version, policy.published(), 1 << 20)
    assert isinstance(manifest, Manifest)
    return manifest, [bucket for bucket in buckets if not isinstance(bucket, Manifest)]


def publish(worker: TextRolloutWorker, policy: UnifiedPolicy, version: int) -> None:
    manifest, buckets = publication(policy, version)
    asyncio.run(worker.load_weights(manifest, *buckets))


def test_logprobs_are_those_of_the_learner(
    worker: TextRolloutWorker, vocabulary: UnifiedVocabulary, learner: Learner
) -> None:
    gap = gaps(learner(), [example for seed in (0, 10) for example in sample(worker, vocabulary, seed)])
    assert gap.abs().max() < TOLERANCE_NATS
    assert (gap.exp() - 1).abs().mean() < 1e-5


def test_new_weights_arrive_and_the_canary_proves_them(
    worker: TextRolloutWorker, vocabulary: UnifiedVocabulary, learner: Learner
) -> None:
    for version, seed in ((1, 7), (2, 8)):
        policy = learner(seed)
        publish(worker, policy, version)
        assert gaps(policy, [asyncio.run(worker.canary())]).abs().max() < TOLERANCE_NATS
        examples = sample(worker, vocabulary)
        assert gaps(policy, examples).abs().max() < TOLERANCE_NATS
        assert gaps(learner(), examples).abs().max() > 0.1


def test_new_weights_take_over_in_the_middle_of_a_chain(
    worker: TextRolloutWorker, vocabulary: UnifiedVocabulary, learner: Learner
) -> None:
    """The chain goes on within its grammar, each id with the log-prob it was sampled with."""
    before, after = learner(9), learner(10)
    publish(worker, before, 3)
    manifest, buckets = publication(after, 4)
    (request,) = requests_to(worker, vocabulary, [loose_plan(vocabulary, 250)])

    async def load_while_it_writes() -> TextReply:
        writing = asyncio.create_task(worker.generate([request]))
        await asyncio.sleep(0.5)
        await worker.load_weights(manifest, *buckets)
        (reply,) = await writing
        return reply

    example = as_example(request, asyncio.run(load_while_it_writes()))
    is_old, is_new = (gaps(policy, [example]).abs() < TOLERANCE_NATS for policy in (before, after))
    num_old = len(is_old) if is_old.all() else int(is_old.int().argmin())
    assert num_old > 0
    assert is_new[num_old:].all()
    # Both rows of a pair must stay in step, so a guided chain is finished first.
    assert (num_old == len(is_old)) == (request.sampling.guidance != 1)
