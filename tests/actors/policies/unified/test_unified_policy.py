"""Scores of chains of text and codes against transformers' model, one context at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.policies.unified.policy import UnifiedPolicy
from actors.policies.unified.vocabulary import CODE_ROW, TEXT_ROW
from rl.chain.plan import CODES, TEXT, Walk
from rl.types import TextReply
from tests.reference.guidance import guided_logprobs
from tests.reference.policy_configs import policy_config
from tests.reference.tiny_unified import CHAIN, as_example, build, make_request, plan_of

SCALES = [1.0, 0.8]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("unified")


@pytest.fixture(scope="module")
def vocabulary(directory):
    return build(directory)


@pytest.fixture(scope="module", params=SCALES, ids=["plain", "guided"])
def config(request):
    return policy_config(kind="unified", temperature=0.9, guidance_scale=request.param)


@pytest.fixture(scope="module")
def policy(directory, vocabulary, config):
    return UnifiedPolicy.load(directory, config, block_names=list(CHAIN)).eval()


def example_of(vocabulary, seed, *, guidance, num_text=3):
    """A whole chain of random ids, within its grammar; cut in its first text where ``num_text`` is 0."""
    plan, rng = plan_of(vocabulary), np.random.default_rng(seed)
    request = make_request(vocabulary, f"chain-{seed}", seed=seed, plan=plan, guidance=guidance)
    walk, ids = Walk(plan), []
    words = np.flatnonzero(vocabulary.masks[TEXT_ROW])
    words = words[~np.isin(words, list(plan.reserved))]
    codes = vocabulary.pictures.code_ids
    names = iter(("look", "say"))
    planned: list[int] = []
    while walk.finish is None:
        if walk.allowed == CODES:
            token = int(rng.choice(codes))
        elif walk.allowed != TEXT:
            token = walk.allowed
        else:
            if not planned:
                name = next(names)
                body = rng.choice(words, num_text).tolist()
                after = vocabulary.tags.opening["sketch" if name == "look" else "paint"]
                planned = [vocabulary.tags.opening[name], *body, vocabulary.tags.closing[name], after]
                planned = planned if num_text else [vocabulary.tags.closing[name]]
            token = planned.pop(0)
        walk.push(token)
        ids.append(token)
    logprobs = np.where(np.asarray(walk.block_of) >= 0, -1.0, 0.0).astype(np.float32)
    tokens = np.asarray(ids, dtype=np.int32)
    reply = TextReply(request_id="", tokens=tokens, logprobs=logprobs, stopped=True, version=0)
    return as_example(request, reply)


def raw_logits(policy, tokens):
    return policy.model(torch.tensor([tokens])).logits[0, -1].double().tolist()


@torch.no_grad()
def slow_logprobs(policy, vocabulary, example):
    """Log-prob of each action: its contexts cut by hand, one at a time."""
    stream = example.segment
    tokens, sampling = stream.tokens.tolist(), stream.sampling
    wanted = []
    for place in np.flatnonzero(stream.action_mask).tolist():
        is_code = tokens[place] in vocabulary.pictures.code_ids
        seen = raw_logits(policy, tokens[:place])
        alone = seen
        if is_code:
            begin = place - tokens[:place][::-1].index(vocabulary.begin) - 1
            alone = raw_logits(policy, tokens[begin:place])
        table = guided_logprobs(
            seen,
            alone,
            scale=sampling.guidance if is_code else 1.0,
            temperature=sampling.temperature,
            forbidden=set(np.flatnonzero(~vocabulary.masks[CODE_ROW if is_code else TEXT_ROW]).tolist()),
        )
        wanted.append(table[tokens[place]])
    return wanted


@torch.no_grad()
def test_scores_are_those_of_each_context_by_itself(policy, vocabulary, config):
    """Chains of other lengths in one batch, and one without a picture of its own."""
    guidance = config.rollout.guidance_scale
    examples = [example_of(vocabulary, i, guidance=guidance, num_text=n) for i, n in enumerate((3, 0, 5))]
    batch = policy.collate(examples)
    scores = policy(batch.inputs)
    for row, example in enumerate(examples):
        places = np.flatnonzero(example.segment.action_mask)
        wanted = slow_logprobs(policy, vocabulary, example)
        np.testing.assert_allclose(scores.logprobs[row, places], wanted, rtol=0, atol=2e-5)
    assert not scores.logprobs[~batch.action_mask].any()


@torch.no_grad()
def test_guidance_is_of_codes_alone(policy, vocabulary, config):
    example = example_of(vocabulary, 4, guidance=config.rollout.guidance_scale)
    stream = example.segment
    plain = replace(example, segment=replace(stream, sampling=replace(stream.sampling, guidance=1.0)))
    scores, others = (policy(policy.collate([e]).inputs).logprobs[0] for e in (example, plain))
    is_code = torch.from_numpy(vocabulary.masks[CODE_ROW][stream.tokens] & stream.action_mask)
    assert torch.equal(scores[~is_code], others[~is_code])
    is_guided = config.rollout.guidance_scale != 1
    assert bool((scores[is_code] - others[is_code]).abs().max() > 1e-3) == is_guided


def test_gradient_reaches_the_rows_that_could_be_sampled_and_no_other(policy, vocabulary, config):
    """Of codes where codes were trained, of text where text was; the embeddings are tied."""
    example = example_of(vocabulary, 5, guidance=config.rollout.guidance_scale)
    batch = policy.collate([example])
    is_code = torch.from_numpy(vocabulary.masks[CODE_ROW][example.segment.tokens])[None]
    weight = policy.model.get_output_embeddings().weight
    seen = torch.zeros(len(weight), dtype=torch.bool)
    seen[example.segment.tokens] = True
    masks = torch.from_numpy(vocabulary.masks)
    for row, trained in ((CODE_ROW, is_code), (TEXT_ROW, ~is_code)):
        policy.zero_grad(set_to_none=True)
        policy(batch.inputs).logprobs[trained & batch.action_mask].sum().backward()
        moved = weight.grad.abs().sum(1) > 0
        assert moved[masks[row]].all()
        assert not moved[~masks[row] & ~seen].any()


def test_entropy_is_over_what_could_be_sampled(policy, vocabulary, config):
    example = example_of(vocabulary, 6, guidance=config.rollout.guidance_scale)
    with torch.no_grad():
        entropy = policy(policy.collate([example]).inputs).entropy[0]
    is_code = torch.from_numpy(
        vocabulary.masks[CODE_ROW][example.segment.tokens] & example.segment.action_mask
    )
    assert entropy[is_code].max() <= np.log(len(vocabulary.pictures.code_ids)) + 1e-5


def test_a_model_that_sees_from_one_picture_into_another_is_not_guided(directory, vocabulary, monkeypatch):
    monkeypatch.setattr(
        UnifiedPolicy,
        "hidden_states",
        lambda self, inputs: torch.cumsum(inputs["model.input_ids"][..., None].float(), 1),
    )
    UnifiedPolicy.load(directory, policy_config(kind="unified"), block_names=list(CHAIN))
    guided = policy_config(kind="unified", guidance_scale=0.8)
    from rl.errors import ConfigError

    with pytest.raises(ConfigError, match="Qwen3ForCausalLM: its layers see from one picture into another"):
        UnifiedPolicy.load(directory, guided, block_names=list(CHAIN))
