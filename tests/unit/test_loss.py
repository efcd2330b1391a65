"""The loss against plain Python, and its invariances."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.loss import k3_kl, masked_sum, policy_loss
from rl.metrics import merge, to_metrics
from tests.reference import loss as reference

LOW, HIGH = 0.2, 0.28
quick = settings(deadline=None, max_examples=60)


@st.composite
def batches(draw):
    rows, actions = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logprobs = -3 * torch.rand(rows, actions, generator=generator)
    behaviour = logprobs + draw(st.sampled_from([0.0, 0.05, 1.0])) * torch.randn(
        rows, actions, generator=generator
    )
    advantages = torch.randn(rows, actions, generator=generator)
    mask = torch.rand(rows, actions, generator=generator) < 0.7
    return logprobs, behaviour, advantages, mask


def loss_and_grad(logprobs, behaviour, advantages, mask):
    leaf = logprobs.clone().requires_grad_()
    sums = policy_loss(leaf, behaviour, advantages, mask, clip_low=LOW, clip_high=HIGH)
    (grad,) = torch.autograd.grad(sums.loss, leaf)
    return sums, grad


@quick
@given(batches())
def test_loss_equals_the_reference(batch):
    sums, _ = loss_and_grad(*batch)
    want = reference.clipped_loss(*(x.tolist() for x in batch), LOW, HIGH)
    assert sums.loss.item() == pytest.approx(want, rel=1e-4, abs=1e-5)
    assert sums.num_actions.item() == batch[3].sum().item()


@quick
@given(batches())
def test_on_policy_it_is_the_plain_policy_gradient(batch):
    logprobs, _, advantages, mask = batch
    sums, grad = loss_and_grad(logprobs, logprobs, advantages, mask)
    torch.testing.assert_close(grad, torch.where(mask, -advantages, 0.0))
    assert sums.ratio_max_dev.item() == sums.clipped_low.item() == sums.clipped_high.item() == 0
    assert sums.behaviour_kl.item() == sums.logprob_max_dev.item() == 0


@quick
@given(batches(), st.sampled_from([float("nan"), float("inf"), float("-inf"), 1e30]))
def test_garbage_behind_the_mask_has_no_effect(batch, garbage):
    logprobs, behaviour, advantages, mask = batch
    clean_sums, clean_grad = loss_and_grad(*batch)
    spoilt = [torch.where(mask, x, garbage) for x in (logprobs, behaviour, advantages)]
    sums, grad = loss_and_grad(*spoilt, mask)
    for name in clean_sums.__slots__:
        assert torch.equal(getattr(sums, name), getattr(clean_sums, name)), name
    assert torch.equal(grad, clean_grad)
    assert not grad[~mask].any()
    assert k3_kl(spoilt[0], spoilt[1], mask).item() == k3_kl(logprobs, behaviour, mask).item()
    assert masked_sum(spoilt[0], mask) == masked_sum(logprobs, mask)


@quick
@given(batches(), st.integers(1, 4))
def test_cutting_into_micro_batches_changes_nothing(batch, size):
    whole, grad = loss_and_grad(*batch)
    parts = [loss_and_grad(*(x[i : i + size] for x in batch)) for i in range(0, len(batch[0]), size)]
    torch.testing.assert_close(sum(sums.loss for sums, _ in parts), whole.loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat([g for _, g in parts]), grad)
    merged = to_metrics(merge([sums.stats("p", is_first=True) for sums, _ in parts]))
    assert merged == pytest.approx(to_metrics(whole.stats("p", is_first=True)), rel=1e-4, abs=1e-5)


@quick
@given(batches())
def test_clip_counts_are_the_actions_without_gradient(batch):
    sums, grad = loss_and_grad(*batch)
    mask, advantages = batch[3], batch[2]
    ratio = (batch[0] - batch[1]).exp()
    low, high = mask & (ratio < 1 - LOW) & (advantages < 0), mask & (ratio > 1 + HIGH) & (advantages > 0)
    assert (sums.clipped_low.item(), sums.clipped_high.item()) == (low.sum().item(), high.sum().item())
    assert torch.equal(grad == 0, ~mask | low | high)


@quick
@given(batches())
def test_k3_equals_the_reference_and_is_never_negative(batch):
    logprobs, other, _, mask = batch
    value = k3_kl(logprobs, other, mask).item()
    assert value == pytest.approx(
        reference.k3(logprobs.tolist(), other.tolist(), mask.tolist()), rel=1e-3, abs=1e-5
    )
    assert value >= -1e-6
    assert k3_kl(logprobs, logprobs, mask).item() == 0


def test_k3_pulls_towards_the_reference():
    own = torch.tensor([[-1.0, -3.0]], requires_grad=True)
    (grad,) = torch.autograd.grad(k3_kl(own, torch.tensor([[-2.0, -2.0]]), torch.ones(1, 2).bool()), own)
    assert grad[0, 0] > 0 > grad[0, 1]


@pytest.mark.parametrize("gap", [-500.0, 500.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_wild_ratios_stay_finite(gap, advantage):
    sums, grad = loss_and_grad(
        torch.tensor([[gap]]), torch.zeros(1, 1), torch.tensor([[advantage]]), torch.ones(1, 1).bool()
    )
    assert torch.isfinite(sums.loss)
    assert torch.isfinite(grad).all()


def test_stats_are_named_and_count_actions():
    logprobs = torch.tensor([[-1.0, -2.0, -3.0]])
    mask = torch.tensor([[True, True, False]])
    sums = policy_loss(logprobs, logprobs - 0.1, torch.ones(1, 3), mask, clip_low=LOW, clip_high=HIGH)
    stats = sums.stats("text", is_first=True)
    metrics = to_metrics(stats)
    assert metrics["policy/text/ratio_before_update/max_dev"] == pytest.approx(0.10517, abs=1e-4)
    assert metrics["policy/text/mismatch_logprob_nats/mean"] == pytest.approx(0.1, abs=1e-6)
    assert metrics["loss/text/surrogate"] == pytest.approx(-1.10517, abs=1e-4)
    assert {count for _, count in stats.sums.values()} == {2.0}
    assert not any("before_update" in name for name in sums.stats("text", is_first=False).sums)


def test_padding_only_counts_nothing():
    empty = torch.zeros(2, 3)
    sums = policy_loss(empty, empty, empty, empty.bool(), clip_low=LOW, clip_high=HIGH)
    assert sums.loss.item() == 0
    assert to_metrics(sums.stats("text", is_first=True)) == {}


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shapes differ"):
        policy_loss(
            torch.zeros(2, 3),
            torch.zeros(2, 1),
            torch.zeros(2, 3),
            torch.ones(2, 3).bool(),
            clip_low=LOW,
            clip_high=HIGH,
        )
    with pytest.raises(ValueError, match="advantages"):
        policy_loss(
            *torch.zeros(3, 2, 3)[:2], torch.zeros(2, 1), torch.ones(2, 3), clip_low=LOW, clip_high=HIGH
        )
