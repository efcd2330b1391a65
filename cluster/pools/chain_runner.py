"""Chain runner: takes chains from prompt to scores, between text policy, image policy and rewards.

An asynchronous actor. It holds token ids and object references; pictures and latents go straight from the
worker that made them to the workers that need them.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.pools.together import Together
from cluster.pools.whole_chains import WholeChains
from cluster.runtime.calls import SegmentHandle, Worker, answer, put
from configs.derive import denoising_policy, token_policy
from configs.schema import Config
from rl.advantage.scores import join
from rl.chain.grammar import ChainGrammar
from rl.chain.painting import PaintCall, picture_text, question_text
from rl.chain.state import ChainState, Decode, Done, PaintImage, WriteText
from rl.chain.whole import DecodePictures, WholeChain, WriteChain
from rl.data.pictures import decoded
from rl.denoising.step_selection import picture_draws, sampler_spec
from rl.errors import RolloutError
from rl.seeding import derive_seed
from rl.spans import span
from rl.types import (
    PREVIOUS,
    Chain,
    FinishedChain,
    Message,
    Pixels,
    Prompt,
    ScoredGroup,
    Scores,
    SegmentInfo,
    TextReply,
    TextRequest,
    TextSampling,
)

MOMENT_S = 0.002
"""How long a finished chain waits for others that are sent to be scored with it: as long as a call takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextContext:
    """What the chain needs to know of the text policy: ids in, text out."""

    grammar: ChainGrammar
    encode: Callable[[Sequence[Message]], tuple[int, ...]]
    """Messages to ids, one placeholder a picture."""
    forbidden_ids: tuple[int, ...]
    decode: Decode
    """Ids to text, tags kept."""
    max_context: int = 0
    """Tokens of the longest context; 0 where there is no text policy."""
    whole: WholeChains | None = None
    """Of a unified policy, which writes whole chains."""

    def prompt_length(self, prompt: Prompt[Any], config: Config) -> int:
        """Return the tokens of a prompt; those of its pictures count where they are known, of a unified policy."""
        ids = prompt.tokens or self.encode(prompt.messages)
        return len(ids) + (self.whole.picture_length(len(prompt.shown), config) if self.whole else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """Every worker a chain may need."""

    rollouts: Mapping[str, list[Worker]]
    """By policy."""
    scoring: Worker
    """Scores a chain with every reward (``cluster.pools.scoring.Scoring``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRequest:
    """One group to sample and score."""

    prompt: Prompt[Any]
    draw: int
    """How often the prompt was used before; part of every seed."""
    num_chains: int
    temperature: float | None = None
    """Overrides every token policy's; None keeps it."""
    noise_level: float | None = None
    """Overrides every denoising policy's; 0 is the deterministic sampler."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Bodies of text blocks that a unified policy is given and does not write."""
    grpo_step: int | None = None
    """How far training is, for the choice of random steps; None, outside of training, makes all steps random."""

    @property
    def group_id(self) -> str:
        """Prompt and draw."""
        return f"{self.prompt.prompt_id}#{self.draw}"


class _Writing:
    """One chain under way: its state and the references of what was made for it."""

    def __init__(
        self,
        index: int,
        chain_id: str,
        state: ChainState | WholeChain,
        shown: Mapping[str, Any],
        told: dict[Hashable, Any],
    ) -> None:
        self.index, self.chain_id, self.state = index, chain_id, state
        self.shown, self.told = shown, told
        """``told``: the group's answers of text encoders, by what was asked."""
        self.pictures = dict(shown)
        """Of the prompt, those that are shown, and then of the chain."""
        self.segments: list[SegmentInfo] = []

    @property
    def by_blocks(self) -> ChainState:
        """The state of a chain that is written block by block."""
        assert isinstance(self.state, ChainState)
        return self.state

    @property
    def whole(self) -> WholeChain:
        """The state of a chain that is written whole."""
        assert isinstance(self.state, WholeChain)
        return self.state

    @property
    def painted(self) -> dict[str, Any]:
        """Finished pictures by block."""
        return {name: self.pictures[name] for name in self.state.painted}


class ChainRunner:
    """Guides many chains at once. Workers are taken in turn; a group stays on one text worker."""

    def __init__(self, *, config: Config, context: TextContext, pools: Pools) -> None:
        self._config, self._context, self._pools = config, context, pools
        self._turn = itertools.count()
        self._scoring = Together(self._score_all, moment_s=MOMENT_S)

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
        pixels = decoded(group.prompt)
        prompt: Prompt[Any] = pixels.with_pictures(put)
        states = await self._begin(group, pixels, turn)
        writings = self._writings(group, prompt, states)
        scoring: dict[int, asyncio.Task[dict[str, Scores]]] = {}
        written = begin

        async def write_and_score(part: Sequence[_Writing]) -> None:
            nonlocal written
            await self._write(group, part, turn)
            written = time.perf_counter()
            for writing in part:
                scoring[writing.index] = tasks.create_task(self._score(group, writing, prompt))

        # Deterministic: the unit of work is one (group, block) as a fixed batch. Otherwise every chain goes
        # its own way, and batches form in the workers as requests arrive.
        parts = [writings] if self._config.deterministic else [[w] for w in writings]
        async with asyncio.TaskGroup() as tasks:
            for part in parts:
                tasks.create_task(write_and_score(part))
        scores = [scoring[writing.index].result() for writing in writings]
        return ScoredGroup(
            group_id=group.group_id,
            prompt_id=group.prompt.prompt_id,
            chains=self._finished(writings, group),
            scores={name: join(name, [chain[name] for chain in scores]) for name in scores[0]},
            seconds={"rollout": written - begin, "reward": time.perf_counter() - written},
        )

    # ------------------------------------------------------------------ writing

    async def _begin(
        self, group: GroupRequest, prompt: Prompt[Pixels], turn: int
    ) -> list[ChainState | WholeChain]:
        """Start every chain of a group behind the prompt's ids."""
        grammar, whole = self._context.grammar, self._context.whole
        asked = grammar.token_policy is not None and not prompt.tokens
        ids: Sequence[int] = self._context.encode(prompt.messages) if asked else prompt.tokens
        if whole is None:
            return [ChainState(grammar, ids, pictures=prompt.shown) for _ in range(group.num_chains)]
        ids = await whole.prompt_ids(ids, prompt, self._worker(whole.policy, turn), self._config)
        return [whole.begin(ids, group.texts) for _ in range(group.num_chains)]

    def _worker(self, policy: str, turn: int) -> Worker:
        """Return the worker of a policy whose turn it is; a group stays on one."""
        workers = self._pools.rollouts[policy]
        return workers[turn % len(workers)]

    def _writings(
        self, group: GroupRequest, prompt: Prompt[Any], states: Sequence[ChainState | WholeChain]
    ) -> list[_Writing]:
        shown, told = {name: prompt.pictures[name] for name in prompt.shown}, dict[Hashable, Any]()
        return [
            _Writing(index, f"{group.group_id}/{index}", state, shown, told)
            for index, state in enumerate(states)
        ]

    async def _write(self, group: GroupRequest, part: Sequence[_Writing], turn: int) -> None:
        """Take some chains of a group to their ends, block by block."""
        while True:
            steps = [(w, w.state.next_step()) for w in part]
            writes = [(w, s) for w, s in steps if isinstance(s, WriteText)]
            paints = [(w, s) for w, s in steps if isinstance(s, PaintImage)]
            chains = [w for w, s in steps if isinstance(s, WriteChain)]
            decodes = [(w, s) for w, s in steps if isinstance(s, DecodePictures)]
            if chains:
                await self._write_chains(group, chains, turn)
            if decodes:
                await self._decode(decodes, turn)
            if writes:
                await self._write_text(group, writes, turn)
            if paints:
                await self._paint(group, paints, turn)
            if not (writes or paints or chains or decodes):
                return

    async def _write_chains(self, group: GroupRequest, writings: Sequence[_Writing], turn: int) -> None:
        whole = self._context.whole
        assert whole is not None
        await whole.write(
            [(w.chain_id, w.whole) for w in writings],
            seeds=[self._seed(group, w.index, "chain") for w in writings],
            sampling=self._sampling(group, whole.policy),
            worker=self._worker(whole.policy, turn),
            deadline_s=self._config.deadline_s,
        )

    async def _decode(self, steps: Sequence[tuple[_Writing, DecodePictures]], turn: int) -> None:
        whole = self._context.whole
        assert whole is not None
        codes, worker = [step.codes for _, step in steps], self._worker(whole.policy, turn)
        decoded = await whole.decode(codes, worker=worker, deadline_s=self._config.deadline_s)
        for (writing, _), pictures in zip(steps, decoded, strict=True):
            writing.pictures |= pictures
            writing.whole.pictures_decoded()

    async def _write_text(
        self, group: GroupRequest, steps: Sequence[tuple[_Writing, WriteText]], turn: int
    ) -> None:
        pictures: list[Any] = []
        requests = []
        for writing, step in steps:
            names = writing.by_blocks.pictures
            requests.append(
                TextRequest(
                    request_id=f"{writing.chain_id}/{step.block}",
                    tokens=writing.by_blocks.tokens,
                    pictures=tuple(range(len(pictures), len(pictures) + len(names))),
                    max_tokens=step.max_tokens,
                    stop_ids=step.stop_ids,
                    sampling=self._sampling(group, self._config.chain[step.block].policy),
                    seed=self._seed(group, writing.index, step.block),
                )
            )
            pictures += [writing.pictures[name] for name in names]
        worker = self._worker(self._config.chain[steps[0][1].block].policy, turn)
        call = worker.call("generate", requests, *pictures)
        replies: list[TextReply] = await answer(call, deadline_s=self._config.deadline_s)
        for (writing, _), reply in zip(steps, replies, strict=True):
            writing.by_blocks.text_written(
                reply.tokens,
                reply.logprobs,
                stopped=reply.stopped,
                version=reply.version,
                context=reply.context,
            )

    async def _paint(
        self, group: GroupRequest, steps: Sequence[tuple[_Writing, PaintImage]], turn: int
    ) -> None:
        call = PaintCall[Any](self._config.chain)
        question = question_text(group.prompt)
        for writing, step in steps:
            policy = denoising_policy(self._config.policies[self._config.chain[step.block].policy])
            rollout, seed = policy.rollout, self._seed(group, writing.index, step.block)
            draws = picture_draws(
                rollout,
                step.num_steps,
                picture_seed=seed,
                group_seed=self._seed(group, "group", step.block),
                grpo_step=group.grpo_step,
            )
            call.add(
                writing.chain_id,
                step.block,
                pictures=_seen(writing, step),
                words={"text": self._text(writing, step.block, question), "question": question},
                sampler=sampler_spec(rollout, group.noise_level),
                seed=seed,
                draws=draws,
            )
        policy_name = self._config.chain[steps[0][1].block].policy
        sent = self._worker(policy_name, turn).call(
            "generate", call.requests, *call.pictures, num_returns=call.num_returns
        )
        replies = await answer(sent.first(), deadline_s=self._config.deadline_s)
        painted = call.taken_apart(replies, sent.ref[1:])
        for (writing, step), request, made in zip(steps, call.requests, painted, strict=True):
            reply, seen = made.reply, tuple(_seen(writing, step).values())
            # Chains that say the same share one copy of what the text encoders made of it.
            asked = (policy_name, *request.words.values(), *seen)
            writing.segments.append(
                SegmentInfo(
                    policy=policy_name,
                    handle=SegmentHandle(made.segment, seen, writing.told.setdefault(asked, made.told)),
                    blocks=(step.block,),
                    num_actions={step.block: len(reply.steps)},
                    shape_key=reply.shape_key,
                    length=step.num_steps,
                    steps=reply.steps,
                )
            )
            writing.pictures[step.block] = made.picture
            writing.by_blocks.image_painted(step.block, reply.version)

    def _text(self, writing: _Writing, block: str, question: str) -> str:
        """Return what an image block is painted from: the chain's words, or where it writes none the prompt's."""
        if self._context.grammar.token_policy is None:
            return question
        return picture_text(writing.state.text(self._context.decode), block)

    def _sampling(self, group: GroupRequest, policy: str) -> TextSampling:
        rollout = token_policy(self._config.policies[policy]).rollout
        temperature = rollout.temperature if group.temperature is None else group.temperature
        return TextSampling(
            temperature=temperature,
            forbidden_ids=self._context.forbidden_ids,
            guidance=rollout.guidance_scale,
        )

    def _seed(self, group: GroupRequest, chain: int | str, block: str) -> int:
        """Return the seed of a block of one chain, by its index, or of all the group's (``group``)."""
        return derive_seed(self._config.seed, group.prompt.prompt_id, group.draw, chain, block)

    # ------------------------------------------------------------------ scoring

    async def _score(self, group: GroupRequest, writing: _Writing, prompt: Prompt[Any]) -> dict[str, Scores]:
        """Send one finished chain to every reward at once."""
        end = writing.state.next_step()
        if not isinstance(end, Done):
            raise RolloutError(f"{writing.chain_id} is scored before it ended")
        finished: FinishedChain[Any] = FinishedChain(
            chain_id=writing.chain_id,
            group_id=group.group_id,
            prompt=prompt,
            finish=end.finish,
            text=writing.state.text(self._context.decode),
            block_text=writing.state.block_text(self._context.decode),
            pictures=writing.painted,
            final_block=final_picture_block(self._config),
            completion_ids=tuple(writing.state.written.tolist()),
        )
        return await self._scoring.ask(finished)

    async def _score_all(
        self, chains: Sequence[FinishedChain[Any]]
    ) -> Sequence[dict[str, Scores] | Exception]:
        call = self._pools.scoring.call("score", chains)
        scores: Sequence[dict[str, Scores] | Exception] = await answer(
            call, deadline_s=self._config.deadline_s
        )
        return scores

    # ------------------------------------------------------------------ records

    def _finished(self, writings: Sequence[_Writing], group: GroupRequest) -> tuple[Chain, ...]:
        policy = self._context.grammar.token_policy
        acted = [writing for writing in writings if writing.state.num_actions()]
        if policy is not None and acted:
            self._keep_streams(policy, acted, self._sampling(group, policy))
        return tuple(self._chain(writing, group) for writing in writings)

    def _keep_streams(self, policy: str, writings: Sequence[_Writing], sampling: TextSampling) -> None:
        """Put the token streams of a group into the store, as one object: each takes a millisecond."""
        streams = [writing.state.stream(sampling) for writing in writings]
        ref = put(streams)
        for place, (writing, stream) in enumerate(zip(writings, streams, strict=True)):
            assert stream is not None
            pictures = tuple(writing.pictures[name] for name in stream.pictures)
            num_actions = writing.state.num_actions()
            writing.segments.insert(
                0,
                SegmentInfo(
                    policy=policy,
                    handle=SegmentHandle(ref, pictures, place=place),
                    blocks=tuple(num_actions),
                    num_actions=num_actions,
                    shape_key=(),
                    length=writing.state.length,
                ),
            )

    def _chain(self, writing: _Writing, group: GroupRequest) -> Chain:
        state, end = writing.state, writing.state.next_step()
        assert isinstance(end, Done)
        return Chain(
            chain_id=writing.chain_id,
            group_id=group.group_id,
            index=writing.index,
            finish=end.finish,
            error=end.error,
            text=state.text(self._context.decode),
            segments=tuple(writing.segments),
            pictures=writing.painted,
            versions=dict(state.versions),
            block_text=state.block_text(self._context.decode),
        )


def _seen(writing: _Writing, step: PaintImage) -> dict[str, Any]:
    """Return what an image block sees: what the prompt shows, and the chain's picture before it."""
    before = {PREVIOUS: writing.pictures[step.previous]} if step.previous else {}
    return {**writing.shown, **before}


def final_picture_block(config: Config) -> str:
    """Name of the chain's last image block, or '' where it paints none."""
    return next((n for n, block in reversed(config.chain.items()) if block.kind == "image"), "")
