"""Requests to vLLM and what comes of them, as it takes and gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from actors.policies.token.guidance import without_content
from actors.rollout.guided_chains import ChainPart
from rl.chain.plan import Walk
from rl.errors import RolloutError
from rl.types import ChainPlan, Ints, Pixels, TextReply, TextRequest, TextSampling

FORBIDDEN = "forbidden_ids"
"""Key of ``extra_args``: ids that are never sampled."""
PLANNED = "planned"
"""Key of ``extra_args``: a ``Planned``."""
HALF = "guidance"
"""Key of ``extra_args``: a ``Half``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """What makes a request one row of a pair."""

    pair: str
    """Key that both rows share and no other unfinished request has."""
    name: str
    """What errors call the request."""
    scale: float
    """Guidance g."""
    is_conditional: bool
    """Whether this row is the one with its condition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What makes a request one of a whole chain."""

    plan: ChainPlan
    before: tuple[int, ...] = ()
    """Ids of the chain that stand in the request's context already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What came of a request."""

    ids: Sequence[int]
    logprobs: Sequence[float]
    stopped: bool
    """False when it ran out of tokens."""
    context: Sequence[int]
    """Ids that the engine saw before, pictures expanded."""
    num_cached: int
    """How many of these were cached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as the engine takes it."""

    key: str
    name: str
    contexts: Sequence[tuple[Ints, Sequence[Pixels]]]
    """Ids and pictures of its row, or of both rows of a guided pair."""
    max_tokens: int
    stop_ids: tuple[int, ...]
    sampling: TextSampling
    seed: int
    planned: Planned | None = None


def make_reply(request: TextRequest, written: Written, version: int) -> TextReply:
    """Turn what was written into a reply.

    Raises:
        RolloutError: If a chain did not come to its end.
    """
    num, plan = len(written.ids), request.plan
    if plan is not None:
        num = _num_of_chain(request.request_id, plan, written.ids)
    return TextReply(
        request_id=request.request_id,
        tokens=np.asarray(written.ids[:num], dtype=np.int32),
        logprobs=np.asarray(written.logprobs[:num], dtype=np.float32),
        stopped=written.stopped or plan is not None,
        version=version,
        context=np.asarray(written.context, dtype=np.int32) if request.pictures else None,
        num_cached=written.num_cached,
    )


def _num_of_chain(name: str, plan: ChainPlan, tokens: Sequence[int]) -> int:
    """Return how many of a request's ids are its chain: all but an end that was forced."""
    walk = Walk(plan)
    for num, token in enumerate(tokens, 1):
        walk.push(token)
        if walk.finish is not None:
            return num
    raise RolloutError(f"{name}: the engine left a chain before its end, after {len(tokens)} ids")


def written_by(output: Any) -> Written:
    """Read a finished output of vLLM."""
    (completion,) = output.outputs
    return Written(
        ids=list(completion.token_ids),
        logprobs=list(completion.logprobs.logprobs),
        stopped=completion.finish_reason == "stop",
        context=output.prompt_token_ids,
        num_cached=int(output.num_cached_tokens or 0),
    )


def asked_whole(key: str, request: TextRequest, pictures: Sequence[Pixels]) -> Asked:
    """Ask for a request's whole answer; with guidance by two rows, the second with grey pictures."""
    contexts = [(request.tokens, pictures)]
    if request.sampling.guidance != 1:
        contexts.append((request.tokens, without_content(pictures)))
    plan = request.plan
    return Asked(
        key=key,
        name=request.request_id,
        contexts=contexts,
        max_tokens=request.max_tokens if plan is None else plan.max_tokens,
        stop_ids=request.stop_ids if plan is None else (plan.end, *plan.ends),
        sampling=request.sampling,
        seed=request.seed,
        planned=None if plan is None else Planned(plan=plan),
    )


def asked_part(key: str, request: TextRequest, plan: ChainPlan, part: ChainPart) -> Asked:
    """Ask for a part of a guided chain."""
    no_pictures: Sequence[Pixels] = ()
    contexts = [tokens for tokens in (part.tokens, part.alone) if tokens is not None]
    return Asked(
        key=key,
        name=request.request_id,
        contexts=[(tokens, no_pictures) for tokens in contexts],
        max_tokens=part.max_tokens,
        stop_ids=part.stop_ids,
        sampling=request.sampling,
        seed=part.seed,
        planned=Planned(plan=plan, before=part.before),
    )


def prompt_of(tokens: Ints, pictures: Sequence[Pixels]) -> dict[str, Any]:
    """Return a row's context as vLLM takes it."""
    prompt: dict[str, Any] = {"prompt_token_ids": tokens.tolist()}
    if pictures:
        prompt["multi_modal_data"] = {"image": [Image.fromarray(picture) for picture in pictures]}
    return prompt


def sampling_params(asked: Asked, *, is_conditional: bool = True) -> Any:
    """Return vLLM's settings of a request, or of one of a pair's rows."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    extra: dict[str, object] = {}
    if asked.sampling.forbidden_ids:
        extra[FORBIDDEN] = asked.sampling.forbidden_ids
    if asked.planned is not None:
        extra[PLANNED] = asked.planned
    if len(asked.contexts) > 1:
        extra[HALF] = Half(
            pair=asked.key, name=asked.name, scale=asked.sampling.guidance, is_conditional=is_conditional
        )
    return SamplingParams(
        temperature=asked.sampling.temperature,
        max_tokens=asked.max_tokens,
        stop_token_ids=list(asked.stop_ids),
        ignore_eos=True,
        seed=asked.seed,
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
        extra_args=extra or None,
    )
