"""Every surrogate against plain Python and, with one advantage a row, against its paper's sequence form."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.methods import CISPO, GMPO, GSPO, PPO, DualClip, Guard, OnPolicy, Own, Surrogate
from rl.errors import ConfigError
from rl.loss.actions import ActionScores
from rl.loss.surrogates import SURROGATES, find_surrogate, guard_step_weights, surrogate_terms
from tests.reference import loss as reference
from tests.reference.actions import GUARD, METHODS, cases, listed, with_leaf

quick = settings(deadline=None, max_examples=60)
by_name = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)


def terms_and_grad(method, case):
    leaf, scores = with_leaf(case)
    terms = surrogate_terms(
        method, scores, case.actions.behaviour, case.actions.advantages, case.actions.mask
    )
    (grad,) = torch.autograd.grad(terms.value.sum(), leaf)
    return terms, grad


@by_name
@quick
@given(cases())
def test_values_and_gradients_are_those_of_plain_python(method, case):
    actions = case.actions
    terms, grad = terms_and_grad(method, case)
    values, gradients = reference.surrogate(
        method, *listed(case.scores.logprobs, actions.behaviour.logprobs, actions.advantages, actions.mask)
    )
    torch.testing.assert_close(terms.value.detach(), torch.tensor(values).double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(grad, torch.tensor(gradients).double(), rtol=1e-5, atol=1e-5)


@by_name
@quick
@given(cases())
def test_at_equal_policies_the_gradient_is_the_plain_policy_gradient(method, case):
    actions = case.actions
    case = replace(case, scores=actions.behaviour)
    terms, grad = terms_and_grad(method, case)
    torch.testing.assert_close(grad, torch.where(actions.mask, actions.advantages, 0.0))
    assert not terms.is_clipped_low.any()
    assert not terms.is_clipped_high.any()


@by_name
@quick
@given(cases())
def test_clipped_is_what_lost_its_gradient(method, case):
    terms, grad = terms_and_grad(method, case)
    flagged = terms.is_clipped_low | terms.is_clipped_high
    has_say = case.actions.mask & (case.actions.advantages != 0)
    if isinstance(method, CISPO | OnPolicy):
        assert torch.equal(grad != 0, has_say)
    else:
        assert torch.equal(grad != 0, has_say & ~flagged)
    assert not (flagged & ~case.actions.mask).any()
    assert isinstance(method, CISPO) or not (terms.is_clipped_low & terms.is_clipped_high).any()


@pytest.mark.parametrize(
    ("method", "of_paper"),
    [
        (GSPO(clip_low=0.05, clip_high=0.08), reference.gspo_sequence),
        (GMPO(clip_low=0.1, clip_high=0.2), reference.gmpo_sequence),
    ],
    ids=["gspo", "gmpo"],
)
@quick
@given(cases(), st.sampled_from([-1.3, 0.7]))
def test_with_one_advantage_a_row_it_is_the_papers_sequence_form(method, of_paper, case, advantage):
    actions = case.actions
    case = replace(case, actions=replace(actions, advantages=torch.full_like(actions.advantages, advantage)))
    terms, grad = terms_and_grad(method, case)
    for row, mask in enumerate(actions.mask):
        new, old = (x[row][mask].tolist() for x in (case.scores.logprobs, actions.behaviour.logprobs))
        if not new:
            continue

        def objective(logprobs, old=old):
            return of_paper(method, logprobs, old, advantage)

        value = terms.value[row][mask].mean().item()
        assert value == pytest.approx(objective(new), rel=1e-6, abs=1e-6)
        slopes = torch.tensor(reference.numeric_gradient(objective, new)).double()
        if _is_near_a_bound(method, new, old):
            continue
        torch.testing.assert_close(grad[row][mask] / len(new), slopes, rtol=1e-5, atol=1e-5)


def _is_near_a_bound(method, new, old):
    """Central differences straddle the kink there."""
    gaps = torch.tensor(new).double() - torch.tensor(old).double()
    if isinstance(method, GSPO):
        gaps = gaps.mean().exp() - 1
    return bool(
        ((gaps + method.clip_low).abs() < 1e-5).any() | ((gaps - method.clip_high).abs() < 1e-5).any()
    )


# ------------------------------------------------------------------------------- GRPO-Guard


def guard_from_means(case, step_mean):
    """The whole path from a step's mean: log-prob, normalised ratio, clip."""
    std = case.scores.step_std[..., None]
    gap = (case.latents - step_mean) / std
    logprobs = (-0.5 * gap**2 - std.log() - 0.5 * torch.log(torch.tensor(2 * torch.pi))).mean(2)
    scores = ActionScores(logprobs=logprobs, step_mean=step_mean, step_std=case.scores.step_std)
    old = case.actions.behaviour
    return surrogate_terms(GUARD, scores, old, case.actions.advantages, case.actions.mask)


