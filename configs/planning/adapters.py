"""Size of low-rank adapters, from the widths of the layers that a model's configuration names."""

from __future__ import annotations

from collections.abc import Iterator

from configs.methods import Adapter
from configs.planning.activations import (
    head_size,
    key_width,
    transformer_layers,
    transformer_width,
    unet_layers,
)
from configs.planning.models import Fields, Model
from configs.schema import PolicyConfig, WriterConfig


def has_adapter(policy: PolicyConfig) -> bool:
    """Whether a policy trains adapters only."""
    return isinstance(policy.learner.lora, Adapter)


def num_updated(policy: PolicyConfig, model: Model) -> int:
    """Return the parameters that learn and are published: all of the net, or its adapters.

    Source:
        Hu et al. 2021 (LoRA), section 4.1: r (inputs + outputs) a layer.
    """
    lora = policy.learner.lora
    if not isinstance(lora, Adapter):
        return model.num_trained
    layers = (
        _token_layers(model.fields) if isinstance(policy, WriterConfig) else _picture_layers(model.fields)
    )
    widths = [width for name, width in layers if not lora.targets or name in lora.targets]
    return lora.rank * sum(widths)


def _token_layers(fields: Fields) -> Iterator[tuple[str, int]]:
    """Yield name, and inputs plus outputs, of every linear layer of a language model's blocks."""
    text = fields["text_config"]
    width, inner = text["hidden_size"], text["intermediate_size"]
    queries, keys = text["num_attention_heads"] * head_size(text), key_width(text)
    sizes = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "o_proj": queries}
    sizes |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), inner)
    for _ in range(text["num_hidden_layers"]):
        yield from ((name, width + size) for name, size in sizes.items())


def _picture_layers(fields: Fields) -> Iterator[tuple[str, int]]:
    """Yield the same of every attention of a picture net."""
    names = ("to_q", "to_k", "to_v", "to_out.0")
    if "block_out_channels" not in fields:
        width = transformer_width(fields)
        for _ in range(transformer_layers(fields)):
            yield from ((name, 2 * width) for name in names)
        return
    context = int(fields.get("cross_attention_dim") or 0)
    for layer in unet_layers(fields):
        for _ in range(
            int(fields.get("transformer_layers_per_block", 1)) if layer.kind == "attention" else 0
        ):
            yield from ((name, 2 * layer.outputs) for name in names)
            seen = {"to_k": context, "to_v": context}
            yield from ((name, layer.outputs + seen.get(name, layer.outputs)) for name in names)
