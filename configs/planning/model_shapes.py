"""How many parameters a model has, from its architecture alone: sums over its matrices.

Letters in comments: H width, I inner width of an MLP, V ids, C channels, D width of a transformer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

Fields = Mapping[str, Any]


def count_parameters(fields: Fields) -> int:
    """Return the trained parameters of a model.

    Args:
        fields: Content of its ``config.json``: a Qwen2.5-VL's, a ``UNet2DConditionModel``'s or a
            ``SD3Transformer2DModel``'s.

    Raises:
        ValueError: If it is another architecture.
    """
    if "text_config" in fields:
        return _language_parameters(fields["text_config"]) + _vision_parameters(fields["vision_config"])
    kind = fields.get("_class_name")
    if kind == "UNet2DConditionModel":
        return _unet_parameters(fields)
    if kind == "SD3Transformer2DModel":
        return _joint_transformer_parameters(fields)
    raise ValueError(f"no arithmetic for {kind or 'this architecture'}")


def head_size(text: Fields) -> int:
    """Return the width of one attention head of a Qwen2.5-VL language model."""
    return int(text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"])


# --------------------------------------------------------------------------------- Qwen2.5-VL


def _language_parameters(text: Fields) -> int:
    width, inner = text["hidden_size"], text["intermediate_size"]
    queries = text["num_attention_heads"] * head_size(text)
    keys = text["num_key_value_heads"] * head_size(text)
    attention = (width + 1) * (queries + 2 * keys) + queries * width
    layer = attention + 3 * width * inner + 2 * width
    tables = 1 if text.get("tie_word_embeddings") else 2
    return int(text["num_hidden_layers"] * layer + tables * text["vocab_size"] * width + width)


def _vision_parameters(vision: Fields) -> int:
    width, inner, out = vision["hidden_size"], vision["intermediate_size"], vision["out_hidden_size"]
    patch = vision.get("in_channels", 3) * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    block = 2 * width + (width + 1) * 3 * width + (width + 1) * width
    block += 2 * (width + 1) * inner + (inner + 1) * width
    merged = width * vision["spatial_merge_size"] ** 2
    merger = width + (merged + 1) * merged + (merged + 1) * out
    return int(patch * width + vision["depth"] * block + merger)


# --------------------------------------------------------------------------------- UNet


@dataclass(frozen=True, slots=True, kw_only=True)
class UnetLayer:
    """One part of a ``UNet2DConditionModel``, in the order of its forward pass."""

    kind: Literal["conv", "resnet", "attention", "head"]
    inputs: int
    """Channels in; of an up block's resnet those of its skip too."""
    outputs: int
    level: int
    """How often the resolution was halved before it, or (an upsampler) at its output."""


def unet_layers(fields: Fields) -> Iterator[UnetLayer]:
    """Yield the parts of a net that hold weights and activations, the time embedding aside."""
    widths = [int(width) for width in fields["block_out_channels"]]
    depth, last = int(fields["layers_per_block"]), len(widths) - 1
    yield UnetLayer(kind="conv", inputs=int(fields["in_channels"]), outputs=widths[0], level=0)
    for level, (before, width) in enumerate(pairwise([widths[0], *widths])):
        has_attention = "CrossAttn" in fields["down_block_types"][level]
        for index in range(depth):
            yield from _unit(width if index else before, width, level, has_attention)
        if level < last:
            yield UnetLayer(kind="conv", inputs=width, outputs=width, level=level)
    yield from _unit(widths[-1], widths[-1], last, "CrossAttn" in str(fields.get("mid_block_type")))
    yield from _unit(widths[-1], widths[-1], last, False)
    yield from _up(fields, widths, depth)
    yield UnetLayer(kind="head", inputs=widths[0], outputs=int(fields["out_channels"]), level=0)


def _up(fields: Fields, widths: list[int], depth: int) -> Iterator[UnetLayer]:
    before, last = widths[-1], len(widths) - 1
    for number, level in enumerate(range(last, -1, -1)):
        width, below = widths[level], widths[max(level - 1, 0)]
        has_attention = "CrossAttn" in fields["up_block_types"][number]
        for index in range(depth + 1):
            skip = below if index == depth else width
            yield from _unit((width if index else before) + skip, width, level, has_attention)
        if level:
            yield UnetLayer(kind="conv", inputs=width, outputs=width, level=level - 1)
        before = width


def _unit(inputs: int, outputs: int, level: int, has_attention: bool) -> Iterator[UnetLayer]:
    yield UnetLayer(kind="resnet", inputs=inputs, outputs=outputs, level=level)
    if has_attention:
        yield UnetLayer(kind="attention", inputs=outputs, outputs=outputs, level=level)


def _unet_parameters(fields: Fields) -> int:
    first = int(fields["block_out_channels"][0])
    time = 4 * first
    total = (first + 1) * time + (time + 1) * time
    text, blocks = int(fields["cross_attention_dim"]), int(fields.get("transformer_layers_per_block", 1))
    for layer in unet_layers(fields):
        total += _unet_layer_parameters(layer, time, text, blocks)
    return total


def _unet_layer_parameters(layer: UnetLayer, time: int, text: int, blocks: int) -> int:
    source, out = layer.inputs, layer.outputs
    if layer.kind == "conv":
        return (9 * source + 1) * out
    if layer.kind == "head":
        return 2 * source + (9 * source + 1) * out
    if layer.kind == "resnet":
        shortcut = (source + 1) * out if source != out else 0
        return (
            2 * source + (9 * source + 1) * out + (time + 1) * out + 2 * out + (9 * out + 1) * out + shortcut
        )
    block = 6 * out + 6 * out * out + 2 * text * out + 2 * out  # norms, attentions, biases of their outputs
    block += (out + 1) * 8 * out + (4 * out + 1) * out  # gated MLP
    return 2 * out + 2 * (out + 1) * out + blocks * block


# --------------------------------------------------------------------------------- SD3


def _joint_transformer_parameters(fields: Fields) -> int:
    """Count an MM-DiT (Esser et al. 2024): two streams, joint attention, the last block without a text side."""
    width = fields["num_attention_heads"] * fields["attention_head_dim"]
    square = (width + 1) * width
    area = fields["patch_size"] ** 2
    embeddings = (fields["in_channels"] * area + 1) * width + (fields["joint_attention_dim"] + 1) * width
    embeddings += (256 + 1) * width + (fields["pooled_projection_dim"] + 1) * width + 2 * square
    stream = 6 * square + 4 * square + (width + 1) * 4 * width + (4 * width + 1) * width
    block = 2 * stream
    last = stream + 2 * square + 3 * square  # of the text side only its norm's and q, k, v
    head = 2 * square + (width + 1) * area * fields["out_channels"]
    return int(embeddings + (fields["num_layers"] - 1) * block + last + head)