@quick
@given(cases())
def test_guard_is_plain_python_on_step_means(case):
    leaf = case.scores.step_mean.clone().requires_grad_()
    terms = guard_from_means(case, leaf)
    (grad,) = torch.autograd.grad(terms.value.sum(), leaf)
    for b, t in torch.nonzero(case.actions.mask).tolist():
        x, new, old = (
            v[b, t].tolist() for v in (case.latents, case.scores.step_mean, case.actions.behaviour.step_mean)
        )
        std, advantage = float(case.scores.step_std[b, t]), float(case.actions.advantages[b, t])

        def value(means, x=x, old=old, std=std, advantage=advantage):
            bounds = (GUARD.clip_low, GUARD.clip_high)
            return reference.guard_value(x, means, old, std, advantage, bounds)

        assert terms.value[b, t].item() == pytest.approx(value(new), rel=1e-6, abs=1e-6)
        ratio = reference.guard_ratio(x, new, old, std)
        if min(abs(ratio - 1 + GUARD.clip_low), abs(ratio - 1 - GUARD.clip_high)) > 1e-5:
            slopes = torch.tensor(reference.numeric_gradient(value, new)).double()
            torch.testing.assert_close(grad[b, t], slopes, rtol=1e-5, atol=1e-5)
    assert not grad[~case.actions.mask].any()


@quick
@given(cases())
def test_guard_at_equal_policies_is_the_policy_gradient_times_the_deviation(case):
    equal = replace(case, scores=replace(case.scores, logprobs=case.actions.behaviour.logprobs))
    equal = replace(equal, scores=replace(equal.scores, step_mean=case.actions.behaviour.step_mean))
    _, grad = terms_and_grad(GUARD, equal)
    want = case.actions.advantages * case.scores.step_std
    torch.testing.assert_close(grad, torch.where(case.actions.mask, want, 0.0))


def test_guard_needs_step_means():
    scores = ActionScores(logprobs=torch.zeros(1, 2))
    with pytest.raises(ValueError, match="step_mean"):
        surrogate_terms(Guard(), scores, scores, torch.ones(1, 2), torch.ones(1, 2).bool())


def test_steps_have_equal_say():
    even, uneven = torch.linspace(1, 0, 5), torch.tensor([1.0, 0.9, 0.5, 0.4, 0.0])
    weights = guard_step_weights(torch.stack([even, uneven]))
    torch.testing.assert_close(weights[0], torch.ones(4))
    torch.testing.assert_close(weights[1] * -uneven.diff(), torch.full((4,), 0.25))


# ------------------------------------------------------------------------------- robustness


@by_name
@quick
@given(cases(), st.sampled_from([float("nan"), float("inf"), float("-inf"), 1e30]))
def test_garbage_behind_the_mask_has_no_effect(method, case, garbage):
    _check_garbage(method, case, garbage)


@quick
@given(cases(), st.sampled_from([float("nan"), float("inf"), float("-inf"), 0.0]))
def test_garbage_behind_the_mask_has_no_effect_on_guard(case, garbage):
    _check_garbage(GUARD, case, garbage)


def _check_garbage(method, case, garbage):
    clean, clean_grad = terms_and_grad(method, case)
    terms, grad = terms_and_grad(method, spoilt(case, garbage))
    assert torch.equal(terms.value, clean.value)
    assert torch.equal(terms.is_clipped_low, clean.is_clipped_low)
    assert torch.equal(terms.is_clipped_high, clean.is_clipped_high)
    assert torch.equal(grad, clean_grad)
    assert not grad[~case.actions.mask].any()


def spoilt(case, garbage):
    mask = case.actions.mask

    def spoil(scores):
        return ActionScores(
            logprobs=torch.where(mask, scores.logprobs, garbage),
            entropy=torch.where(mask, scores.entropy, garbage),
            step_mean=torch.where(mask[..., None], scores.step_mean, garbage),
            step_std=torch.where(mask, scores.step_std, garbage),
        )

    actions = replace(
        case.actions,
        advantages=torch.where(mask, case.actions.advantages, garbage),
        behaviour=spoil(case.actions.behaviour),
    )
    return replace(case, scores=spoil(case.scores), actions=actions, reference=spoil(case.reference))


