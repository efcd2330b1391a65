"""Token rows: some rows of a language model's embeddings, trained beside its adapters.

Tags that a checkpoint did not know are tokens whose rows say nothing yet, and low-rank adapters of other layers cannot
change them. So the rows themselves are trained, whole and apart from the frozen matrix: once where input and output
share it, else once for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rl.errors import ConfigError

ROWS = ".token_rows"
"""Ends the published name of trained rows, behind that of their layer."""
PEFT_ROWS = ".token_adapter.trainable_tokens_delta"
"""What peft calls them in an adapter's file."""


class TokenRows(nn.Module):
    """An embedding or an output matrix that computes with some rows of its own.

    Args:
        base_layer: What is frozen.
        ids: Numbers of the rows, all different.
        rows: ``[len(ids), width]``; None begins with the frozen layer's.
    """

    ids: Tensor

    def __init__(self, base_layer: Any, ids: Sequence[int], rows: nn.Parameter | None = None) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.register_buffer("ids", torch.tensor(ids), persistent=False)
        self.token_rows = (
            nn.Parameter(base_layer.weight.detach()[list(ids)].clone()) if rows is None else rows
        )
        self.is_on = True

    def forward(self, inputs: Tensor) -> Tensor:
        """Embed ids ``[...]``, or return logits ``[..., V]`` of hidden states ``[..., width]``."""
        outputs: Tensor = self.base_layer(inputs)
        if not self.is_on:
            return outputs
        if not isinstance(self.base_layer, nn.Embedding):
            return outputs.index_copy(-1, self.ids, functional.linear(inputs, self.token_rows))
        is_row = inputs[..., None] == self.ids
        rows = (
            is_row.to(self.token_rows.dtype) @ self.token_rows * getattr(self.base_layer, "embed_scale", 1.0)
        )
        return torch.where(is_row.any(-1, keepdim=True), rows.to(outputs.dtype), outputs)


def add_token_rows(model: Any, ids: Sequence[int], *, key: str) -> None:
    """Have a language model of transformers train rows of its embeddings, in place.

    Args:
        model: Has ``get_input_embeddings`` and ``get_output_embeddings``, and sets them.
        ids: Numbers of the rows.
        key: The configuration key of the adapters, for messages.

    Raises:
        ConfigError: If the output matrix has a bias, which would need a place too.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise ConfigError(
            f"{key}: tags need rows of the output matrix, and that of {type(model).__name__} has a bias; leave lora out"
        )
    inputs = TokenRows(embedding, ids)
    is_tied = head.weight is embedding.weight
    model.set_input_embeddings(inputs)
    model.set_output_embeddings(TokenRows(head, ids, inputs.token_rows if is_tied else None))


def switch_token_rows(net: nn.Module, *, on: bool) -> None:
    """Have a net compute with its trained rows, or with those it started from."""
    for module in net.modules():
        if isinstance(module, TokenRows):
            module.is_on = on


def with_rows(weight: Tensor, ids: Sequence[int], rows: Tensor) -> Tensor:
    """Return a copy of a matrix with some of its rows replaced."""
    index = torch.tensor(ids, device=weight.device)
    return weight.index_copy(0, index, rows.to(weight.device, weight.dtype))


def peft_rows(names: Mapping[str, Tensor], ids: Sequence[int]) -> dict[str, list[int]] | None:
    """Return what peft is told of trained rows: their numbers by their layer's name; None where there are none."""
    layers = [name.removesuffix(ROWS).rpartition(".")[2] for name in names if name.endswith(ROWS)]
    return {layer: list(ids) for layer in layers} or None
