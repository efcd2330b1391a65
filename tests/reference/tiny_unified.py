"""A small model of text and pictures made in place, its chain, and requests to it as a chain runner makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from actors.policies.unified.family import UNIFIED
from actors.policies.unified.small import build_unified
from actors.policies.unified.vocabulary import UnifiedVocabulary, load_unified_vocabulary
from actors.rollout.text_worker import TextRolloutWorker
from actors.rollout.worker import RolloutSpec
from configs.schema import BlockConfig, PolicyConfig
from rl.chain.grammar import ChainGrammar
from rl.chain.plan import make_plan, walked
from rl.chain.scored import walked_stream
from rl.chain.shown import with_codes
from rl.types import ChainPlan, Example, Message, PicturePart, TextPart, TextReply, TextRequest, TextSampling

TEXTS = ("light blur, heavy noise", "a cat on a red chair", "a rocket before the sky")
PROMPT = Message(role="user", parts=(TextPart(TEXTS[1]), PicturePart("degraded"), TextPart(TEXTS[0])))
STRIDE_PX = 4
NUM_CODES = 64
CHAIN = {
    "look": BlockConfig(kind="text", policy="one", max_tokens=12),
    "sketch": BlockConfig(kind="image", policy="one", size_px=16),
    "say": BlockConfig(kind="text", policy="one", max_tokens=12),
    "paint": BlockConfig(kind="image", policy="one", size_px=32, height_px=16),
}


def build(directory: Path, *, seed: int = 0) -> UnifiedVocabulary:
    build_unified(
        directory,
        texts=TEXTS,
        block_names=list(CHAIN),
        num_codes=NUM_CODES,
        stride_px=STRIDE_PX,
        max_positions=512,
        seed=seed,
    )
    return load_unified_vocabulary(directory, list(CHAIN))


def plan_of(vocabulary: UnifiedVocabulary) -> ChainPlan:
    return make_plan(ChainGrammar(CHAIN, vocabulary.tags), vocabulary.pictures)


def make_unified_worker(directory: Path, config: PolicyConfig, **changes: Any) -> TextRolloutWorker:
    spec = RolloutSpec(
        directory=directory,
        config=config,
        family=UNIFIED,
        chain=CHAIN,
        seed=3,
        deterministic=False,
        **changes,
    )
    worker = TextRolloutWorker(spec)
    worker.setup()
    return worker


def make_request(
    vocabulary: UnifiedVocabulary, name: str, *, seed: int, plan: ChainPlan, guidance: float = 1.0
) -> TextRequest:
    """A photo of random codes, the prompt, and a whole chain behind it."""
    codes = np.random.default_rng(seed).integers(0, NUM_CODES, (3, 3), dtype=np.int32)
    ids = with_codes(vocabulary.encode((PROMPT,)), vocabulary.tags.placeholder, [codes], vocabulary.pictures)
    return TextRequest(
        request_id=name,
        tokens=np.asarray(ids, dtype=np.int32),
        pictures=(),
        max_tokens=0,
        stop_ids=(),
        sampling=TextSampling(temperature=0.9, guidance=guidance),
        seed=seed,
        plan=plan,
    )


def as_example(request: TextRequest, reply: TextReply) -> Example:
    """What a learner scores again."""
    assert request.plan is not None
    walk = walked(request.plan, reply.tokens)
    stream = walked_stream(walk, request.tokens, reply.tokens, reply.logprobs, request.sampling)
    return Example(segment=stream, pictures=())
