"""What the loss is a mean of, against plain Python; micro-batches add up to the step's one divisor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.advantage.batching import lay_out
from rl.loss.aggregation import aggregation_weights, divisor, divisor_share
from rl.types import TrainItem
from tests.reference import loss as reference
from tests.reference.actions import cases

quick = settings(deadline=None, max_examples=60)
KINDS = ("action_mean", "sequence_mean", "constant")
MAX_ACTIONS = 9


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(cases())
def test_weighted_sum_over_divisor_is_plain_pythons_mean(kind, case):
    mask, terms = case.actions.mask, torch.where(case.actions.mask, case.actions.advantages, 0.0)
    share = float(divisor_share(kind, mask, MAX_ACTIONS))
    total = float((aggregation_weights(kind, mask) * terms).sum())
    want = reference.aggregated(kind, terms.tolist(), mask.tolist(), MAX_ACTIONS)
    assert (total / share if share else total) == pytest.approx(want, rel=1e-6, abs=1e-6)
    assert not aggregation_weights(kind, mask)[~mask].any()


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(st.lists(st.integers(1, MAX_ACTIONS), min_size=1, max_size=12), st.integers(1, 3), st.integers(1, 4))
def test_shares_of_all_ranks_and_micro_batches_add_up_to_the_divisor(kind, counts, num_ranks, size):
    items = [
        TrainItem(
            item_id=str(i), handle=i, advantages={}, num_actions=n, num_scored=n, shape_key=(), length=n
        )
        for i, n in enumerate(counts)
    ]
    batch = lay_out("p", items, num_ranks, size, max_actions=MAX_ACTIONS)
    total = 0.0
    for micro in (micro for rank in batch.micro_batches for micro in rank):
        mask = torch.zeros(len(micro.items), MAX_ACTIONS, dtype=torch.bool)
        for row, (item, weight) in enumerate(zip(micro.items, micro.weights, strict=True)):
            mask[row, : item.num_actions if weight else 0] = True
        total += float(divisor_share(kind, mask, batch.max_actions))
    assert total == divisor(kind, batch)


def test_padding_rows_count_nothing():
    mask = torch.tensor([[True, True, False], [False, False, False]])
    padded = torch.cat([mask, torch.zeros(3, 3).bool()])
    for kind in KINDS:
        assert divisor_share(kind, padded, 5) == divisor_share(kind, mask, 5) > 0
