"""The whole loss of a micro-batch against plain Python, and its invariances."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.methods import (
    CISPO,
    GMPO,
    GSPO,
    PPO,
    NoCorrection,
    OnPolicy,
    SequenceMask,
    TokenMask,
    TruncatedImportance,
)
from configs.schema import DenoisingLoss, TokenLoss
from rl.loss.actions import ActionScores
from rl.loss.policy_loss import policy_loss
from rl.measure.metrics import merge, to_metrics
from tests.reference import loss as reference
from tests.reference.actions import (
    GUARD,
    METHODS,
    cases,
    listed,
    pick,
    pick_actions,
    trained_actions,
    with_leaf,
)

quick = settings(deadline=None, max_examples=40)
MAX_ACTIONS = 8
CONFIGS = (
    TokenLoss(surrogate=PPO(clip_low=0.2, clip_high=0.28), kl_weight=0.1),
    TokenLoss(surrogate=GSPO(clip_low=0.05, clip_high=0.08), aggregation="sequence_mean", kl_weight=0.0),
    TokenLoss(
        surrogate=CISPO(clip_low=0.3),
        aggregation="constant",
        kl_weight=0.2,
        kl_estimator="k2",
        correction=TruncatedImportance(cap=1.2),
        entropy_weight=0.3,
    ),
    TokenLoss(
        surrogate=GMPO(clip_low=0.1, clip_high=0.2),
        aggregation="sequence_mean",
        kl_weight=0.3,
        kl_estimator="k1",
        correction=TokenMask(low=0.8, high=1.3),
    ),
    TokenLoss(surrogate=OnPolicy(), correction=SequenceMask(low=0.9, high=1.1), entropy_weight=0.1),
    TokenLoss(surrogate=PPO(), aggregation="block_mean", kl_weight=0.2, entropy_weight=0.1),
    DenoisingLoss(surrogate=GUARD, kl_weight=0.2, kl_estimator="step_mean"),
)
by_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.surrogate.kind)


def loss_of(config, scores, case, proximal=None):
    reference_scores = case.reference if config.kl_weight > 0 else None
    return policy_loss(
        config, scores, case.actions, max_actions=MAX_ACTIONS, reference=reference_scores, proximal=proximal
    )


def loss_and_grad(config, case, proximal=None):
    leaf, scores = with_leaf(case)
    sums = loss_of(config, scores, case, proximal)
    (grad,) = torch.autograd.grad(sums.loss, leaf)
    return sums, grad


@pytest.mark.parametrize("config", CONFIGS[:-1], ids=lambda config: config.surrogate.kind)
@quick
@given(cases(), st.booleans())
def test_the_whole_loss_is_plain_pythons(config, case, is_weighted):
    if is_weighted:
        weights = case.scores.step_std
        case = replace(case, actions=replace(case.actions, weights=weights))
    is_corrected = not isinstance(config.correction, NoCorrection)
    proximal = ActionScores(logprobs=case.scores.logprobs + 0.1 * case.scores.entropy)
    sums, grad = loss_and_grad(config, case, proximal)
    value, gradient = plain_loss(config, case, proximal if is_corrected else case.actions.behaviour)
    share = float(sums.divisor_share) or 1.0
    assert sums.loss.item() / share == pytest.approx(value, rel=1e-6, abs=1e-6)
    torch.testing.assert_close(grad / share, gradient, rtol=1e-5, atol=1e-5)


def plain_loss(config, case, old):
    """Mean of minus the surrogate, KL and entropy as plain Python has them; gradient by the log-probs."""
    actions, mask = case.actions, case.actions.mask
    own, other = case.scores.logprobs, case.reference.logprobs
    values, slopes = reference.surrogate(
        config.surrogate, *listed(own, old.logprobs, actions.advantages, mask)
    )
    terms, gradients = torch.zeros_like(own), torch.zeros_like(own)
    for b, t in torch.nonzero(mask).tolist():
        row = torch.nonzero(mask[b]).flatten().tolist()
        gaps = [float(old.logprobs[b, i] - actions.behaviour.logprobs[b, i]) for i in row]
        factor = reference.correction_factor(config.correction, gaps, row.index(t))
        factor *= 1.0 if actions.weights is None else float(actions.weights[b, t])
        terms[b, t] = -factor * values[b][t] - getattr(config, "entropy_weight", 0.0) * float(
            case.scores.entropy[b, t]
        )
        gradients[b, t] = -factor * slopes[b][t]
        if config.kl_weight:
            pair = float(own[b, t]), float(other[b, t])
            terms[b, t] += config.kl_weight * reference.kl(config.kl_estimator, *pair)
            (slope,) = reference.numeric_gradient(
                lambda x, pair=pair: reference.kl(config.kl_estimator, x[0], pair[1]), [pair[0]]
            )
            gradients[b, t] += config.kl_weight * slope
    rest = mask.tolist(), MAX_ACTIONS, actions.block_of.tolist()
    value = reference.aggregated(config.aggregation, terms.tolist(), *rest)
    for b, t in torch.nonzero(mask).tolist():
        one = torch.zeros_like(own).index_put((torch.tensor(b), torch.tensor(t)), gradients[b, t])
        gradients[b, t] = reference.aggregated(config.aggregation, one.tolist(), *rest)
    return value, gradients


@quick
@given(cases())
def test_the_entropy_bonus_has_a_gradient(case):
    config = TokenLoss(aggregation="sequence_mean", entropy_weight=0.3)
    leaf = case.scores.entropy.clone().requires_grad_()
    sums = loss_of(config, replace(case.scores, entropy=leaf), case)
    (grad,) = torch.autograd.grad(sums.loss, leaf)
    mask = case.actions.mask
    want = -0.3 * mask / mask.sum(1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(grad, want.double(), rtol=1e-6, atol=1e-6)


def test_an_entropy_bonus_needs_entropy():
    scores = ActionScores(logprobs=torch.zeros(1, 1))
    actions = trained_actions(scores)
    with pytest.raises(ValueError, match="gives no entropy"):
        policy_loss(TokenLoss(entropy_weight=1.0), scores, actions, max_actions=1)


# ------------------------------------------------------------------------------- correction


@quick
@given(cases())
def test_before_the_first_update_the_corrected_ratio_is_1_and_the_factor_is_the_mismatch(case):
    config = TokenLoss(correction=TruncatedImportance(cap=1.2))
    _, grad = loss_and_grad(config, case)
    actions = case.actions
    mismatch = (case.scores.logprobs - actions.behaviour.logprobs).exp().clamp(max=1.2)
    torch.testing.assert_close(grad, torch.where(actions.mask, -mismatch * actions.advantages, 0.0))


@quick
@given(cases())
def test_the_measured_ratio_is_policy_over_behaviour_whatever_the_method(case):
    seen = []
    for config in (*CONFIGS, *(TokenLoss(surrogate=method) for method in METHODS)):
        stats = loss_of(config, case.scores, case).stats("p", is_first=True)
        seen.append(
            {
                name: value
                for name, value in {**stats.sums, **stats.maxima}.items()
                if "ratio" in name or "mismatch_logprob" in name or "behaviour_kl" in name
            }
        )
    assert len(seen[0]) == 7 if case.actions.mask.any() else 4
    assert all(one == seen[0] for one in seen)


def test_shares_of_truncated_and_masked_actions_are_measured():
    scores = ActionScores(logprobs=torch.tensor([[0.0, 1.0, 2.0, -3.0]]))
    actions = replace(trained_actions(scores), behaviour=ActionScores(logprobs=torch.zeros(1, 4)))
    for correction, truncated, left_out in (
        (TruncatedImportance(), 0.5, 0.0),
        (TokenMask(), 0.0, 0.5),
        (SequenceMask(), 0.5, 0.0),
    ):
        sums = policy_loss(TokenLoss(correction=correction), scores, actions, max_actions=4)
        metrics = to_metrics(sums.stats("p", is_first=False))
        assert metrics["policy/p/mismatch_truncated_frac"] == truncated
        assert metrics["policy/p/mismatch_masked_frac"] == left_out
    plain = policy_loss(TokenLoss(), scores, actions, max_actions=4).stats("p", is_first=True)
    assert not any("_frac" in name and "mismatch" in name for name in plain.sums)


# ------------------------------------------------------------------------------- invariances


@by_config
@quick
@given(cases(), st.integers(1, 4))
def test_cutting_into_micro_batches_changes_nothing(config, case, size):
    whole, grad = loss_and_grad(config, case)
    parts = [loss_and_grad(config, picked(case, slice(i, i + size))) for i in range(0, len(grad), size)]
    torch.testing.assert_close(sum(sums.loss for sums, _ in parts), whole.loss)
    torch.testing.assert_close(torch.cat([g for _, g in parts]), grad)
    merged = to_metrics(merge([sums.stats("p", is_first=True) for sums, _ in parts]))
    assert merged == pytest.approx(to_metrics(whole.stats("p", is_first=True)), rel=1e-9, abs=1e-12)


@by_config
@quick
@given(cases(), st.randoms())
def test_order_of_rows_changes_nothing(config, case, random):
    order = list(range(len(case.actions.mask)))
    random.shuffle(order)
    whole, grad = loss_and_grad(config, case)
    shuffled, other = loss_and_grad(config, picked(case, torch.tensor(order)))
    torch.testing.assert_close(shuffled.loss, whole.loss)
    torch.testing.assert_close(other, grad[order])


@by_config
@quick
@given(cases(), st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.0, float("nan"), float("inf")]))
def test_padding_changes_nothing(config, case, rows, columns, garbage):
    whole, grad = loss_and_grad(config, case)
    padded, other = loss_and_grad(config, widened(case, rows, columns, garbage))
    torch.testing.assert_close(padded.loss, whole.loss)
    torch.testing.assert_close(other[: len(grad), : grad.shape[1]], grad)
    assert not other[len(grad) :].any()
    assert not other[:, grad.shape[1] :].any()
    assert to_metrics(padded.stats("p", is_first=True)) == pytest.approx(
        to_metrics(whole.stats("p", is_first=True)), rel=1e-9, abs=1e-12
    )


def picked(case, rows):
    return replace(
        case,
        scores=pick(case.scores, rows),
        actions=pick_actions(case.actions, rows),
        reference=pick(case.reference, rows),
        latents=case.latents[rows],
    )


def widened(case, rows, columns, garbage):
    def pad(tensor, value=garbage):
        extra = (0, 0) * (tensor.dim() - 2) + (0, columns, 0, rows)
        return torch.nn.functional.pad(tensor, extra, value=value)

    def pad_scores(scores):
        return ActionScores(
            logprobs=pad(scores.logprobs),
            entropy=pad(scores.entropy),
            step_mean=pad(scores.step_mean),
            step_std=pad(scores.step_std),
        )

    actions = replace(
        case.actions,
        mask=pad(case.actions.mask, False),
        advantages=pad(case.actions.advantages),
        block_of=pad(case.actions.block_of, -1),
        behaviour=pad_scores(case.actions.behaviour),
    )
    return replace(
        case, scores=pad_scores(case.scores), actions=actions, reference=pad_scores(case.reference)
    )


# ------------------------------------------------------------------------------- metrics


def test_stats_are_named_and_count_actions():
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    scores = ActionScores(logprobs=logprobs, entropy=torch.ones(2, 3))
    actions = replace(trained_actions(scores), mask=mask, behaviour=ActionScores(logprobs=logprobs - 0.1))
    config = TokenLoss(aggregation="sequence_mean", surrogate=OnPolicy(), kl_weight=0.5)
    sums = policy_loss(config, scores, actions, max_actions=3, reference=actions.behaviour)
    stats = sums.stats("text", is_first=True)
    metrics = to_metrics(stats)
    assert metrics["policy/text/ratio_before_update/max_dev"] == pytest.approx(0.10517, abs=1e-4)
    assert metrics["policy/text/mismatch_logprob_nats/mean"] == pytest.approx(0.1, abs=1e-6)
    assert metrics["policy/text/importance_ratio/max"] == pytest.approx(1.10517, abs=1e-4)
    assert metrics["policy/text/entropy_nats/mean"] == 1.0
    assert metrics["policy/text/ref_kl_nats/mean"] == pytest.approx(0.004837, abs=1e-5)
    assert metrics["loss/text/surrogate"] == pytest.approx(-1.0)
    assert metrics["loss/text/kl"] == pytest.approx(0.5 * 0.004837, abs=1e-5)
    assert metrics["loss/text/total"] == pytest.approx(
        metrics["loss/text/surrogate"] + metrics["loss/text/kl"]
    )
    counts = {name: count for name, (_, count) in stats.sums.items()}
    assert {count for name, count in counts.items() if name.startswith("loss/")} == {2.0}
    assert {count for name, count in counts.items() if name.startswith("policy/")} == {3.0}
    later = sums.stats("text", is_first=False)
    assert not any("before_update" in name or "mismatch" in name for name in {**later.sums, **later.maxima})


@by_config
def test_padding_only_counts_nothing(config):
    empty = torch.zeros(2, 3)
    scores = ActionScores(logprobs=empty, entropy=empty, step_mean=empty[..., None], step_std=empty)
    actions = replace(trained_actions(scores), mask=empty.bool(), advantages=empty)
    sums = policy_loss(config, scores, actions, max_actions=MAX_ACTIONS, reference=scores)
    assert sums.loss.item() == 0
    assert to_metrics(sums.stats("text", is_first=True)) == {}
