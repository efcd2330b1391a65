"""Activations: numbers that a forward pass keeps for its backward pass, from architecture and shape of the batch.

The sums name the tensors that autograd saves in the code that runs here (transformers' Qwen2.5-VL with
``scaled_dot_product_attention``, diffusers' UNet); ``docs/placement.md`` lists them. Letters: H width, I inner
width of an MLP, S tokens of a row, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from configs.derive import CHUNK_ACTIONS
from configs.planning.models import Fields

LOGIT_TABLES = 4
"""Tables of logits alive at once in the scoring of a part: log-probs, and three that their entropy needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextShape:
    """The largest batch of a token policy."""

    rows: int
    """Chains in a forward pass; twice as many with guidance."""
    tokens: int
    """S: prompt, blocks, forced tokens and expanded pictures."""
    patches: int
    """Patches of a row's pictures, before they are merged."""
    actions: int
    """Sampled tokens of a row."""


def head_size(text: Fields) -> int:
    """Return the width of one attention head of a language model."""
    return int(text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"])


def key_width(text: Fields) -> int:
    """Return the width of the keys of a token, all heads of a layer; the values are as wide."""
    return int(text.get("num_key_value_heads", text["num_attention_heads"]) * head_size(text))


def text_elements(fields: Fields, shape: TextShape, *, recomputed: bool) -> int:
    """Return the elements that one training pass of a language model keeps, its logits aside.

    A vision tower is that of Qwen2.5-VL or Qwen3-VL.

    Args:
        fields: Of the checkpoint's ``config.json``.
        shape: Of the batch.
        recomputed: Layers keep their inputs only, and one at a time all it computes (``gradient_checkpointing``).

    Source:
        Korthikanti et al. 2022 (Reducing Activation Recomputation), eq. 1, with the terms of a gated MLP, RMS
        norms and an attention that keeps no scores.
    """
    text = fields["text_config"]
    width, inner = text["hidden_size"], text["intermediate_size"]
    queries = text["num_attention_heads"] * head_size(text)
    keys = key_width(text)
    layer = 6 * width + 2 * queries + 2 * keys + 4 * inner
    # Of the language model and the vision tower: positions, layers, width, what a layer keeps of a position.
    stacks = [(shape.rows * shape.tokens, text["num_hidden_layers"], width, layer)]
    if vision := fields.get("vision_config"):
        seen = 11 * vision["hidden_size"] + 4 * vision["intermediate_size"]
        stacks.append((shape.rows * shape.patches, vision["depth"], vision["hidden_size"], seen))
    kept = 3 * shape.rows * shape.tokens * width
    if recomputed:
        kept += max(num * elements for num, _, _, elements in stacks)
        return int(kept + sum(num * depth * inputs for num, depth, inputs, _ in stacks))
    return int(kept + sum(num * depth * elements for num, depth, _, elements in stacks))


def logit_elements(fields: Fields, shape: TextShape) -> int:
    """Return the elements of the tables of logits that are alive at once: float32 whatever the model is."""
    part = min(CHUNK_ACTIONS, shape.rows * shape.actions)
    return int(LOGIT_TABLES * part * fields["text_config"]["vocab_size"])


# --------------------------------------------------------------------------------- picture nets


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureShape:
    """The largest batch of a denoising policy."""

    rows: int
    """Denoising steps in a forward pass; twice as many with guidance."""
    cells: int
    """Cells of the net's input, a transformer's tokens: pixels over the square of a patch."""


def picture_elements(fields: Fields, shape: PictureShape, *, recomputed: bool) -> int:
    """Return the elements that one training pass of a picture net keeps; ``recomputed`` as for ``text_elements``."""
    if is_transformer(fields):
        # Each layer, of a token: norms and modulation 6 D, q k v and output 4 D, MLP 12 D.
        layers = transformer_layers(fields)
        return (layers + 22 if recomputed else 22 * layers) * _joint_width(fields, shape)
    cells = [(shape.rows * (shape.cells >> 2 * layer.level), layer) for layer in unet_layers(fields)]
    if recomputed:
        largest = max(num * _kept(layer, fields) for num, layer in cells)
        return largest + sum(num * layer.inputs for num, layer in cells)
    return sum(num * _kept(layer, fields) for num, layer in cells)


def _kept(layer: UnetLayer, fields: Fields) -> int:
    """Return what a part keeps, elements a cell of its resolution."""
    if layer.kind == "conv":
        return layer.inputs
    if layer.kind == "head":
        return 3 * layer.inputs
    if layer.kind == "resnet":  # each of two halves: before the norm, after it, after the activation
        return 3 * layer.inputs + 3 * layer.outputs
    blocks = int(fields.get("transformer_layers_per_block", 1))
    # Norm and projections 3 C; self-attention 6 C, cross-attention 4 C, gated MLP 18 C.
    return (3 + blocks * 28) * layer.outputs


def _joint_width(fields: Fields, shape: PictureShape) -> int:
    """Return the elements of all tokens of an MM-DiT, between two of its layers."""
    return int(shape.rows * (shape.cells + JOINT_TEXT_TOKENS) * transformer_width(fields))


JOINT_TEXT_TOKENS = 333
"""Text tokens that SD3 sees: 77 of CLIP's and 256 of T5's; the others see about as many."""


def is_transformer(fields: Fields) -> bool:
    """Whether a picture net's configuration is a transformer's, and no UNet's."""
    return "block_out_channels" not in fields


def transformer_layers(fields: Fields) -> int:
    """Return how many blocks a picture transformer has; those of one stream count as those of two."""
    return int(fields.get("num_layers") or fields["n_layers"]) + int(fields.get("num_single_layers") or 0)


def transformer_width(fields: Fields) -> int:
    """Return the width of a picture transformer's tokens."""
    if "num_attention_heads" in fields:
        return int(fields["num_attention_heads"] * fields["attention_head_dim"])
    return int(fields.get("dim") or fields["hidden_size"])


def painting_elements(fields: Fields, shape: PictureShape) -> int:
    """Return the elements that painting holds at its fullest: skips, and the part that is computed."""
    if is_transformer(fields):
        return 12 * _joint_width(fields, shape)
    layers = list(unet_layers(fields))
    skips = sum(layer.outputs * (shape.cells >> 2 * layer.level) for layer in layers[: len(layers) // 2])
    most = max((2 * layer.inputs + 2 * layer.outputs) * (shape.cells >> 2 * layer.level) for layer in layers)
    return shape.rows * (skips + most)


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
