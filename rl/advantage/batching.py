"""Training batches: the items of each policy with their advantages, laid out over ranks.

Pure. Nothing here opens a handle: what is spread are records of a few numbers. The same groups give the same
batches, in id order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from typing import TypeVar

from configs.derive import CHUNK_ACTIONS, is_stepwise, num_codes
from configs.schema import Config, UnifiedPolicyConfig, WriterConfig
from rl.advantage.assign import Advantages
from rl.advantage.overlong import masked_blocks
from rl.types import Chain, MicroBatch, ScoredGroup, TrainBatch, TrainItem

T = TypeVar("T")


def build_train_batches(
    groups: Sequence[ScoredGroup], advantages: Advantages, config: Config
) -> dict[str, list[TrainBatch]]:
    """Split a step's groups into optimizer steps and lay each out over the policy's ranks.

    Items whose advantages are all 0 stay: they carry the KL term. Segments without an action, and chains
    without advantages, do not.

    Args:
        groups: Trainable groups.
        advantages: From ``assign_advantages``.
        config: Its ``updates_per_batch``, and each policy's ``num_ranks``, ``micro_batch_size`` and ``max_tokens``.

    Returns:
        By policy, the optimizer steps in order; a policy without any item is absent.
    """
    batches: dict[str, list[TrainBatch]] = {}
    for part in split_evenly(groups, config.updates_per_batch):
        chains = [chain for group in part for chain in group.chains if chain.chain_id in advantages]
        for policy, settings in config.policies.items():
            items = [
                item
                for chain in chains
                for item in items_of(chain, policy, advantages[chain.chain_id], config)
            ]
            if items:
                batch = lay_out(
                    policy,
                    items,
                    settings.learner.num_ranks,
                    settings.learner.micro_batch_size,
                    max_actions=max_actions(policy, config),
                    max_tokens=settings.learner.max_tokens if isinstance(settings, WriterConfig) else 0,
                )
                batches.setdefault(policy, []).append(batch)
    return batches


def items_of(chain: Chain, policy: str, advantages: dict[int, float], config: Config) -> list[TrainItem]:
    """Turn one chain's segments of ``policy`` into items, those without actions to train left out.

    A masked block (``overlong=mask``) is neither in an item's advantages nor in its number of actions.
    """
    names, masked = list(config.chain), masked_blocks(chain, config)
    items = []
    for segment in chain.segments:
        trained = {block: num for block, num in segment.num_actions.items() if block not in masked}
        if segment.policy == policy and sum(trained.values()) > 0:
            item = TrainItem(
                item_id=f"{chain.chain_id}/{'+'.join(segment.blocks)}",
                handle=segment.handle,
                advantages={names.index(block): advantages[names.index(block)] for block in trained},
                num_actions=sum(trained.values()),
                num_scored=sum(segment.num_actions.values()),
                shape_key=segment.shape_key,
                length=segment.length,
                steps=segment.steps,
            )
            is_split = segment.steps and is_stepwise(config.policies[policy].loss)
            items += by_step(item) if is_split else [item]
    return items


def by_step(item: TrainItem) -> list[TrainItem]:
    """Split a picture into its trained steps: one call of a pipeline has one step of many pictures."""
    return [
        replace(item, steps=(step,), num_actions=1, num_scored=1, shape_key=(*item.shape_key, step))
        for step in item.steps
    ]


def max_actions(policy: str, config: Config) -> int:
    """Return the most actions a sequence can have: tokens, codes among them, or random steps of a picture."""
    blocks, settings = [b for b in config.chain.values() if b.policy == policy], config.policies[policy]
    tokens = sum(block.max_tokens for block in blocks if block.kind == "text")
    if isinstance(settings, UnifiedPolicyConfig):
        tokens += sum(num_codes(block, settings.stride_px) for block in blocks if block.kind == "image")
    steps = max((block.num_steps - 1 for block in blocks if block.kind == "image"), default=0)
    return tokens or steps


def lay_out(
    policy: str,
    items: Sequence[TrainItem],
    num_ranks: int,
    micro_batch_size: int,
    *,
    max_actions: int,
    max_tokens: int = 0,
) -> TrainBatch:
    """Lay one optimizer step out over ranks.

    Items of one shape are sorted by length and cut into micro-batches of like length, so little is padded;
    ``max_tokens`` also bounds how long one may become.
    Neighbours go to different ranks, so that all ranks have about the same work at the same time. Every rank
    gets the same number of micro-batches of each shape: ZeRO's collectives hang or crash otherwise. Where
    items do not reach, a micro-batch holds one of them again with weight 0.

    Args:
        policy: Name.
        items: At least one.
        num_ranks: Learner ranks.
        micro_batch_size: Most rows of a micro-batch.
        max_actions: Most actions a sequence can have.
        max_tokens: Most tokens of a micro-batch, padding included; 0 is no bound. A longer item is alone.

    Returns:
        The batch; ``num_actions`` and ``num_sequences`` count every item once.
    """
    ranks: list[list[MicroBatch]] = [[] for _ in range(num_ranks)]
    in_order = sorted(items, key=lambda item: (item.shape_key, -item.length))
    for _, same_shape in groupby(in_order, key=lambda item: item.shape_key):
        alike = list(same_shape)
        if max_tokens:
            micros = split_by_tokens(alike, num_ranks, micro_batch_size, max_tokens)
        else:
            num_each = -(-len(alike) // (num_ranks * micro_batch_size))
            micros = split_evenly(alike, num_ranks * num_each)
        for index, rows in enumerate(micros):
            rows_or_padding = tuple(rows) or (alike[-1],)
            weights = (1.0,) * len(rows) or (0.0,)
            ranks[index % num_ranks].append(MicroBatch(items=rows_or_padding, weights=weights))
    return TrainBatch(
        policy=policy,
        micro_batches=tuple(map(tuple, ranks)),
        num_actions=sum(item.num_actions for item in items),
        num_sequences=len({item.item_id for item in items}),
        max_actions=max_actions,
        num_chunks=max(_num_chunks(micro.items) for micros in ranks for micro in micros),
    )


def _num_chunks(items: Sequence[TrainItem]) -> int:
    """Count the parts in which a micro-batch is scored: chunks of tokens, or different denoising steps."""
    steps = {step for item in items for step in item.steps}
    return len(steps) or chunks_of(sum(item.num_scored for item in items))


def chunks_of(num_actions: int) -> int:
    """Return in how many parts a learner makes log-probs of actions, so that it never holds the logits of all.

    Every rank must ask for the output matrix equally often: ZeRO stage 3 gathers it each time.
    """
    return max(1, -(-num_actions // CHUNK_ACTIONS))


def split_by_tokens(
    items: Sequence[TrainItem], num_ranks: int, max_rows: int, max_tokens: int
) -> list[Sequence[TrainItem]]:
    """Cut items into runs of at most ``max_rows``, and ``max_tokens`` when padded, as many for every rank.

    There are as few as can be, and then each is as small as their number allows, so that all take about as long.

    Args:
        items: At least one, longest first. One that is longer than ``max_tokens`` is alone.
        num_ranks: Their number is a multiple of it; the last ones may be empty.
        max_rows: Bound.
        max_tokens: Bound on rows times the longest.
    """
    lengths = [item.length for item in items]
    num = num_ranks * -(-len(fill_runs(lengths, max_rows, max_tokens)) // num_ranks)
    bounds = range(1, max_tokens)
    enough = bisect_left(bounds, True, key=lambda bound: len(fill_runs(lengths, max_rows, bound)) <= num)
    runs = [items[run] for run in fill_runs(lengths, max_rows, 1 + enough)]
    return [*runs, *[()] * (num - len(runs))]


def fill_runs(lengths: Sequence[int], max_rows: int, max_tokens: int) -> list[slice]:
    """Fill one run of rows after the other: the fewest there can be of rows in this order, longest first."""
    runs, begin = [], 0
    while begin < len(lengths):
        rows = min(max_rows, max(1, max_tokens // max(1, lengths[begin])))
        runs.append(slice(begin, begin + rows))
        begin += rows
    return runs


def split_evenly(things: Sequence[T], num_parts: int) -> list[Sequence[T]]:
    """Cut a sequence into ``num_parts`` runs whose lengths differ by at most 1; the first are the longer."""
    size, longer = divmod(len(things), num_parts)
    starts = [index * size + min(index, longer) for index in range(num_parts + 1)]
    return [things[a:b] for a, b in pairwise(starts)]
