"""Guided logits against their reference, and the guided token policy against transformers row by row."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.policies.token.guidance import guided, without_content
from actors.policies.token.policy import TokenPolicy
from actors.policies.token.vocabulary import load_vocabulary
from rl.types import TextReply, TextSampling
from tests.reference.guidance import guided_logprobs
from tests.reference.policy_configs import policy_config
from tests.reference.tiny_text import BLOCKS, as_example, build, make_request, photo

CONFIG = policy_config(kind="token", guidance_scale=1.5)
floats = st.floats(-10, 10)
cases = st.integers(2, 6).flatmap(
    lambda n: st.tuples(
        st.lists(floats, min_size=n, max_size=n),
        st.lists(floats, min_size=n, max_size=n),
        st.sets(st.integers(0, n - 1), max_size=n - 1),
    )
)


def logprobs_of(conditional, unconditional, scale, temperature, forbidden):
    """As engine and learner do it, the engine's way: forbidden ids are -inf before."""
    rows = [torch.tensor(x, dtype=torch.float64)[None] for x in (conditional, unconditional)]
    for row in rows:
        row[:, sorted(forbidden)] = -torch.inf
    mixed = guided(*rows, torch.tensor([scale], dtype=torch.float64))
    return torch.log_softmax(mixed / temperature, dim=-1)[0]


@settings(deadline=None)
@given(cases, st.floats(0, 8), st.floats(0.2, 3))
def test_it_is_the_reference(case, scale, temperature):
    conditional, unconditional, forbidden = case
    want = guided_logprobs(
        conditional, unconditional, scale=scale, temperature=temperature, forbidden=forbidden
    )
    got = logprobs_of(conditional, unconditional, scale, temperature, forbidden)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(cases)
def test_a_scale_of_one_is_the_condition_and_of_zero_is_none(case):
    conditional, unconditional, _ = case
    for scale, rows in ((1.0, conditional), (0.0, unconditional)):
        want = torch.log_softmax(torch.tensor(rows, dtype=torch.float64), dim=-1)
        torch.testing.assert_close(logprobs_of(conditional, unconditional, scale, 1.0, set()), want)


@settings(deadline=None)
@given(cases, st.floats(0.1, 5))
def test_where_the_pictures_change_nothing_guidance_changes_nothing(case, scale):
    rows, _, _ = case
    torch.testing.assert_close(
        logprobs_of(rows, rows, scale, 0.7, set()), logprobs_of(rows, rows, 1.0, 0.7, set())
    )


