"""How many numbers a forward pass keeps for its backward pass, from a model's architecture and a batch's shape.

The sums name the tensors that autograd saves in the code that runs here (transformers' Qwen2.5-VL with
``scaled_dot_product_attention``, diffusers' UNet); ``docs/placement.md`` lists them. Letters: H width, I inner
width of an MLP, S tokens of a row, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.planning.model_shapes import UnetLayer, head_size, unet_layers

Fields = Mapping[str, Any]
NUM_CHUNKS = 4
"""Parts in which actions are turned to log-probs (``actors.policies.token.policy``)."""
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


def text_elements(fields: Fields, shape: TextShape) -> int:
    """Return the elements that one training pass of a Qwen2.5-VL keeps, its logits aside.

    Source:
        Korthikanti et al. 2022 (Reducing Activation Recomputation), eq. 1, with the terms of a gated MLP, RMS
        norms and an attention that keeps no scores.
    """
    text, vision = fields["text_config"], fields["vision_config"]
    width, inner = text["hidden_size"], text["intermediate_size"]
    queries = text["num_attention_heads"] * head_size(text)
    keys = text["num_key_value_heads"] * head_size(text)
    layer = 6 * width + 2 * queries + 2 * keys + 4 * inner
    language = shape.rows * shape.tokens * (text["num_hidden_layers"] * layer + 3 * width)
    seen = 11 * vision["hidden_size"] + 4 * vision["intermediate_size"]
    return int(language + shape.rows * shape.patches * vision["depth"] * seen)


def logit_elements(fields: Fields, shape: TextShape) -> int:
    """Return the elements of the tables of logits that are alive at once: float32 whatever the model is."""
    part = -(-shape.rows * shape.actions // NUM_CHUNKS)
    return int(LOGIT_TABLES * part * fields["text_config"]["vocab_size"])


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureShape:
    """The largest batch of a denoising policy."""

    rows: int
    """Denoising steps in a forward pass; twice as many with guidance."""
    cells: int
    """Cells of the net's input: pixels over the square of a patch."""


def picture_elements(fields: Fields, shape: PictureShape) -> int:
    """Return the elements that one training pass of a picture net keeps."""
    if fields.get("_class_name") == "SD3Transformer2DModel":
        return _joint_elements(fields, shape)
    return sum(
        shape.rows * (shape.cells >> 2 * layer.level) * _kept(layer, fields) for layer in unet_layers(fields)
    )


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


def _joint_elements(fields: Fields, shape: PictureShape) -> int:
    """A block of an MM-DiT keeps, of a token: norms and modulation 6 D, q k v and output 4 D, MLP 12 D."""
    width = fields["num_attention_heads"] * fields["attention_head_dim"]
    tokens = shape.cells // fields["patch_size"] ** 2 + JOINT_TEXT_TOKENS
    return int(shape.rows * tokens * fields["num_layers"] * 22 * width)


JOINT_TEXT_TOKENS = 333
"""Text tokens that SD3 sees: 77 of CLIP's and 256 of T5's."""


def painting_elements(fields: Fields, shape: PictureShape) -> int:
    """Return the elements that painting holds at its fullest: skips, and the part that is computed."""
    if fields.get("_class_name") == "SD3Transformer2DModel":
        width = fields["num_attention_heads"] * fields["attention_head_dim"]
        return int(shape.rows * (shape.cells // fields["patch_size"] ** 2 + JOINT_TEXT_TOKENS) * 12 * width)
    layers = list(unet_layers(fields))
    skips = sum(layer.outputs * (shape.cells >> 2 * layer.level) for layer in layers[: len(layers) // 2])
    most = max((2 * layer.inputs + 2 * layer.outputs) * (shape.cells >> 2 * layer.level) for layer in layers)
    return shape.rows * (skips + most)
