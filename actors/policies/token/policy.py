"""Log-probs of a policy that writes tokens: any language model, with pictures in its context where it reads them.

A ``TokenStream`` holds the very ids that the engine saw, pictures expanded, so nothing is counted or placed here.
Letters: B rows, T tokens (padded), n actions of the batch, V ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from actors.policies.base import CHUNKS, PolicyBatch, TrainablePolicy
from actors.policies.token.checkpoint import (
    OutputHead,
    checkpoint_names,
    copy_beside_weights,
    load_model,
    local_directory,
    sees_pictures,
)
from actors.policies.token.guidance import guided, without_content
from actors.policies.token.pictures import PictureInputs
from actors.policies.token.tokenizer import load_tokenizer, tag_ids
from actors.policies.token.vocabulary import load_processor, picture_mark
from actors.shared.token_rows import ROWS
from configs.derive import token_policy
from configs.schema import PolicyConfig, TokenLoss
from rl.advantage.batching import chunks_of
from rl.loss.actions import ActionScores
from rl.types import Example, TokenStream

MODEL = "model."
"""Begins the names of inputs that the model takes."""
_SCORED = ("target", "temperature", "guidance", "mask_of")
"""Inputs of one value an action that its score is made from, beside its hidden states."""
_PROOF = "What do you see? Nothing."


class PolicyParts(TypedDict):
    """What a policy is made of, read from its checkpoint and configuration."""

    model: nn.Module
    pictures: PictureInputs | None
    directory: Path
    tag_ids: tuple[int, ...]
    entropy_gradient: bool
    is_guided: bool


class TokenPolicy(TrainablePolicy):
    """A language model of transformers, and what prepares the pictures of its contexts.

    With guidance every batch is run twice in one, its second half with grey pictures.

    Args:
        model: The model.
        pictures: Prepares pictures; None for a model that reads none.
        directory: Of the checkpoint.
        tag_ids: Of the chain's tags.
        entropy_gradient: Whether the entropy's gradient is wanted: it costs another table of logits.
        is_guided: Whether rollout uses guidance.
    """

    def __init__(
        self,
        model: nn.Module,
        pictures: PictureInputs | None,
        directory: Path,
        *,
        tag_ids: tuple[int, ...] = (),
        entropy_gradient: bool = False,
        is_guided: bool = False,
    ) -> None:
        super().__init__()
        self._entropy_gradient, self._is_guided = entropy_gradient, is_guided
        self.model: Any = model
        self.pictures = pictures
        self._directory, self._tag_ids = directory, tag_ids
        self._head = OutputHead(model)
        self._names = checkpoint_names(model)
        """Name in the checkpoint's file by name in the tree."""
        self._tree_names = {stored: tree for tree, stored in self._names.items()}
        config: Any = model.config
        layers = getattr(config.get_text_config(), "layer_types", None) or ()
        self._needs_mask = any(layer != "full_attention" for layer in layers)
        """Whether padding behind a row's end could be seen from within it."""

    @classmethod
    def load(cls, directory: Path, config: PolicyConfig, *, block_names: Sequence[str]) -> Self:
        """Read a checkpoint in float32 or bfloat16.

        Args:
            directory: Hugging Face layout, with tokenizer, and with processor where the model reads pictures; or a
                hub name.
            config: The policy's configuration: its ``dtype``, its ``rollout.guidance_scale``, and whether there is a
                ``loss.entropy_weight``.
            block_names: The chain's blocks.

        Raises:
            ConfigError: If transformers does not know the model, or it computes logits in a way that is not known.
        """
        return cls(**load_parts(directory, config, block_names))

    # ------------------------------------------------------------------ batches

    def collate(self, examples: Sequence[Example]) -> PolicyBatch:
        """Pad token streams to one batch and prepare their pictures.

        Args:
            examples: Segments are ``TokenStream``s; each brings its pictures, in order.

        Returns:
            Arrays of actions ``[B, T]`` aligned with the streams, and the inputs of ``forward``.

        Raises:
            TypeError: If a segment is not a token stream.
            ValueError: If there are pictures and the model reads none, or guidance was used and is not configured.
        """
        streams = [stream_of(example) for example in examples]
        if not self._is_guided and any(stream.sampling.guidance != 1 for stream in streams):
            raise ValueError("guidance was sampled with, but the policy's guidance_scale is 1")
        if self.pictures is None and any(example.pictures for example in examples):
            raise ValueError("a chain has pictures in its context, and the policy's model reads none")
        action_mask = _pad(streams, "action_mask", False)
        return PolicyBatch(
            inputs={**self._contexts(examples), **self._actions(streams, action_mask)},
            behaviour_logprobs=_pad(streams, "behaviour_logprobs", 0.0),
            action_mask=action_mask,
            block_of=_pad(streams, "block_of", -1).long(),
        )

    def _contexts(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Return what the model takes, ``[B, S]`` ids, with guidance ``[2B, S]``: the rows again, shown nothing."""
        rows = [token_row(stream_of(example)) for example in examples]
        inputs: dict[str, Tensor] = {}
        if self.pictures is not None:
            dummy, dummy_ids = [self.pictures.dummy], torch.tensor(self.pictures.dummy_ids)
            shown = [list(example.pictures) for example in examples]
            rows = [
                row if seen else torch.cat([row, dummy_ids]) for row, seen in zip(rows, shown, strict=True)
            ]
            unseen = [without_content(seen) for seen in shown] if self._is_guided else []
            inputs = self.pictures.prepared([seen or dummy for seen in (*shown, *unseen)])
        if self._is_guided:
            rows *= 2
        inputs["input_ids"] = pad_sequence(rows, batch_first=True)
        if self.pictures is not None:
            inputs |= self.pictures.types(rows)
        if self._needs_mask:
            inputs["attention_mask"] = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        return {MODEL + name: tensor for name, tensor in inputs.items()}

    def _actions(self, streams: Sequence[TokenStream], action_mask: Tensor) -> dict[str, Any]:
        """List the batch's actions: what was sampled, and the distribution it was sampled from.

        Returns:
            Of each action, ``[n]``: its ``row_of`` and ``column``, the id it sampled (``target``), ``temperature``,
            ``guidance``, which of the ``masks`` was on it; and ``seen_at``, row and column of the hidden state that it
            follows from, ``[n, 1, 2]``, with guidance ``[n, 2, 2]``: also of that without its condition.
        """
        row_of, column = torch.nonzero(action_mask, as_tuple=True)
        samplings = [stream.sampling for stream in streams]
        forbidden = list(dict.fromkeys(sampling.forbidden_ids for sampling in samplings))
        firsts = (0, len(streams)) if self._is_guided else (0,)
        return {
            "row_of": row_of,
            "column": column,
            "seen_at": torch.stack([torch.stack([first + row_of, column - 1], 1) for first in firsts], 1),
            "target": _pad(streams, "tokens", 0).long()[row_of, column],
            "shape": torch.tensor(action_mask.shape),
            CHUNKS: chunks_of(len(row_of)),
            "temperature": torch.tensor([s.temperature or 1.0 for s in samplings], dtype=torch.float32)[
                row_of
            ],
            "guidance": torch.tensor([s.guidance for s in samplings], dtype=torch.float32)[row_of],
            "mask_of": torch.tensor([forbidden.index(s.forbidden_ids) for s in samplings])[row_of],
            "masks": pad_sequence(
                [torch.tensor(ids, dtype=torch.int64) for ids in forbidden],
                batch_first=True,
                padding_value=-1,
            ),
        }

    # ------------------------------------------------------------------ scores

    def forward(self, inputs: Mapping[str, Tensor]) -> ActionScores:
        """Score every action under the distribution it was sampled from.

        Args:
            inputs: Of ``collate``, on the model's device.

        Returns:
            Log-probs and entropy ``[B, T]``, nats, float32; 0 where nothing was sampled. The entropy has a
            gradient only where there is a bonus on it: it costs another table of logits.
        """
        hidden = self.hidden_states(inputs)
        chosen = hidden[inputs["seen_at"][..., 0], inputs["seen_at"][..., 1]]
        split = [torch.tensor_split(x, inputs[CHUNKS]) for x in (chosen, *(inputs[name] for name in _SCORED))]
        scored = [
            checkpoint(self._score, *part, inputs, use_reentrant=False) for part in zip(*split, strict=True)
        ]
        blank = hidden.new_zeros(inputs["shape"].tolist(), dtype=torch.float32)
        places = inputs["row_of"], inputs["column"]
        logprobs, entropy = (
            blank.index_put(places, torch.cat(values)) for values in zip(*scored, strict=True)
        )
        return ActionScores(logprobs=logprobs, entropy=entropy)

    def hidden_states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run the model up to its output matrix, ``[B, S, width]``, with guidance ``[2B, S, width]``.

        Rows are padded behind their ends, where a causal model does not look, so most need no mask.
        """
        taken = {
            name.removeprefix(MODEL): tensor for name, tensor in inputs.items() if name.startswith(MODEL)
        }
        hidden: Tensor = self.model.base_model(**taken, use_cache=False).last_hidden_state
        return hidden

    def _score(
        self,
        hidden: Tensor,
        target: Tensor,
        temperature: Tensor,
        guidance: Tensor,
        mask_of: Tensor,
        inputs: Mapping[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return log-prob and entropy of some actions, ``[n]`` each, from ``[n, 1 or 2, width]``."""
        logits, *unconditional = self._head(hidden).unbind(1)
        if unconditional:
            logits = guided(logits, unconditional[0], guidance)
        logits = self._masked(logits / temperature[:, None], mask_of, inputs)
        table = torch.log_softmax(logits, dim=-1)
        with torch.set_grad_enabled(self._entropy_gradient and torch.is_grad_enabled()):
            entropy = -(table.exp() * table.masked_fill(table == -torch.inf, 0.0)).sum(-1)
        return table.gather(-1, target[:, None])[:, 0], entropy

    def _masked(self, logits: Tensor, mask_of: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Give ids that could not be sampled probability 0, ``[n, V]``."""
        return masked(logits, inputs["masks"], mask_of)

    # ------------------------------------------------------------------ weights

    @property
    def trained_net(self) -> nn.Module:
        """The whole model."""
        model: nn.Module = self.model
        return model

    @property
    def row_ids(self) -> tuple[int, ...]:
        """Those of the chain's tags."""
        return self._tag_ids

    def published(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield every parameter under its name in the checkpoint's file, which vLLM's loader takes for every family.

        Adapters, trained rows and what they are beside follow their layer's name.
        """
        for name, parameter in self.model.named_parameters():
            yield renamed(name, self._names), parameter

    def net_name(self, published: str) -> str:
        """Return the name in transformers' tree."""
        return renamed(published, self._tree_names)

    def export(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Write the Hugging Face layout: weights, configuration, processor and tokenizer."""
        copy_beside_weights(self._directory, directory)
        in_tree = {self.net_name(name): tensor for name, tensor in weights.items()}
        self.model.save_pretrained(directory, state_dict=in_tree)


def load_parts(directory: Path, config: PolicyConfig, block_names: Sequence[str]) -> PolicyParts:
    """Read what a policy is made of; arguments and errors as of ``TokenPolicy.load``."""
    directory = local_directory(directory)
    model = load_model(directory, config.dtype)
    tokenizer = load_tokenizer(directory)
    ids = torch.tensor([tokenizer.encode(_PROOF, add_special_tokens=False)])
    OutputHead(model).prove(model, {"input_ids": ids})
    pictures = None
    if sees_pictures(model.config):
        processor = load_processor(directory)
        pictures = PictureInputs(processor, picture_mark(processor, tokenizer, model.config))
    return PolicyParts(
        model=model,
        pictures=pictures,
        directory=directory,
        tag_ids=tag_ids(tokenizer, block_names),
        entropy_gradient=isinstance(config.loss, TokenLoss) and config.loss.entropy_weight > 0,
        is_guided=token_policy(config).rollout.guidance_scale != 1,
    )


def masked(logits: Tensor, masks: Tensor, mask_of: Tensor) -> Tensor:
    """Give forbidden ids probability 0.

    Args:
        logits: ``[n, V]``; gradient flows.
        masks: ``[m, k]`` ids of each mask, padded with -1.
        mask_of: ``[n]`` mask of each row.

    Returns:
        ``[n, V]``, -inf where an id is forbidden.
    """
    if len(masks) == 1:
        return logits.index_fill(-1, masks[0, masks[0] >= 0], -torch.inf)
    ids = masks[mask_of]
    row, place = torch.nonzero(ids >= 0, as_tuple=True)
    return logits.index_put((row, ids[row, place]), logits.new_tensor(-torch.inf))


def renamed(name: str, names: Mapping[str, str]) -> str:
    """Return a parameter's other name; those of adapters and of layers that have one follow the layer's weight."""
    for mark in (".base_layer.", ".lora_", ROWS):
        layer, found, rest = name.partition(mark)
        if found:
            leaf = f".{rest}" if mark == ".base_layer." else ".weight"
            return names[layer + leaf].removesuffix(leaf) + found + rest
    return names[name]


def stream_of(example: Example) -> TokenStream:
    """Return the token stream of an example.

    Raises:
        TypeError: If it has another segment.
    """
    if not isinstance(example.segment, TokenStream):
        raise TypeError(f"a token policy cannot score a {type(example.segment).__name__}")
    return example.segment


def token_row(stream: TokenStream) -> Tensor:
    """Return its ids, ``int64[L]``."""
    return torch.from_numpy(np.array(stream.tokens, dtype=np.int64))


def _pad(streams: Sequence[TokenStream], field: str, value: float) -> Tensor:
    """Stack one array of all streams, ``[B, T]``."""
    rows = [torch.from_numpy(np.array(getattr(stream, field))) for stream in streams]
    return pad_sequence(rows, batch_first=True, padding_value=value)
