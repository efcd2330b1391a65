"""Canary of the text engine: a fixed prompt whose continuation proves weights, masks, guidance and caches.

What is written is scored by the learner. A policy that writes pictures too writes a small one, then text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actors.policies.token.vocabulary import TextVocabulary
from actors.policies.unified.vocabulary import UnifiedVocabulary
from actors.rollout.worker import RolloutSpec
from configs.derive import token_policy
from rl.chain.plan import walked
from rl.chain.scored import ScoredContext, walked_stream
from rl.chain.shown import with_codes
from rl.types import (
    ChainPlan,
    Example,
    Message,
    PicturePart,
    Pixels,
    PlannedBlock,
    TextPart,
    TextReply,
    TextRequest,
    TextSampling,
)

CANARY = "canary"
"""Name of the canary's request."""
NUM_TOKENS = 4
"""Tokens of text that it samples; the first one proves weights, masks and caches already."""
EDGES_PX = (16, 24)
"""Of its pictures, where the model reads any; small ones are enlarged by the image processor."""
EDGES_CODES = (2, 3)
"""Of the pictures in the prompt of a policy that writes codes, and of that which it writes: the first."""
NAMES = ("first", "second")
TEXT = "The quick brown fox jumps over the lazy dog, counts to 1234567890, and says nothing at all. "
"""Fills more than a block of the engine's cache with any tokenizer, so that a cache that was not dropped shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """The request, its pictures, and what becomes of the answer."""

    request: TextRequest
    pictures: tuple[Pixels, ...]

    def example(self, reply: TextReply) -> Example:
        """Return what the learner scores."""
        request, sampling = self.request, self.request.sampling
        if request.plan is not None:
            walk = walked(request.plan, reply.tokens)
            return Example(
                segment=walked_stream(walk, request.tokens, reply.tokens, reply.logprobs, sampling),
                pictures=(),
            )
        scored = ScoredContext()
        context = request.tokens if reply.context is None else reply.context
        scored.add(0, context, reply.tokens, reply.logprobs, NAMES[: len(request.pictures)])
        return Example(segment=scored.stream(sampling), pictures=self.pictures)


def make_canary(spec: RolloutSpec) -> Canary:
    """Ask for what follows a fixed prompt, with two pictures of noise where the model reads pictures.

    Raises:
        ConfigError: If a tag of the chain is not one token of the checkpoint's.
    """
    policy = token_policy(spec.config)
    vocabulary: TextVocabulary = spec.family.load("vocabulary")(
        spec.directory, tuple(spec.chain), policy.chat_options
    )
    rng = np.random.default_rng(spec.seed)
    names = NAMES if vocabulary.tags.picture else ()
    message = Message(role="user", parts=(*map(PicturePart, names), TextPart(2 * TEXT)))
    tokens = np.asarray(vocabulary.encode((message,)), dtype=np.int32)
    pictures: tuple[Pixels, ...] = ()
    plan: ChainPlan | None = None
    if isinstance(vocabulary, UnifiedVocabulary):
        num_codes = len(vocabulary.pictures.code_ids)
        codes = [rng.integers(0, num_codes, (edge, edge), dtype=np.int32) for edge in EDGES_CODES]
        shown = with_codes(tokens.tolist(), vocabulary.tags.placeholder, codes, vocabulary.pictures)
        tokens, plan = np.asarray(shown, dtype=np.int32), _plan(vocabulary)
    elif names:
        pictures = tuple(rng.integers(0, 256, (edge, edge, 3), dtype=np.uint8) for edge in EDGES_PX)
    request = TextRequest(
        request_id=CANARY,
        tokens=tokens,
        pictures=tuple(range(len(pictures))),
        max_tokens=NUM_TOKENS,
        stop_ids=(),
        sampling=TextSampling(
            temperature=policy.rollout.temperature,
            forbidden_ids=vocabulary.forbidden_ids,
            guidance=policy.rollout.guidance_scale,
        ),
        seed=spec.seed,
        plan=plan,
    )
    return Canary(request=request, pictures=pictures)


def _plan(vocabulary: UnifiedVocabulary) -> ChainPlan:
    """Plan a small picture, then text without end: no tags, which weights that know nothing would not write."""
    edge, _ = EDGES_CODES
    template = vocabulary.pictures.layout(edge, edge).template
    blocks = (
        PlannedBlock(name="picture", opening=-1, closing=-1, template=template, is_image=True),
        PlannedBlock(name="text", opening=-1, closing=-1, max_tokens=NUM_TOKENS),
    )
    nothing: frozenset[int] = frozenset()
    return ChainPlan(
        blocks=blocks, end=min(vocabulary.tags.end), ends=nothing, whitespace=nothing, reserved=nothing
    )
