"""Workload of one step: shapes of batches, tokens, cache and latents that it asks of the workers. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.derive import degraded_px, denoising_policy, is_stepwise, num_codes, token_policy
from configs.planning.activations import PictureShape, TextShape, key_width
from configs.planning.models import Model
from configs.schema import BlockConfig, Config, UnifiedPolicyConfig

PROMPT_TOKENS = 64
"""What the prompt is taken for, its picture aside."""
TAG_TOKENS = 4
"""Forced tokens around a picture."""
DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2}
LATENT_BYTES = 4
"""Latents are kept in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Amounts of one step, over all workers."""

    num_chains: int
    num_tokens: int
    """Tokens sampled, at most."""
    num_denoising_steps: int
    latent_bytes: int
    """Latents and pictures of all chains, in the object store."""


def workload(config: Config, models: Mapping[str, Model | None]) -> Workload:
    """Return what a step of a valid configuration makes, at most; ``models`` by policy."""
    chains = config.prompts_per_step * config.group_size
    images = _images(config)
    latents = sum(_recorded_bytes(block, models.get(block.policy)) for block in images)
    return Workload(
        num_chains=chains,
        num_tokens=chains * _sampled_tokens(config),
        num_denoising_steps=chains * sum(block.num_steps for block in images),
        latent_bytes=chains * latents,
    )


def _recorded_bytes(block: BlockConfig, model: Model | None) -> int:
    """Return what a picture and its latents weigh; of an unknown model as if it worked on pixels."""
    pixels = block.size_px * (block.height_px or block.size_px)
    latent = LATENT_BYTES * (3.0 if model is None else model.latents_a_pixel)
    latents = block.num_steps + 1 if block.num_steps else 0  # codes weigh nothing
    return int(pixels * (3 + latents * latent))


def text_shape(config: Config, policy: str, model: Model) -> TextShape:
    """Return the largest batch a learner rank of a token policy scores."""
    spec = token_policy(config.policies[policy])
    vision = model.fields.get("vision_config", {})
    pictures = [_picture_patches(edge, model, vision) for edge in _context_pictures(config) if vision]
    merge = vision.get("spatial_merge_size", 1) ** 2
    sampled = _sampled_tokens(config)
    forced = sum(p // merge for p in pictures) + TAG_TOKENS * len(pictures)
    if isinstance(spec, UnifiedPolicyConfig):
        forced = _framing_tokens(config, spec.stride_px)
    tokens = PROMPT_TOKENS + sampled + forced
    rows = min(spec.learner.micro_batch_size, _chains_a_rank(config, policy))
    if spec.learner.max_tokens:
        rows = min(rows, max(1, spec.learner.max_tokens // tokens))
    return TextShape(
        rows=rows * _branches(spec.rollout.guidance_scale),
        tokens=tokens,
        patches=sum(pictures),
        actions=sampled,
    )


def picture_shape(config: Config, policy: str, model: Model, *, learn: bool) -> PictureShape:
    """Return the largest batch of a denoising policy: all trained steps of its pictures, or one step of each."""
    spec = denoising_policy(config.policies[policy])
    blocks = [block for block in _images(config) if block.policy == policy]
    largest = max(blocks, key=lambda block: block.size_px)
    pictures = min(spec.learner.micro_batch_size, _chains_a_rank(config, policy))
    steps = spec.rollout.trained_steps.num_trained(largest.num_steps - 1) if learn else 1
    rows = pictures * steps
    if is_stepwise(spec.loss):
        rows = min(rows, spec.learner.micro_batch_size)
    return PictureShape(
        rows=rows * _branches(float(spec.call.get("guidance_scale") or 1)),
        cells=(largest.size_px // model.patch) ** 2,
    )


def cache_bytes_a_token(fields: Mapping[str, Any], dtype: str) -> int:
    """Return the key-value cache of one token over all layers, bytes.

    Source:
        Kwon et al. 2023 (vLLM), section 1: keys and values, every layer, every key-value head.
    """
    text = fields["text_config"]
    return int(2 * text["num_hidden_layers"] * key_width(text) * DTYPE_BYTES[dtype])


def _branches(guidance_scale: float) -> int:
    """Rows of the batch a row becomes under classifier-free guidance."""
    return 1 if guidance_scale == 1 else 2


def _chains_a_rank(config: Config, policy: str) -> int:
    ranks = config.policies[policy].learner.num_ranks * config.updates_per_batch
    return max(1, math.ceil(config.prompts_per_step * config.group_size / ranks))


def _images(config: Config) -> list[BlockConfig]:
    return [block for block in config.chain.values() if block.kind == "image"]


def _sampled_tokens(config: Config) -> int:
    """Return the most tokens sampled for a chain, codes of pictures among them."""
    words = sum(block.max_tokens for block in config.chain.values() if block.kind == "text")
    painters = [(block, config.policies[block.policy]) for block in _images(config)]
    return words + sum(
        num_codes(block, policy.stride_px)
        for block, policy in painters
        if isinstance(policy, UnifiedPolicyConfig)
    )


def _framing_tokens(config: Config, stride_px: int) -> int:
    """Return the tokens of a unified policy's chain that are not sampled: what frames pictures, and the photo."""
    images = _images(config)
    framing = sum((block.height_px or block.size_px) // stride_px + TAG_TOKENS for block in images)
    if not images or not degraded_px(config):
        return framing
    photo = images[-1]  # it is seen at the last picture's size
    return (
        framing + num_codes(photo, stride_px) + (photo.height_px or photo.size_px) // stride_px + TAG_TOKENS
    )


def _context_pictures(config: Config) -> list[int]:
    """Edges of the pictures that enter the text's context: the photo, and all painted but the last."""
    sizes = [block.size_px for block in _images(config)]
    photo = degraded_px(config)
    return [photo, *sizes[:-1]] if photo else []


def _picture_patches(edge: int, model: Model, vision: Mapping[str, Any]) -> int:
    """Return the patches of a picture, scaled as its processor does: to its range, and to whole cells."""
    cell = vision["patch_size"] * vision["spatial_merge_size"]
    low, high = model.pixel_range
    scaled = math.sqrt(min(max(edge * edge, low), high))
    return int(max(1, round(scaled / cell)) ** 2 * vision["spatial_merge_size"] ** 2)
