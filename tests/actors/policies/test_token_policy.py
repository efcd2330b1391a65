"""The token policy against transformers' own model, one row at a time and without any batching."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from actors.policies.token.checkpoint import load_config
from actors.policies.token.pictures import PictureInputs
from actors.policies.token.policy import TokenPolicy
from actors.policies.token.vocabulary import load_processor, load_vocabulary, picture_mark
from rl.compat.torchvision import ensure_torchvision
from rl.types import DenoisingSegment, Example, Pixels, SamplerSpec, TextSampling, TokenStream
from tests.reference.policy_configs import policy_config
from tests.reference.tiny_text import BLOCKS, build

CONFIG = policy_config(kind="token")
TOLERANCE_NATS = 1e-5


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("token")
    build(path)
    return path


@pytest.fixture(scope="module")
def policy(directory: Path) -> TokenPolicy:
    """A policy whose pictures cost from one token up, unlike those of the small model."""
    ensure_torchvision()
    from transformers import Qwen2VLImageProcessor

    loaded = TokenPolicy.load(directory, CONFIG, block_names=BLOCKS)
    processor = load_processor(directory)
    vision = loaded.model.config.vision_config
    cell = vision.patch_size * vision.spatial_merge_size
    processor.image_processor = Qwen2VLImageProcessor(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        size={"shortest_edge": cell**2, "longest_edge": (4 * cell) ** 2},
    )
    mark = picture_mark(processor, processor.tokenizer, loaded.model.config)
    return TokenPolicy(loaded.model, PictureInputs(processor, mark), directory)


def picture(rng: np.random.Generator, height: int, width: int) -> Pixels:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@cache
def known_ids(directory: Path) -> tuple[list[int], list[int]]:
    """Ids that stand for a picture, and ids that may be sampled."""
    vocabulary = load_vocabulary(directory, BLOCKS)
    allowed = set(range(load_config(directory).get_text_config().vocab_size)) - set(vocabulary.forbidden_ids)
    return list(vocabulary.tags.picture), sorted(allowed)


def make_example(
    policy: TokenPolicy, seed: int, *, num_pictures: int, sampling: TextSampling | None = None
) -> Example:
    """Random text with pictures at random places; any token but the first may be an action."""
    rng = np.random.default_rng(seed)
    ids, allowed = known_ids(policy._directory)
    sampling = sampling or TextSampling()
    tokens = [int(rng.choice(allowed))]
    for index in range(num_pictures + 1):
        tokens += [int(rng.choice(allowed)) for _ in range(rng.integers(1, 6))]
        tokens += ids if index < num_pictures else []
    mask = rng.random(len(tokens)) < 0.5
    mask[0] = False
    mask &= ~np.isin(tokens, ids)
    mask[-1] = True
    pictures = tuple(picture(rng, *rng.integers(8, 33, 2).tolist()) for _ in range(num_pictures))
    tokens, places = expand_slowly(policy, tokens, pictures)
    expanded = np.zeros(len(tokens), dtype=np.bool_)
    expanded[places] = mask
    mask = expanded
    stream = TokenStream(
        tokens=np.asarray(tokens, dtype=np.int32),
        pictures=tuple(f"picture {i}" for i in range(num_pictures)),
        action_mask=mask,
        behaviour_logprobs=np.where(mask, -rng.random(len(tokens)), 0.0).astype(np.float32),
        block_of=np.where(mask, rng.integers(0, 3, len(tokens)), -1).astype(np.int8),
        sampling=sampling,
    )
    return Example(segment=stream, pictures=pictures)


def stream_of(example: Example) -> TokenStream:
    assert isinstance(example.segment, TokenStream)
    return example.segment


def expand_slowly(
    policy: TokenPolicy, tokens: Sequence[int], pictures: Sequence[Pixels]
) -> tuple[list[int], list[int]]:
    """Expanded ids, and where each token went, token by token."""
    placeholder = int(policy.model.config.image_token_id)
    costs = iter([_cost(policy, p) for p in pictures])
    expanded: list[int] = []
    places = []
    for token in tokens:
        places.append(len(expanded))
        expanded += [int(token)] * (next(costs) if token == placeholder else 1)
    return expanded, places


def image_processor(policy: TokenPolicy) -> Any:
    assert policy.pictures is not None
    return policy.pictures._processor.image_processor


def _cost(policy: TokenPolicy, pixels: Pixels) -> int:
    processor = image_processor(policy)
    grid = processor([pixels], return_tensors="pt")["image_grid_thw"][0]
    return int(grid.prod()) // int(processor.merge_size) ** 2


def score_slowly(policy: TokenPolicy, example: Example) -> tuple[list[float], list[float]]:
    """Log-prob and entropy of each stream token from transformers' model on this row alone."""
    stream, sampling = stream_of(example), stream_of(example).sampling
    ids = torch.from_numpy(stream.tokens.astype(np.int64))[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if example.pictures:
        inputs |= image_processor(policy)(list(example.pictures), return_tensors="pt")
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == policy.model.config.image_token_id).int()
    policy.model.model.rope_deltas = None
    logits = policy.model(**inputs).logits[0]
    policy.model.model.rope_deltas = None
    logprobs, entropy = [], []
    for place, (token, is_action) in enumerate(zip(stream.tokens.tolist(), stream.action_mask, strict=True)):
        if not is_action:
            logprobs.append(0.0)
            entropy.append(0.0)
            continue
        scores = logits[place - 1].double() / (sampling.temperature or 1.0)
        kept = [i for i in range(len(scores)) if i not in sampling.forbidden_ids]
        table = torch.log_softmax(scores[kept], dim=0)
        logprobs.append(float(table[kept.index(token)]))
        entropy.append(float(-(table.exp() * table).sum()))
    return logprobs, entropy


