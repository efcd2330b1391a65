"""The text rollout worker around a real vLLM engine, compared with the learner's own forward pass.

Everything is proved without guidance and with it; the guided model's output matrix is that of its embeddings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.policies.token.policy import TokenPolicy
from actors.policies.token.vocabulary import TextVocabulary, load_vocabulary
from actors.rollout.text_engine import BATCHED_TOKENS
from actors.rollout.text_worker import TextRolloutWorker
from actors.weights.buckets import Bytes, stream_buckets
from configs.schema import PolicyConfig
from rl.errors import RolloutError, WeightSyncError
from rl.restoration.names import REQUEST
from rl.types import Example, Ints, Manifest, TextReply, TextRequest, TextSampling, TokenStream
from tests.reference.policy_configs import policy_config
from tests.reference.rollout import make_worker
from tests.reference.tiny_text import BLOCKS, as_example, build, make_request, photo

pytestmark = pytest.mark.engine

TOLERANCE_NATS = 1e-4

Learner = Callable[..., TokenPolicy]
"""Makes the learner's policy; with a seed, of other weights than the checkpoint's."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, config: PolicyConfig) -> Path:
    path = tmp_path_factory.mktemp("text")
    build(path, is_tied=config.rollout.guidance_scale != 1)
    return path


@pytest.fixture(scope="module")
def vocabulary(directory: Path) -> TextVocabulary:
    return load_vocabulary(directory, BLOCKS)


@pytest.fixture(scope="module", params=[1.0, 1.5], ids=["plain", "guided and tied"])
def config(request: pytest.FixtureRequest) -> PolicyConfig:
    return policy_config(kind="token", temperature=0.9, guidance_scale=request.param)


@pytest.fixture(scope="module")
def worker(directory: Path, config: PolicyConfig) -> Iterator[TextRolloutWorker]:
    made = make_worker(directory, config, BLOCKS)
    yield made
    made.close()


@pytest.fixture
def learner(directory: Path, config: PolicyConfig) -> Learner:
    return partial(make_policy, directory, config)


