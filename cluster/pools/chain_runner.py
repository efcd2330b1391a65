"""Guides chains from prompt to scores: the hand-over between text policy, image policy and rewards.

An asynchronous actor. It holds token ids and object references; pictures and latents go straight from the
worker that made them to the workers that need them.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.runtime.calls import SegmentHandle, Worker, answer, put
from configs.schema import Config, PolicyConfig
from rl.advantage.scores import join
from rl.chain.state import ChainGrammar, ChainState, Decode, Done, PaintImage, WriteText
from rl.denoising.step_selection import picture_draws, sampler_spec
from rl.errors import RolloutError
from rl.seeding import derive_seed
from rl.spans import span
from rl.types import (
    DEGRADED,
    TRUTH,
    Chain,
    ImageReply,
    ImageRequest,
    Prompt,
    RewardRequest,
    ScoredGroup,
    Scores,
    SegmentInfo,
    TextReply,
    TextRequest,
    TextSampling,
)

_MARKUP = re.compile(r"<[^<>]*>")
"""Tags and picture marks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextContext:
    """What the chain needs to know of the text policy: ids in, text out."""

    grammar: ChainGrammar
    prompt: tuple[int, ...]
    """Prompt ids with one placeholder for the degraded photo."""
    forbidden_ids: tuple[int, ...]
    decode: Decode
    """Ids to text, tags kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """Every worker a chain may need, by policy or reward."""

    text: Mapping[str, list[Worker]]
    image: Mapping[str, list[Worker]]
    scoring: Worker
    """Scores a chain with every reward (``cluster.pools.scoring.Scoring``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRequest:
    """One group to sample and score."""

    prompt: Prompt
    draw: int
    """How often the prompt was used before; part of every seed."""
    num_chains: int
    temperature: float | None = None
    """Overrides every token policy's; None keeps it."""
    noise_level: float | None = None
    """Overrides every denoising policy's; 0 is the deterministic sampler."""
    grpo_step: int | None = None
    """How far training is, for the choice of random steps; None, outside of training, makes all steps random."""

    @property
    def group_id(self) -> str:
        """Prompt and draw."""
        return f"{self.prompt.prompt_id}#{self.draw}"


class _Writing:
    """One chain under way: its state and the references of what was made for it."""

    def __init__(self, index: int, chain_id: str, state: ChainState, pictures: dict[str, Any]) -> None:
        self.index, self.chain_id, self.state = index, chain_id, state
        self.pictures = pictures
        self.segments: list[SegmentInfo] = []


class ChainRunner:
    """Guides many chains at once. Workers are taken in turn; a group stays on one text worker."""

    def __init__(self, *, config: Config, context: TextContext, pools: Pools) -> None:
        self._config, self._context, self._pools = config, context, pools
        self._turn = itertools.count()

    async def use(self, pools: Pools) -> None:
        """Take other workers from now on, some having been replaced."""
        self._pools = pools

    async def run_group(self, group: GroupRequest) -> ScoredGroup:
        """Sample and score one group.

        Raises:
            RolloutError: If a rollout worker failed.
            CallTimeoutError: If a worker did not answer within ``deadline_s``.
        """
        with span("group", lane="group", overlaps=True, group=group.group_id, num_chains=group.num_chains):
            return await self._run_group(group)

    async def _run_group(self, group: GroupRequest) -> ScoredGroup:
        begin, turn = time.perf_counter(), next(self._turn)
        prompt = {DEGRADED: put(group.prompt.degraded)}
        truth = None if group.prompt.reference.photo is None else put(group.prompt.reference.photo)
        writings = [
            _Writing(
                index,
                f"{group.group_id}/{index}",
                ChainState(self._context.grammar, self._context.prompt),
                dict(prompt),
            )
            for index in range(group.num_chains)
        ]
        scoring: dict[int, asyncio.Task[dict[str, Scores]]] = {}
        written = begin

        async def write_and_score(part: Sequence[_Writing]) -> None:
            nonlocal written
            await self._write(group, part, turn)
            written = time.perf_counter()
            for writing in part:
                scoring[writing.index] = tasks.create_task(self._score(group, writing, truth))

        # Deterministic: the unit of work is one (group, block) as a fixed batch. Otherwise every chain goes
        # its own way, and batches form in the workers as requests arrive.
        parts = [writings] if self._config.deterministic else [[w] for w in writings]
        async with asyncio.TaskGroup() as tasks:
            for part in parts:
                tasks.create_task(write_and_score(part))
        return ScoredGroup(
            group_id=group.group_id,
            prompt_id=group.prompt.prompt_id,
            chains=tuple(self._finished(w, group) for w in writings),
            scores=join_scores([scoring[w.index].result() for w in writings]),
            seconds={"rollout": written - begin, "reward": time.perf_counter() - written},
        )

    # ------------------------------------------------------------------ writing

    async def _write(self, group: GroupRequest, part: Sequence[_Writing], turn: int) -> None:
        """Take some chains of a group to their ends, block by block."""
        while True:
            steps = [(w, w.state.next_step()) for w in part]
            writes = [(w, s) for w, s in steps if isinstance(s, WriteText)]
            paints = [(w, s) for w, s in steps if isinstance(s, PaintImage)]
            if writes:
                await self._write_text(group, writes, turn)
            if paints:
                await self._paint(group, paints, turn)
            if not writes and not paints:
                return

    async def _write_text(
        self, group: GroupRequest, steps: Sequence[tuple[_Writing, WriteText]], turn: int
    ) -> None:
        pictures: list[Any] = []
        requests = []
        for writing, step in steps:
            names = writing.state.pictures
            requests.append(
                TextRequest(
                    request_id=f"{writing.chain_id}/{step.block}",
                    tokens=writing.state.tokens,
                    pictures=tuple(range(len(pictures), len(pictures) + len(names))),
                    max_tokens=step.max_tokens,
                    stop_ids=step.stop_ids,
                    sampling=self._sampling(group, step.block),
                    seed=self._seed(group, writing, step.block),
                )
            )
            pictures += [writing.pictures[name] for name in names]
        workers = self._pools.text[self._config.chain[steps[0][1].block].policy]
        call = workers[turn % len(workers)].call("generate", requests, *pictures)
        replies: list[TextReply] = await answer(call, deadline_s=self._config.deadline_s)
        for (writing, _), reply in zip(steps, replies, strict=True):
            writing.state.text_written(
                reply.tokens, reply.logprobs, stopped=reply.stopped, version=reply.version
            )

    async def _paint(
        self, group: GroupRequest, steps: Sequence[tuple[_Writing, PaintImage]], turn: int
    ) -> None:
        requests: list[ImageRequest] = []
        pictures: list[Any] = []
        for writing, step in steps:
            names = [DEGRADED, *([step.previous] if step.previous else [])]
            first, seed = len(pictures), self._seed(group, writing, step.block)
            pictures += [writing.pictures[name] for name in names]
            source_seed, plan = picture_draws(
                self._policy(step.block),
                step.num_steps,
                picture_seed=seed,
                group_seed=self._group_seed(group, step.block),
                grpo_step=group.grpo_step,
            )
            requests.append(
                ImageRequest(
                    request_id=f"{writing.chain_id}/{step.block}",
                    block=step.block,
                    size_px=step.size_px,
                    num_steps=step.num_steps,
                    sampler=sampler_spec(self._policy(step.block), group.noise_level),
                    degraded=first,
                    previous=first + 1 if step.previous else -1,
                    text=picture_text(writing.state.text(self._context.decode), step.block),
                    seed=seed,
                    source_seed=source_seed,
                    steps=plan,
                )
            )
        policy = self._config.chain[steps[0][1].block].policy
        workers = self._pools.image[policy]
        call = workers[turn % len(workers)].call(
            "generate", requests, *pictures, num_returns=1 + 2 * len(requests)
        )
        replies: list[ImageReply] = await answer(call.first(), deadline_s=self._config.deadline_s)
        for i, ((writing, step), reply) in enumerate(zip(steps, replies, strict=True)):
            picture, segment = call.ref[1 + 2 * i], call.ref[2 + 2 * i]
            seen = [DEGRADED, *([step.previous] if step.previous else [])]
            writing.segments.append(
                SegmentInfo(
                    policy=policy,
                    handle=SegmentHandle(segment, tuple(writing.pictures[name] for name in seen)),
                    blocks=(step.block,),
                    num_actions={step.block: reply.num_actions},
                    shape_key=(step.size_px, step.num_steps),
                    length=step.num_steps,
                )
            )
            writing.pictures[step.block] = picture
            writing.state.image_painted(step.block, reply.version)

    def _sampling(self, group: GroupRequest, block: str) -> TextSampling:
        policy = self._policy(block)
        temperature = policy.temperature if group.temperature is None else group.temperature
        return TextSampling(
            temperature=temperature,
            forbidden_ids=self._context.forbidden_ids,
            guidance=policy.guidance_scale,
        )

    def _policy(self, block: str) -> PolicyConfig:
        return self._config.policies[self._config.chain[block].policy]

    def _seed(self, group: GroupRequest, writing: _Writing, block: str) -> int:
        return derive_seed(self._config.seed, group.prompt.prompt_id, group.draw, writing.index, block)

    def _group_seed(self, group: GroupRequest, block: str) -> int:
        return derive_seed(self._config.seed, group.prompt.prompt_id, group.draw, "group", block)

    # ------------------------------------------------------------------ scoring

    async def _score(self, group: GroupRequest, writing: _Writing, truth: Any | None) -> dict[str, Scores]:
        """Send one finished chain to every reward at once."""
        refs = dict(writing.pictures) | ({} if truth is None else {TRUTH: truth})
        end = writing.state.next_step()
        if not isinstance(end, Done):
            raise RolloutError(f"{writing.chain_id} is scored before it ended")
        request = RewardRequest(
            chain_id=writing.chain_id,
            group_id=group.group_id,
            finish=end.finish,
            text=writing.state.text(self._context.decode),
            block_text=writing.state.block_text(self._context.decode),
            final_block=final_picture_block(self._config),
            pictures={name: index for index, name in enumerate(refs)},
            labels=group.prompt.reference.labels,
            tags=group.prompt.reference.tags,
        )
        call = self._pools.scoring.call("score", request, list(refs.values()))
        scores: dict[str, Scores] = await answer(call, deadline_s=self._config.deadline_s)
        return scores

    # ------------------------------------------------------------------ records

    def _finished(self, writing: _Writing, group: GroupRequest) -> Chain:
        state, segments = writing.state, list(writing.segments)
        end = state.next_step()
        assert isinstance(end, Done)
        policy, num_actions = self._context.grammar.token_policy, state.num_actions()
        if policy is not None and num_actions:
            stream = state.stream(self._sampling(group, next(iter(num_actions))))
            refs = tuple(writing.pictures[name] for name in state.pictures)
            segments.insert(
                0,
                SegmentInfo(
                    policy=policy,
                    handle=SegmentHandle(put(stream), refs),
                    blocks=tuple(num_actions),
                    num_actions=num_actions,
                    shape_key=(),
                    length=len(state.tokens),
                ),
            )
        return Chain(
            chain_id=writing.chain_id,
            group_id=group.group_id,
            index=writing.index,
            finish=end.finish,
            error=end.error,
            text=state.text(self._context.decode),
            segments=tuple(segments),
            pictures={name: writing.pictures[name] for name in state.painted},
            versions=dict(state.versions),
        )


def picture_text(text: str, block: str) -> str:
    """Return a chain's words before image block ``block``: what the image policy is told.

    Args:
        text: The chain's text, tags included.
        block: Name of the image block; where its tag is not there, all words count.
    """
    words = _MARKUP.sub(" ", text.split(f"<{block}>", maxsplit=1)[0])
    return " ".join(words.split())


def final_picture_block(config: Config) -> str:
    """Name of the chain's last image block, or '' where it paints none."""
    return next((n for n, block in reversed(config.chain.items()) if block.kind == "image"), "")


def join_scores(chains: Sequence[Mapping[str, Scores]]) -> dict[str, Scores]:
    """Join one-chain scores to one ``Scores`` a reward, in chain order."""
    return {name: join(name, [chain[name] for chain in chains]) for name in chains[0]}
