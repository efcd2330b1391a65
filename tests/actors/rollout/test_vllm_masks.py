"""Masks of the engine's sampler against a loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.policies.token.policy import masked
from actors.rollout.vllm_requests import FORBIDDEN
from rl.compat.torchvision import ensure_torchvision

pytestmark = pytest.mark.engine

NUM_IDS = 7
rows = st.lists(st.sampled_from([(), (0,), (1, 3), (2, 3, 6)]), min_size=1, max_size=5)


def processor():
    ensure_torchvision()
    from actors.rollout.vllm_masks import ForbiddenIds

    return ForbiddenIds(None, torch.device("cpu"), False)


def update(rows, removed=(), moved=()):
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate

    added = [
        (place, SamplingParams(extra_args={FORBIDDEN: ids} if ids else None), [], [])
        for place, ids in rows.items()
    ]
    return BatchUpdate(batch_size=len(rows), removed=list(removed), added=added, moved=list(moved))


@settings(deadline=None)
@given(rows, rows)
def test_each_row_forbids_its_own_ids_and_rows_that_come_forbid_theirs(first, second):
    """The learner's masks are the same."""
    masks = processor()
    for batch in (first, second):
        masks.update_state(update(dict(enumerate(batch)), removed=range(len(batch), len(first))))
        logits = torch.randn(len(batch), NUM_IDS)
        wanted = logits.clone()
        for row, ids in enumerate(batch):
            for index in ids:
                wanted[row, index] = -torch.inf
        assert torch.equal(masks.apply(logits.clone()), wanted)
        distinct = list(dict.fromkeys(batch))
        width = max(map(len, distinct))
        table = torch.tensor([[*ids, *[-1] * (width - len(ids))] for ids in distinct], dtype=torch.int64)
        mask_of = torch.tensor([distinct.index(ids) for ids in batch])
        assert torch.equal(masked(logits, table, mask_of), wanted)


def test_rows_that_forbid_the_same_are_one_group():
    ensure_torchvision()
    from actors.rollout.vllm_masks import rows_by_ids

    assert rows_by_ids({0: (1,), 2: (1,), 1: (2, 3)}) == {(1,): [0, 2], (2, 3): [1]}


def test_masks_forbid_where_the_likeliest_is_taken():
    assert not processor().is_argmax_invariant()
