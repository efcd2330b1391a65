"""A small Qwen2.5-VL made in place, and requests to it as a chain runner makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from actors.policies.token.qwen2_5_vl import build_text_policy
from actors.policies.token.vocabulary import TextVocabulary, load_vocabulary
from rl.chain.scored import ScoredContext
from rl.restoration.names import DEGRADED, INSTRUCTION, REQUEST
from rl.types import Example, Pixels, TextReply, TextRequest, TextSampling

BLOCKS = ("look", "picture", "say")
TEXTS = ("light blur, heavy noise", "a cat on a red chair", "a rocket before the sky")


def build(directory: Path, *, seed: int = 0, is_tied: bool = False) -> TextVocabulary:
    build_text_policy(
        directory,
        texts=(*TEXTS, INSTRUCTION),
        block_names=BLOCKS,
        degraded_px=16,
        seed=seed,
        tie_word_embeddings=is_tied,
    )
    return load_vocabulary(directory, BLOCKS)


def photo(seed: int, edge: int = 16) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (edge, edge, 3), dtype=np.uint8)


def make_request(
    vocabulary: TextVocabulary, name: str, *, seed: int, guidance: float = 1.0, max_tokens: int = 12
) -> TextRequest:
    """One picture, the prompt, and up to twelve tokens behind it."""
    return TextRequest(
        request_id=name,
        tokens=np.asarray(vocabulary.encode((REQUEST,)), dtype=np.int32),
        pictures=(0,),
        max_tokens=max_tokens,
        stop_ids=(vocabulary.tags.closing["look"],),
        sampling=TextSampling(temperature=0.9, forbidden_ids=vocabulary.forbidden_ids, guidance=guidance),
        seed=seed,
    )


def as_example(request: TextRequest, reply: TextReply, picture: Pixels) -> Example:
    """What a learner scores again."""
    context = request.tokens if reply.context is None else reply.context
    scored = ScoredContext()
    scored.add(0, context, reply.tokens, reply.logprobs, (DEGRADED,))
    return Example(segment=scored.stream(request.sampling), pictures=(picture,))