def test_the_gradient_is_that_of_both_contexts():
    rows = [torch.randn(1, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    scale = torch.tensor([1.7], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda c, u: guided(c, u, scale).log_softmax(-1), rows)


def test_pictures_without_content_have_their_sizes_and_one_colour():
    pictures = [photo(0), photo(1, 24)]
    grey = without_content(pictures)
    assert [p.shape for p in grey] == [p.shape for p in pictures]
    assert {int(value) for p in grey for value in np.unique(p)} == {128}


# ------------------------------------------------------------------ the learner's policy


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("guided")
    build(path)
    return path


@pytest.fixture(scope="module")
def policy(directory):
    return TokenPolicy.load(directory, CONFIG, block_names=BLOCKS).eval()


def example_of(directory, seed, *, scale, num=6):
    """A prompt, a picture, and a few tokens that may be sampled."""
    vocabulary = load_vocabulary(directory, BLOCKS)
    request = make_request(vocabulary, "guided", seed=seed)
    sampling = TextSampling(temperature=0.8, forbidden_ids=vocabulary.forbidden_ids, guidance=scale)
    allowed = sorted(set(range(40)) - set(vocabulary.forbidden_ids))
    tokens = np.random.default_rng(seed).choice(allowed, num).astype(np.int32)
    reply = TextReply(
        request_id="guided",
        tokens=tokens,
        logprobs=-np.ones(num, np.float32),
        stopped=False,
        version=0,
        context=expanded(directory, request.tokens, photo(seed)),
    )
    example = as_example(request, reply, photo(seed))
    return sampled_with(example, sampling)


@cache
def pictures_of(directory):
    return TokenPolicy.load(directory, CONFIG, block_names=BLOCKS).pictures


def expanded(directory, tokens, picture):
    """As the engine says that it saw them."""
    parts = pictures_of(directory).expanded(tokens.tolist(), [picture])
    return np.asarray([i for part in parts for i in part], dtype=np.int32)


def sampled_with(example, sampling):
    return replace(example, segment=replace(example.segment, sampling=sampling))


def raw_logits(plain, example, picture):
    """Logits before each action from transformers' model with one picture, ``[n, V]`` float64."""
    batch = plain.collate([replace(sampled_with(example, TextSampling()), pictures=(picture,))])
    places = batch.inputs["column"] - 1
    inputs = {key: batch.inputs[f"model.{key}"] for key in ("input_ids", "pixel_values", "image_grid_thw")}
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == plain.model.config.image_token_id).int()
    plain.model.model.rope_deltas = None
    logits = plain.model(**inputs).logits[0, places].double()
    plain.model.model.rope_deltas = None
    return logits


@torch.no_grad()
def test_scores_agree_with_two_passes_of_transformers(policy, directory):
    plain = TokenPolicy.load(directory, policy_config(kind="token"), block_names=BLOCKS).eval()
    examples = [example_of(directory, seed, scale=scale) for seed, scale in enumerate((1.5, 1.0, 3.0))]
    scores = policy(policy.collate(examples).inputs)
    for row, example in enumerate(examples):
        stream, sampling = example.segment, example.segment.sampling
        seen, unseen = (
            raw_logits(plain, example, p) for p in (example.pictures[0], np.full((16, 16, 3), 128, np.uint8))
        )
        tables = [
            guided_logprobs(
                c.tolist(),
                u.tolist(),
                scale=sampling.guidance,
                temperature=sampling.temperature,
                forbidden=set(sampling.forbidden_ids),
            )
            for c, u in zip(seen, unseen, strict=True)
        ]
        places = np.flatnonzero(stream.action_mask)
        want = [table[token] for table, token in zip(tables, stream.tokens[places], strict=True)]
        np.testing.assert_allclose(scores.logprobs[row, places], want, rtol=0, atol=1e-5)
        entropy = [-sum(np.exp(x) * x for x in table if np.isfinite(x)) for table in tables]
        np.testing.assert_allclose(scores.entropy[row, places], entropy, rtol=0, atol=1e-5)
        assert sampling.guidance == 1 or np.abs(np.subtract(want, _plain(plain, example))).max() > 1e-3


def _plain(plain, example):
    """Log-probs without guidance."""
    unguided = sampled_with(example, replace(example.segment.sampling, guidance=1.0))
    return plain(plain.collate([unguided]).inputs).logprobs[0][example.segment.action_mask].numpy()


def test_gradient_flows_through_both_contexts(policy, directory):
    """In a direction of the weights, the gradient is the finite difference of the log-probs."""
    batch = policy.collate([example_of(directory, 0, scale=1.5)])
    parameters = [p for _, p in policy.published()]
    policy.zero_grad(set_to_none=True)
    policy(batch.inputs).logprobs.sum().backward()
    generator = torch.Generator().manual_seed(0)
    along = [torch.randn(p.shape, generator=generator) * float(p.detach().std()) for p in parameters]
    slope = sum(
        float((p.grad * d).sum()) for p, d in zip(parameters, along, strict=True) if p.grad is not None
    )
    values = []
    step = 1e-3
    with torch.no_grad():
        for factor in (step, -2 * step):
            for parameter, direction in zip(parameters, along, strict=True):
                parameter.add_(factor * direction)
            values.append(float(policy(batch.inputs).logprobs.double().sum()))
        for parameter, direction in zip(parameters, along, strict=True):
            parameter.add_(step * direction)
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=2e-2)


def test_guidance_that_is_not_configured_is_refused(directory):
    plain = TokenPolicy.load(directory, policy_config(kind="token"), block_names=BLOCKS)
    with pytest.raises(ValueError, match="guidance_scale is 1"):
        plain.collate([example_of(directory, 0, scale=1.5)])
