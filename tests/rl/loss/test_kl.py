"""KL estimators against plain Python; what they estimate, and which way their gradients go in expectation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings

from rl.loss.actions import ActionScores
from rl.loss.kl import kl_terms, step_mean_kl
from tests.reference import loss as reference
from tests.reference.actions import cases, with_leaf

quick = settings(deadline=None, max_examples=60)
estimators = pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])


@estimators
@quick
@given(cases())
def test_values_and_gradients_are_those_of_plain_python(estimator, case):
    leaf, scores = with_leaf(case)
    mask = case.actions.mask
    terms = kl_terms(estimator, scores, case.reference, mask)
    (grad,) = torch.autograd.grad(terms.sum(), leaf)
    for b, t in torch.nonzero(mask).tolist():
        own, other = float(case.scores.logprobs[b, t]), float(case.reference.logprobs[b, t])
        assert terms[b, t].item() == pytest.approx(reference.kl(estimator, own, other), rel=1e-6, abs=1e-6)
        (slope,) = reference.numeric_gradient(
            lambda x, other=other: reference.kl(estimator, x[0], other), [own]
        )
        assert grad[b, t].item() == pytest.approx(slope, rel=1e-5, abs=1e-5)
    assert not terms[~mask].any()
    assert not grad[~mask].any()


@quick
@given(cases())
def test_step_mean_is_the_kl_of_normal_steps(case):
    leaf = case.scores.step_mean.clone().requires_grad_()
    mask = case.actions.mask
    terms = step_mean_kl(replace(case.scores, step_mean=leaf), case.reference, mask)
    std = case.scores.step_std[..., None].expand_as(leaf)
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(case.scores.step_mean, std),
        torch.distributions.Normal(case.reference.step_mean, std),
    ).mean(2)
    torch.testing.assert_close(terms.detach(), torch.where(mask, exact, 0.0), rtol=1e-6, atol=1e-6)
    (grad,) = torch.autograd.grad(terms.sum(), leaf)
    want = (case.scores.step_mean - case.reference.step_mean) / std**2 / leaf.shape[2]
    torch.testing.assert_close(grad, torch.where(mask[..., None], want, 0.0), rtol=1e-5, atol=1e-5)


@quick
@given(cases())
def test_no_kl_to_oneself(case):
    for estimator in ("k1", "k2", "k3", "step_mean"):
        assert not kl_terms(estimator, case.scores, case.scores, case.actions.mask).any()


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "step_mean"])
def test_garbage_behind_the_mask_has_no_effect(estimator, garbage):
    mask = torch.tensor([[True, False]])
    mean = torch.tensor([[[1.0, 2.0], [garbage, garbage]]], requires_grad=True)
    logprobs = torch.tensor([[-1.0, garbage]], requires_grad=True)
    own = ActionScores(logprobs=logprobs, step_mean=mean, step_std=torch.tensor([[0.5, garbage]]))
    other = ActionScores(
        logprobs=torch.tensor([[-2.0, garbage]]),
        step_mean=torch.full((1, 2, 2), garbage).index_fill(1, torch.tensor(0), 0.0),
    )
    terms = kl_terms(estimator, own, other, mask)
    assert torch.isfinite(terms).all()
    assert terms[0, 1] == 0
    leaf = mean if estimator == "step_mean" else logprobs
    (grad,) = torch.autograd.grad(terms.sum(), leaf)
    assert torch.isfinite(grad).all()
    assert not grad[0, 1].any()


def expected(estimator):
    """Expectation over all actions of a small policy: value, gradient, and the exact KLs both ways."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, generator=generator, dtype=torch.float64, requires_grad=True)
    other = torch.log_softmax(torch.randn(7, generator=generator, dtype=torch.float64), 0)
    table = torch.log_softmax(logits, 0)
    row = ActionScores(logprobs=table[None])
    terms = kl_terms(estimator, row, ActionScores(logprobs=other[None]), torch.ones(1, 7).bool())[0]
    mean = (table.detach().exp() * terms).sum()
    exact = (table.exp() * (table - other)).sum()
    backwards = (other.exp() * (other - table)).sum()
    slopes = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (mean, exact, backwards)]
    return mean.item(), exact.item(), slopes


def test_k1_and_k3_are_right_in_value_and_k2_and_k3_in_what_they_pull_to():
    k1, exact, (grad1, right, backwards) = expected("k1")
    k2, _, (grad2, *_) = expected("k2")
    k3, _, (grad3, *_) = expected("k3")
    assert k1 == pytest.approx(exact)
    assert k3 == pytest.approx(exact)
    assert k2 != pytest.approx(exact)
    torch.testing.assert_close(grad1, torch.zeros_like(grad1), rtol=0, atol=1e-12)
    torch.testing.assert_close(grad2, right)
    torch.testing.assert_close(grad3, backwards)
    assert not torch.allclose(right, backwards)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_it_pulls_towards_the_reference(estimator):
    leaf = torch.tensor([[-1.0, -3.0]], requires_grad=True)
    other = ActionScores(logprobs=torch.full((1, 2), -2.0))
    terms = kl_terms(estimator, ActionScores(logprobs=leaf), other, torch.ones(1, 2).bool())
    (grad,) = torch.autograd.grad(terms.sum(), leaf)
    assert grad[0, 0] > 0 > grad[0, 1]


def test_step_mean_needs_step_means():
    scores = ActionScores(logprobs=torch.zeros(1, 2))
    with pytest.raises(ValueError, match="step_mean and step_std"):
        kl_terms("step_mean", scores, scores, torch.ones(1, 2).bool())