@by_name
@pytest.mark.parametrize("gap", [-500.0, 500.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_wild_ratios_stay_finite(method, gap, advantage):
    leaf = torch.tensor([[gap, -1.0]], requires_grad=True)
    old = ActionScores(logprobs=torch.tensor([[0.0, -1.0]]))
    mask = torch.ones(1, 2).bool()
    terms = surrogate_terms(method, ActionScores(logprobs=leaf), old, torch.full((1, 2), advantage), mask)
    (grad,) = torch.autograd.grad(terms.value.sum(), leaf)
    assert torch.isfinite(terms.value).all()
    assert torch.isfinite(grad).all()


def test_dual_clip_frees_training_from_wild_ratios():
    leaf = torch.tensor([[2.0]], requires_grad=True)
    old = ActionScores(logprobs=torch.zeros(1, 1))
    mask = torch.ones(1, 1).bool()
    method = DualClip(bound=3.0)
    terms = surrogate_terms(method, ActionScores(logprobs=leaf), old, torch.full((1, 1), -2.0), mask)
    assert terms.value.item() == pytest.approx(-6.0)
    assert terms.is_clipped_high.all()
    assert not torch.autograd.grad(terms.value.sum(), leaf)[0].any()


def test_shapes_must_agree():
    scores, mask = ActionScores(logprobs=torch.zeros(2, 3)), torch.ones(2, 3).bool()
    with pytest.raises(ValueError, match="shapes differ"):
        surrogate_terms(OnPolicy(), scores, ActionScores(logprobs=torch.zeros(2, 1)), torch.zeros(2, 3), mask)
    with pytest.raises(ValueError, match="shapes differ"):
        surrogate_terms(OnPolicy(), scores, scores, torch.zeros(2, 1), mask)


# ------------------------------------------------------------------------------- the user's own

OWN = "tests.reference.own_methods"


def test_every_method_with_constants_has_a_function():
    methods, *_ = get_args(Surrogate)
    assert {method().kind for method in get_args(methods)} == {*SURROGATES, "own"}


@quick
@given(cases())
def test_a_surrogate_of_ones_own_is_trained_as_ours_is(case):
    own, own_grad = terms_and_grad(Own(target=f"{OWN}:ppo_again", options={"bound": 0.2}), case)
    ours, our_grad = terms_and_grad(PPO(), case)
    torch.testing.assert_close(own.value, ours.value)
    torch.testing.assert_close(own_grad, our_grad)
    assert torch.equal(own.is_clipped_low, ours.is_clipped_low)
    assert torch.equal(own.is_clipped_high, ours.is_clipped_high)


@quick
@given(cases())
def test_a_bare_tensor_is_the_value_and_the_mask_is_kept(case):
    terms, grad = terms_and_grad(Own(target=f"{OWN}:soft_ppo", options={"temperature": 2.0}), case)
    assert not terms.value[~case.actions.mask].any()
    assert not grad[~case.actions.mask].any()
    assert not (terms.is_clipped_low | terms.is_clipped_high).any()


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (f"{OWN}:soft_pop", {}, f"{OWN} has no 'soft_pop'; did you mean soft_ppo?"),
        (f"{OWN}:soft_ppo", {"temperatur": 1}, "got an unexpected keyword argument 'temperatur'"),
        (f"{OWN}:takes_something_else", {}, "want takes_something_else(inputs)"),
        (f"{OWN}:ppo_again", {}, "missing a required argument: 'bound'; want ppo_again(inputs)"),
        ("no_such_package:loss", {}, "no module 'no_such_package'"),
    ],
)
def test_a_surrogate_that_cannot_be_used_costs_one_line(target, options, message):
    with pytest.raises(ConfigError) as caught:
        find_surrogate(Own(target=target, options=options), key="policies.text.loss.surrogate")
    assert str(caught.value).startswith("policies.text.loss.surrogate: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_surrogate_that_returns_something_else_is_named():
    scores = ActionScores(logprobs=torch.zeros(2, 3))
    with pytest.raises(ConfigError, match="returned float; want SurrogateTerms, or a tensor, of shape"):
        surrogate_terms(
            Own(target=f"{OWN}:returns_a_number"), scores, scores, torch.ones(2, 3), torch.ones(2, 3).bool()
        )