def make_policy(directory: Path, config: PolicyConfig, *, seed: int | None = None) -> TokenPolicy:
    policy = TokenPolicy.load(directory, config, block_names=BLOCKS).eval()
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, parameter in policy.published():
                parameter.add_(0.3 * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return policy


def publication(policy: TokenPolicy, version: int) -> tuple[Manifest, list[list[Bytes]]]:
    *buckets, manifest = stream_buckets("text", version, policy.published(), 1 << 20)
    assert isinstance(manifest, Manifest)
    return manifest, [bucket for bucket in buckets if not isinstance(bucket, Manifest)]


def worst_gap(policy: TokenPolicy, examples: list[Example]) -> float:
    batch = policy.collate(examples)
    with torch.no_grad():
        scored = policy(batch.inputs).logprobs
    return float((scored - batch.behaviour_logprobs)[batch.action_mask].abs().max())


def request_to(
    worker: TextRolloutWorker, vocabulary: TextVocabulary, name: str, *, seed: int, max_tokens: int = 12
) -> TextRequest:
    guidance = worker.spec.config.rollout.guidance_scale
    return make_request(vocabulary, name, seed=seed, guidance=guidance, max_tokens=max_tokens)


def sample(worker: TextRolloutWorker, vocabulary: TextVocabulary, seeds: list[int]) -> list[Example]:
    """A group: one photo, one prompt, different seeds, each call on its own."""

    async def all_at_once() -> list[Example]:
        requests = [request_to(worker, vocabulary, f"chain-{seed}", seed=seed) for seed in seeds]
        replies = await asyncio.gather(*[worker.generate([r], photo(0)) for r in requests])
        return [as_example(r, reply, photo(0)) for r, (reply,) in zip(requests, replies, strict=True)]

    return asyncio.run(all_at_once())


def written(example: Example) -> Ints:
    assert isinstance(example.segment, TokenStream)
    return example.segment.tokens[example.segment.action_mask]


def test_logprobs_are_those_of_the_learner(
    worker: TextRolloutWorker, vocabulary: TextVocabulary, learner: Learner
) -> None:
    manifest, buckets = publication(learner(), 1)
    asyncio.run(worker.load_weights(manifest, *buckets))
    examples = sample(worker, vocabulary, list(range(8)))
    assert worst_gap(learner(), examples) < TOLERANCE_NATS


def test_forbidden_ids_are_never_sampled_and_chains_differ(
    worker: TextRolloutWorker, vocabulary: TextVocabulary
) -> None:
    rows = [written(example) for example in sample(worker, vocabulary, list(range(16)))]
    assert not set(np.concatenate(rows).tolist()) & set(vocabulary.forbidden_ids)
    assert len({tuple(row) for row in rows}) == 16


def test_the_same_seed_writes_the_same(worker: TextRolloutWorker, vocabulary: TextVocabulary) -> None:
    first, again = (written(sample(worker, vocabulary, [5])[0]) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_a_group_shares_its_prefill(worker: TextRolloutWorker, vocabulary: TextVocabulary) -> None:
    before = worker.stats()["num_cached_tokens"]
    sample(worker, vocabulary, list(range(4)))
    assert worker.stats()["num_cached_tokens"] - before >= 3 * 32


def test_a_stop_id_ends_the_request_and_is_included(
    worker: TextRolloutWorker, vocabulary: TextVocabulary
) -> None:
    request = replace(request_to(worker, vocabulary, "stop", seed=0, max_tokens=400), stop_ids=(5, 6, 7, 8))
    (reply,) = asyncio.run(worker.generate([request], photo(0)))
    assert reply.stopped
    assert reply.tokens[-1] in request.stop_ids
    assert not set(reply.tokens[:-1].tolist()) & set(request.stop_ids)


def test_new_weights_arrive_and_the_canary_proves_them(
    worker: TextRolloutWorker, vocabulary: TextVocabulary, learner: Learner
) -> None:
    for version, seed in ((2, 1), (3, 2)):
        policy = learner(seed=seed)
        manifest, buckets = publication(policy, version)
        asyncio.run(worker.load_weights(manifest, *buckets))
        assert worst_gap(policy, [asyncio.run(worker.canary())]) < TOLERANCE_NATS
        assert worst_gap(policy, sample(worker, vocabulary, [0, 1])) < TOLERANCE_NATS
        assert worst_gap(learner(), sample(worker, vocabulary, [0, 1])) > 0.1


@pytest.mark.parametrize("is_cached", [False, True], ids=["its own prefill", "a prefill that others made"])
def test_new_weights_take_over_in_the_middle_of_a_block(
    worker: TextRolloutWorker, vocabulary: TextVocabulary, learner: Learner, is_cached: bool
) -> None:
    """Each token keeps the log-prob it was sampled with; the block counts as one of the older weights."""
    before, after = learner(seed=11), learner(seed=12)
    asyncio.run(worker.load_weights(*flat(publication(before, 8))))
    if is_cached:
        sample(worker, vocabulary, [0])
    request = replace(request_to(worker, vocabulary, "long", seed=3, max_tokens=300), stop_ids=())

    async def load_while_it_writes() -> tuple[TextReply, Example, bool]:
        writing = asyncio.create_task(worker.generate([request], photo(0)))
        await asyncio.sleep(0.5)
        await worker.load_weights(*flat(publication(after, 9)))
        canary = await worker.canary()
        is_writing = not writing.done()
        (reply,) = await writing
        return reply, canary, is_writing

    reply, canary, is_writing = asyncio.run(load_while_it_writes())
    assert worst_gap(after, [canary]) < TOLERANCE_NATS
    assert (len(reply.tokens), reply.version) == (300, 8)
    example = as_example(request, reply, photo(0))
    is_of_old, is_of_new = (gaps(policy, example) < TOLERANCE_NATS for policy in (before, after))
    if (
        worker.spec.config.rollout.guidance_scale != 1
    ):  # both rows of a pair must stay in step, so it is finished first
        assert is_of_old.all()
        return
    assert is_writing
    num_old = int(np.argmin(is_of_old))
    assert 0 < num_old < 300
    assert is_of_new[num_old:].all()


def gaps(policy: TokenPolicy, example: Example) -> np.ndarray:
    batch = policy.collate([example])
    with torch.no_grad():
        scored = policy(batch.inputs).logprobs
    return (scored - batch.behaviour_logprobs)[batch.action_mask].abs().numpy()


def test_the_canary_sees_a_cache_that_was_kept(
    worker: TextRolloutWorker, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prefix cache, which depends on old weights."""
    asyncio.run(worker.canary())
    policy = learner(seed=7)
    manifest, buckets = publication(policy, 4)
    engine = worker.loop.engine
    with monkeypatch.context() as patch:
        patch.setattr(engine, "drop_caches", engine.drop_picture_caches)
        asyncio.run(worker.load_weights(manifest, *buckets))
    stale = asyncio.run(worker.canary())
    assert worker.stats()["canary_cached_tokens"] > 0
    assert worst_gap(policy, [stale]) > 100 * TOLERANCE_NATS
    asyncio.run(worker.load_weights(manifest, *buckets))
    assert worst_gap(policy, [asyncio.run(worker.canary())]) < TOLERANCE_NATS


def test_a_flipped_byte_is_refused_and_nothing_has_changed(
    worker: TextRolloutWorker, vocabulary: TextVocabulary, learner: Learner
) -> None:
    before, version = sample(worker, vocabulary, [0])[0], worker.stats()["version"]
    manifest, buckets = publication(learner(seed=9), 5)
    damaged = buckets[0][1] = buckets[0][1].copy()
    damaged[3] ^= 1
    with pytest.raises(WeightSyncError, match="policy text version 5: bucket 0"):
        asyncio.run(worker.load_weights(manifest, *buckets))
    after = sample(worker, vocabulary, [0])[0]
    np.testing.assert_array_equal(written(before), written(after))
    assert worker.stats()["version"] == version


def more_than_fits(worker: TextRolloutWorker, vocabulary: TextVocabulary) -> list[TextRequest]:
    num = 100
    prompt = vocabulary.encode((REQUEST,))
    tokens = np.concatenate([prompt, np.tile(prompt[3:], 5)]).astype(np.int32)
    assert num * len(tokens) > BATCHED_TOKENS
    return [
        replace(
            request_to(worker, vocabulary, f"many-{i}", seed=i, max_tokens=2), tokens=tokens, pictures=(i,)
        )
        for i in range(num)
    ]


def test_more_than_fits_in_one_step_is_answered(
    worker: TextRolloutWorker, vocabulary: TextVocabulary
) -> None:
    """No prompt may be cut in two: on the CPU vLLM cannot rewind a request's random generator."""
    requests = more_than_fits(worker, vocabulary)
    replies = asyncio.run(worker.generate(requests, *(photo(i) for i in range(len(requests)))))
    assert len(replies) == len(requests)


def test_a_refused_request_costs_its_own_call_only(
    worker: TextRolloutWorker, vocabulary: TextVocabulary
) -> None:
    request = request_to(worker, vocabulary, "long", seed=0)
    too_long = replace(request, tokens=np.tile(request.tokens[3:], 200), pictures=())
    with pytest.raises(RolloutError, match="vLLM refused"):
        asyncio.run(worker.generate([request, too_long], photo(0)))
    assert len(sample(worker, vocabulary, [0])) == 1


def test_guidance_changes_what_is_sampled(
    worker: TextRolloutWorker, vocabulary: TextVocabulary, directory: Path, config: PolicyConfig
) -> None:
    """Scored under the other setting, the same tokens have other log-probs."""
    policy = make_policy(directory, config)
    asyncio.run(worker.load_weights(*flat(publication(policy, 6))))
    examples = sample(worker, vocabulary, [0, 1, 2])
    assert worst_gap(policy, examples) < TOLERANCE_NATS
    other = 2.5 - config.rollout.guidance_scale
    swapped = [replace(e, segment=replace(stream_of(e), sampling=guided_by(e, other))) for e in examples]
    swapped_config = replace(config, rollout=replace(config.rollout, guidance_scale=other))
    assert worst_gap(make_policy(directory, swapped_config), swapped) > 0.01


def flat(published: tuple[Manifest, list[Bytes]]) -> tuple[Manifest, *tuple[Bytes, ...]]:
    manifest, buckets = published
    return (manifest, *buckets)


def stream_of(example: Example) -> TokenStream:
    assert isinstance(example.segment, TokenStream)
    return example.segment


def guided_by(example: Example, scale: float) -> TextSampling:
    return replace(stream_of(example).sampling, guidance=scale)


def test_guidance_must_be_the_engines(worker: TextRolloutWorker, vocabulary: TextVocabulary) -> None:
    request = make_request(
        vocabulary, "other", seed=0, guidance=2.5 - worker.spec.config.rollout.guidance_scale
    )
    with pytest.raises(RolloutError, match="other: guidance must be the engine's"):
        asyncio.run(worker.generate([request], photo(0)))


def test_greedy_text_is_scored_at_temperature_one(
    worker: TextRolloutWorker, vocabulary: TextVocabulary, learner: Learner
) -> None:
    request = request_to(worker, vocabulary, "greedy", seed=0)
    greedy = replace(request, sampling=replace(request.sampling, temperature=0.0))
    (reply,) = asyncio.run(worker.generate([greedy], photo(0)))
    assert worst_gap(learner(), [as_example(greedy, reply, photo(0))]) < TOLERANCE_NATS


def test_a_pair_that_is_cut_in_two_is_an_error_by_name(
    worker: TextRolloutWorker, vocabulary: TextVocabulary
) -> None:
    """Last, for the engine is not used on: its scheduler takes five rows at once, which nobody was told."""
    if worker.loop.engine._queue is None:
        return
    worker.loop.engine._engine.engine_core.engine_core.scheduler.max_num_active_reqs = 5
    requests = [request_to(worker, vocabulary, f"chain-{i}", seed=i) for i in range(3)]
    with pytest.raises(RolloutError, match=r"^chain-2: the rows with and without .* not in the same step"):
        asyncio.run(worker.generate(requests, photo(0)))