@torch.no_grad()
def assert_scores(policy: TokenPolicy, examples: Sequence[Example]) -> None:
    scores = policy(policy.collate(examples).inputs)
    for row, example in enumerate(examples):
        logprobs, entropy = score_slowly(policy, example)
        num = len(logprobs)
        np.testing.assert_allclose(scores.logprobs[row, :num], logprobs, atol=TOLERANCE_NATS)
        np.testing.assert_allclose(scores.entropy[row, :num], entropy, atol=TOLERANCE_NATS)
        assert not scores.logprobs[row, num:].any()


# ------------------------------------------------------------------ batches


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 4))
def test_placeholders_are_expanded_like_in_a_loop(policy: TokenPolicy, seed: int, num: int) -> None:
    rng = np.random.default_rng(seed)
    ids, allowed = known_ids(policy._directory)
    tokens = [i for _ in range(num) for i in (*rng.choice(allowed, 2).tolist(), *ids)]
    pictures = [picture(rng, *rng.integers(8, 33, 2).tolist()) for _ in range(num)]
    assert policy.pictures is not None
    parts = policy.pictures.expanded(tokens, pictures)
    assert len(parts) == len(tokens)
    assert [i for part in parts for i in part] == expand_slowly(policy, tokens, pictures)[0]
    with pytest.raises(ValueError, match=f"{num} placeholders, but {num + 1} pictures"):
        policy.pictures.expanded(tokens, [*pictures, picture(rng, 8, 8)])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 3)), min_size=1, max_size=4))
def test_collate_pads_like_a_loop(policy: TokenPolicy, rows: list[tuple[int, int]]) -> None:
    examples = [make_example(policy, seed, num_pictures=num) for seed, num in rows]
    batch = policy.collate(examples)
    inputs = batch.inputs
    wanted = []
    for row, example in enumerate(examples):
        stream = stream_of(example)
        num = len(stream.tokens)
        assert inputs["model.input_ids"][row, :num].tolist() == stream.tokens.tolist()
        actions = np.flatnonzero(stream.action_mask)
        wanted += [(row, c, int(stream.tokens[c])) for c in actions.tolist()]
        for ours, theirs in (
            (batch.action_mask, stream.action_mask),
            (batch.behaviour_logprobs, stream.behaviour_logprobs),
            (batch.block_of, stream.block_of),
        ):
            np.testing.assert_array_equal(ours[row, :num], theirs)
        assert not batch.action_mask[row, num:].any()
        assert (batch.block_of[row, num:] == -1).all()
    found = zip(*(inputs[k].tolist() for k in ("row_of", "column", "target")), strict=True)
    assert list(found) == wanted


