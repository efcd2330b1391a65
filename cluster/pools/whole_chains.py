"""Whole chains of a unified policy: the prompt's pictures to codes, one request a chain, its codes to pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.runtime.calls import Worker, answer
from configs.schema import Config
from rl.chain.plan import PictureTokens
from rl.chain.shown import seen, with_codes
from rl.chain.whole import WholeChain
from rl.types import ChainPlan, Ints, Pixels, Prompt, TextReply, TextSampling


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeChains:
    """What a chain runner needs to know of a policy that writes whole chains."""

    policy: str
    plan: ChainPlan
    pictures: PictureTokens
    placeholder: int
    """Id that stands for a picture in an encoded prompt."""
    spell: Callable[[str], Sequence[int]]
    """Text to ids, nothing added."""

    def begin(self, prompt: Sequence[int], texts: Mapping[str, str]) -> WholeChain:
        """Return a chain that stands behind its prompt, the bodies of some text blocks given."""
        given = {name: self.spell(text) for name, text in texts.items()}
        return WholeChain(self.plan.given(given) if given else self.plan, self.policy, self.pictures, prompt)

    async def prompt_ids(
        self, ids: Sequence[int], prompt: Prompt[Pixels], worker: Worker, config: Config
    ) -> list[int]:
        """Put the codes of the pictures that a prompt shows in their places.

        Args:
            ids: Of its messages, one placeholder a picture.
            prompt: Its pictures as pixels.
            worker: A rollout worker of the policy.
            config: The run.

        Returns:
            Ids as the model reads them.
        """
        if not prompt.shown:
            return list(ids)
        sized = [seen(prompt.pictures[n], config.chain, self.pictures.stride_px) for n in prompt.shown]
        codes: list[Ints] = await answer(worker.call("encode", sized), deadline_s=config.deadline_s)
        return with_codes(ids, self.placeholder, codes, self.pictures)

    def picture_length(self, num_pictures: int, config: Config) -> int:
        """Return how many ids a prompt's pictures add to their placeholders, where the chain paints."""
        images = [block for block in config.chain.values() if block.kind == "image"]
        return num_pictures * (len(self.pictures.of_block(images[-1]).template) - 1) if images else 0

    async def write(
        self,
        chains: Sequence[tuple[str, WholeChain]],
        *,
        seeds: Sequence[int],
        sampling: TextSampling,
        worker: Worker,
        deadline_s: float,
    ) -> None:
        """Have chains written, each in one request.

        Args:
            chains: Id and state of each.
            seeds: Of each.
            sampling: How ids are drawn.
            worker: A rollout worker of the policy.
            deadline_s: Longest wait for all of them.
        """
        requests = [
            chain.request(name, sampling=sampling, seed=seed)
            for (name, chain), seed in zip(chains, seeds, strict=True)
        ]
        call = worker.call("generate", requests)
        replies: list[TextReply] = await answer(call, deadline_s=deadline_s)
        for (_, chain), reply in zip(chains, replies, strict=True):
            chain.chain_written(reply.tokens, reply.logprobs, version=reply.version)

    async def decode(
        self, codes: Sequence[Mapping[str, Ints]], *, worker: Worker, deadline_s: float
    ) -> list[dict[str, Any]]:
        """Have pictures made of codes.

        Args:
            codes: ``[rows, columns]`` of each picture of some chains, by block.
            worker: A rollout worker of the policy.
            deadline_s: Longest wait for all of them.

        Returns:
            A reference of each picture, by chain and block.
        """
        flat = [one for named in codes for one in named.values()]
        sent = worker.call("decode", flat, num_returns=1 + len(flat))
        await answer(sent.first(), deadline_s=deadline_s)
        refs = iter(sent.ref[1:])
        return [{name: next(refs) for name in named} for named in codes]
