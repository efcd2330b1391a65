"""The correction of the mismatch between rollout worker and learner, against plain Python."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from configs.methods import NoCorrection, SequenceMask, TokenMask, TruncatedImportance
from rl.loss.correction import correction_factors
from tests.reference import loss as reference
from tests.reference.actions import cases

quick = settings(deadline=None, max_examples=60)
METHODS = (
    TruncatedImportance(cap=1.3),
    TokenMask(low=0.8, high=1.4),
    SequenceMask(low=0.9, high=1.1),
)
by_name = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)


@by_name
@quick
@given(cases())
def test_factors_are_those_of_plain_python(method, case):
    mask, own, behaviour = case.actions.mask, case.scores.logprobs, case.actions.behaviour.logprobs
    found = correction_factors(method, own, behaviour, mask)
    for row in range(len(mask)):
        places = torch.nonzero(mask[row]).flatten().tolist()
        gaps = [float(own[row, t] - behaviour[row, t]) for t in places]
        for index, t in enumerate(places):
            want = reference.correction_factor(method, gaps, index)
            assert found.factors[row, t].item() == pytest.approx(want, rel=1e-6, abs=1e-6)
    assert torch.equal(found.is_left_out, mask & (found.factors == 0))
    cap = getattr(method, "cap", 2.0)
    assert torch.equal(found.is_truncated, mask & (found.factors == cap))
    assert not found.factors[~mask].any()


@by_name
@quick
@given(cases())
def test_without_mismatch_nothing_changes(method, case):
    mask, own = case.actions.mask, case.scores.logprobs
    found = correction_factors(method, own, own, mask)
    none = correction_factors(NoCorrection(), own, own, mask)
    assert torch.equal(found.factors, mask.double())
    assert torch.equal(none.factors, mask.float())
    assert not (found.is_truncated | found.is_left_out | none.is_truncated | none.is_left_out).any()


@by_name
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), float("-inf")])
def test_garbage_behind_the_mask_has_no_effect(method, garbage):
    mask = torch.tensor([[True, False, True], [False, False, False]])
    own = torch.where(mask, torch.tensor([-1.0, 0.0, -1.1]), garbage)
    behaviour = torch.where(mask, torch.tensor([-1.05, 0.0, -1.0]), garbage)
    found = correction_factors(method, own, behaviour, mask)
    clean = correction_factors(method, *(torch.where(mask, x, 0.0) for x in (own, behaviour)), mask)
    assert torch.equal(found.factors, clean.factors)
    assert not found.factors[~mask].any()
    assert not (found.is_left_out | found.is_truncated)[~mask].any()


@by_name
def test_factors_are_constants(method):
    own = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    assert not correction_factors(
        method, own, torch.zeros(1, 2), torch.ones(1, 2).bool()
    ).factors.requires_grad


def test_one_bad_action_leaves_out_itself_or_its_whole_sequence():
    gaps = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    mask = torch.ones(2, 3).bool()
    by_token = correction_factors(TokenMask(), gaps, torch.zeros(2, 3), mask)
    by_sequence = correction_factors(SequenceMask(), gaps, torch.zeros(2, 3), mask)
    assert by_token.is_left_out.tolist() == [[True, False, False], [False] * 3]
    assert by_sequence.is_left_out.tolist() == [[True] * 3, [False] * 3]