def test_no_row_has_fewer_placeholders_than_picture_tokens(policy: TokenPolicy) -> None:
    """A row without pictures gets a black one behind its end, so that every row runs the vision tower."""
    batch = policy.collate([make_example(policy, 0, num_pictures=0), make_example(policy, 1, num_pictures=2)])
    placeholders = (batch.inputs["model.input_ids"] == policy.model.config.image_token_id).sum()
    grids = batch.inputs["model.image_grid_thw"]
    assert len(grids) == 3
    assert placeholders == grids.prod(1).sum() // image_processor(policy).merge_size ** 2


def test_collate_refuses_other_segments(policy: TokenPolicy) -> None:
    segment = DenoisingSegment(
        block="a",
        latents=np.zeros((2, 3, 4, 4), np.float32),
        timesteps=np.ones(1, np.float32),
        levels=np.ones(2, np.float32),
        behaviour_logprobs=np.zeros(1, np.float32),
        action_mask=np.ones(1, np.bool_),
        pictures=(),
        size_px=4,
        height_px=4,
        seed=0,
        sampler=SamplerSpec(),
    )
    with pytest.raises(TypeError, match="DenoisingSegment"):
        policy.collate([Example(segment=segment, pictures=())])


# ------------------------------------------------------------------ scores


def test_scores_agree_with_transformers(policy: TokenPolicy) -> None:
    assert_scores(policy, [make_example(policy, seed, num_pictures=seed % 4) for seed in range(8)])


@pytest.mark.parametrize("temperature", [0.5, 0.9, 2.0])
def test_scores_are_of_the_sampled_distribution(policy: TokenPolicy, temperature: float) -> None:
    vocabulary = load_vocabulary(policy._directory, BLOCKS)
    masked = TextSampling(temperature=temperature, forbidden_ids=vocabulary.forbidden_ids)
    plain = TextSampling(temperature=temperature)
    examples = [
        make_example(policy, seed, num_pictures=1, sampling=sampling)
        for seed, sampling in enumerate((masked, plain, masked))
    ]
    assert_scores(policy, examples)


def test_greedy_rows_are_scored_at_temperature_one(policy: TokenPolicy) -> None:
    greedy = make_example(policy, 3, num_pictures=1, sampling=TextSampling(temperature=0.0))
    warm = make_example(policy, 3, num_pictures=1)
    scores = [policy(policy.collate([e]).inputs).logprobs for e in (greedy, warm)]
    torch.testing.assert_close(*scores)


def test_padding_and_order_change_nothing(policy: TokenPolicy) -> None:
    examples = [make_example(policy, seed, num_pictures=seed % 3) for seed in range(5)]
    with torch.no_grad():
        together = policy(policy.collate(examples).inputs)
        turned = policy(policy.collate(examples[::-1]).inputs)
        for row, example in enumerate(examples):
            alone = policy(policy.collate([example]).inputs)
            num = alone.logprobs.shape[1]
            for scores, at in ((together, row), (turned, len(examples) - 1 - row)):
                torch.testing.assert_close(
                    scores.logprobs[at, :num], alone.logprobs[0], atol=TOLERANCE_NATS, rtol=0
                )


def test_the_number_of_parts_changes_nothing(policy: TokenPolicy) -> None:
    """More parts than this rank has actions too: another rank may have that many."""
    inputs = policy.collate([make_example(policy, seed, num_pictures=1) for seed in range(2)]).inputs
    assert int(inputs["num_chunks"]) == 1
    with torch.no_grad():
        whole = policy(inputs)
        for num in (2, 5, 300):
            parts = policy({**inputs, "num_chunks": torch.tensor(num)})
            torch.testing.assert_close(parts.logprobs, whole.logprobs, atol=TOLERANCE_NATS, rtol=0)
            torch.testing.assert_close(parts.entropy, whole.entropy, atol=TOLERANCE_NATS, rtol=0)


# ------------------------------------------------------------------ gradients and weights


