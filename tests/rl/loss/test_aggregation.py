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
KINDS = ("action_mean", "sequence_mean", "block_mean", "constant")
MAX_ACTIONS = 9


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(cases())
def test_weighted_sum_over_divisor_is_plain_pythons_mean(kind, case):
    mask, block_of = case.actions.mask, case.actions.block_of
    terms = torch.where(mask, case.actions.advantages, 0.0)
    share = float(divisor_share(kind, mask, MAX_ACTIONS))
    total = float((aggregation_weights(kind, mask, block_of) * terms).sum())
    want = reference.aggregated(kind, terms.tolist(), mask.tolist(), MAX_ACTIONS, block_of.tolist())
    assert (total / share if share else total) == pytest.approx(want, rel=1e-6, abs=1e-6)
    assert not aggregation_weights(kind, mask, block_of)[~mask].any()


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


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(cases(), st.integers(1, 3), st.integers(0, 2))
def test_weights_do_not_depend_on_how_a_step_is_cut(kind, case, size, padding):
    """Into micro-batches of some rows, each padded to its own length."""
    mask, block_of = case.actions.mask, case.actions.block_of
    whole = aggregation_weights(kind, mask, block_of)
    for first in range(0, len(mask), size):
        rows = slice(first, first + size)
        wider = [
            torch.nn.functional.pad(values[rows], (0, padding), value=blank)
            for values, blank in ((mask, False), (block_of, -1))
        ]
        torch.testing.assert_close(aggregation_weights(kind, *wider)[:, : mask.shape[1]], whole[rows])


def test_a_short_block_counts_as_much_as_a_long_one():
    mask = torch.tensor([[True, True, True, False, True], [True, False, False, False, False]])
    block_of = torch.tensor([[0, 5, 5, 5, 5], [5, -1, -1, -1, -1]])
    weights = aggregation_weights("block_mean", mask, block_of)
    want = torch.tensor([[1 / 2, 1 / 6, 1 / 6, 0, 1 / 6], [1.0, 0, 0, 0, 0]])
    torch.testing.assert_close(weights, want)


def test_padding_rows_count_nothing():
    mask = torch.tensor([[True, True, False], [False, False, False]])
    padded = torch.cat([mask, torch.zeros(3, 3).bool()])
    for kind in KINDS:
        assert divisor_share(kind, padded, 5) == divisor_share(kind, mask, 5) > 0