def gradients(policy: TokenPolicy, examples: Sequence[Example]) -> dict[str, Tensor | None]:
    policy.zero_grad(set_to_none=True)
    scores = policy(policy.collate(examples).inputs)
    scores.logprobs.sum().backward()
    assert scores.entropy is not None
    assert not scores.entropy.requires_grad
    return {name: parameter.grad for name, parameter in policy.published()}


def test_gradient_reaches_every_weight(policy: TokenPolicy) -> None:
    found = gradients(policy, [make_example(policy, seed, num_pictures=2) for seed in range(3)])
    # Adding one vector to all keys of a softmax changes nothing, so their bias has no gradient to speak of.
    idle = [n for n, g in found.items() if g is None or (g.abs().sum() == 0 and "k_proj.bias" not in n)]
    assert idle == []


def test_an_entropy_bonus_reaches_every_weight(directory: Path) -> None:
    """Through the checkpointed chunks, and past ids that could not be sampled."""
    config = policy_config(kind="token", entropy_weight=0.01)
    policy = TokenPolicy.load(directory, config, block_names=BLOCKS)
    forbidden = load_vocabulary(directory, BLOCKS).forbidden_ids
    sampling = TextSampling(temperature=0.8, forbidden_ids=forbidden)
    example = make_example(policy, 0, num_pictures=1, sampling=sampling)
    inputs = policy.collate([example]).inputs
    scores = policy(inputs)
    assert scores.entropy is not None
    scores.entropy.sum().backward()
    found = {name: parameter.grad for name, parameter in policy.published()}

    policy.zero_grad(set_to_none=True)
    logits = policy.model.lm_head(policy.hidden_states(inputs)[0, inputs["column"] - 1]) / 0.8
    kept = [i for i in range(logits.shape[1]) if i not in forbidden]
    torch.distributions.Categorical(logits=logits[:, kept]).entropy().sum().backward()
    for name, parameter in policy.published():
        got, want = found[name], parameter.grad
        assert got is not None
        assert want is not None
        torch.testing.assert_close(got, want, atol=1e-4 * float(want.abs().max()) + 1e-6, rtol=0, msg=name)
    assert float(policy.model.lm_head.weight.grad.abs().max()) > 0
    with torch.no_grad():
        assert not policy(inputs).entropy.requires_grad


def test_rows_without_pictures_touch_the_vision_tower(policy: TokenPolicy) -> None:
    """ZeRO stage 3 hangs where ranks run different modules, so its gradient must be zero rather than absent."""
    found = gradients(policy, [make_example(policy, 0, num_pictures=0)])
    vision = [gradient for name, gradient in found.items() if "visual." in name]
    assert vision
    assert all(gradient is not None and not gradient.any() for gradient in vision)


def test_gradient_agrees_with_one_row_at_a_time(policy: TokenPolicy) -> None:
    examples = [make_example(policy, seed, num_pictures=1) for seed in range(3)]
    together = gradients(policy, examples)
    alone = [gradients(policy, [example]) for example in examples]
    for name, gradient in together.items():
        assert gradient is not None
        summed = torch.stack([part[name] for part in alone]).sum(0)
        torch.testing.assert_close(gradient, summed, atol=1e-3 * float(summed.abs().max()) + 1e-6, rtol=0)


def test_export_is_what_transformers_loads(directory: Path, policy: TokenPolicy, tmp_path: Path) -> None:
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    weights = {name: parameter.detach() + 0.5 for name, parameter in policy.published()}
    policy.export(tmp_path / "out", weights)
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "out")
    found = dict(loaded.named_parameters())
    assert found.keys() == {policy.net_name(name) for name in weights}
    for name, value in weights.items():
        torch.testing.assert_close(found[policy.net_name(name)].detach(), value, atol=0, rtol=0)
    assert AutoProcessor.from_pretrained(tmp_path / "out").image_processor.patch_size
    assert load_vocabulary(tmp_path / "out", BLOCKS).tags == load_vocabulary(directory, BLOCKS).tags


def test_loads_in_bfloat16(directory: Path) -> None:
    small = TokenPolicy.load(directory, policy_config(kind="token", dtype="bfloat16"), block_names=BLOCKS)
    scores = small(small.collate([make_example(small, 0, num_pictures=1)]).inputs)
    assert scores.logprobs.dtype == torch.float32
    assert scores.logprobs.isfinite().all()
