"""Log-probs of a policy that writes tokens and sees pictures: any Qwen2.5-VL.

A ``TokenStream`` has one placeholder a picture; here, and nowhere else, placeholders are expanded to as many
tokens as the picture costs. What comes out is aligned with the stream again. Letters: B rows, T stream tokens
(padded), S expanded tokens (padded), n actions of the batch, V ids.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from actors.policies.base import PolicyBatch, TrainablePolicy
from actors.policies.token.guidance import guided, without_content
from actors.policies.token.tokenizer import load_tokenizer, tag_vocabulary
from configs.schema import PolicyConfig, TokenLoss
from rl.compat.torchvision import ensure_torchvision
from rl.loss.actions import ActionScores
from rl.types import Example, Pixels, TextSampling, TokenStream

NUM_CHUNKS = 4
"""Parts in which a batch's actions are turned to log-probs, so that logits of one part are held at a time.
Fixed: every rank must call the output matrix equally often (ZeRO stage 3 gathers it each time)."""
DUMMY_PX = 28
"""Edge of the black picture that a row without pictures gets behind its end, where nothing sees it."""
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One expanded stream."""

    tokens: Tensor
    """``[s]`` int64: placeholders repeated, a dummy picture behind the end where there was none."""
    position_of: Tensor
    """``[t]`` int64: where each stream token went (its first copy)."""


class TokenPolicy(TrainablePolicy):
    """A Qwen2.5-VL and its image processor.

    With guidance every batch is run twice in one, its second half with grey pictures.
    """

    def __init__(
        self,
        model: nn.Module,
        image_processor: Any,
        directory: Path,
        *,
        entropy_gradient: bool = False,
        is_guided: bool = False,
    ) -> None:
        super().__init__()
        self._entropy_gradient, self._is_guided = entropy_gradient, is_guided
        self.model: Any = model
        self._image_processor = image_processor
        self._directory = directory
        config: Any = model.config
        self._image_token = int(config.image_token_id)
        self._vision_start = int(config.vision_start_token_id)
        self._vision_end = int(config.vision_end_token_id)
        self._num_ids = int(config.get_text_config().vocab_size)

    @classmethod
    def load(cls, directory: Path, config: PolicyConfig, *, block_names: Sequence[str]) -> Self:
        """Read a Qwen2.5-VL checkpoint in float32 or bfloat16.

        Args:
            directory: Hugging Face layout, with processor and tokenizer.
            config: The policy's configuration: its ``dtype``, its ``rollout.guidance_scale``, and whether there is a
                ``loss.entropy_weight``.
            block_names: The chain's blocks; every tag must be one token.

        Raises:
            ConfigError: If a tag is missing from the vocabulary.
        """
        ensure_torchvision()
        from transformers import AutoImageProcessor, Qwen2_5_VLForConditionalGeneration

        tag_vocabulary(load_tokenizer(directory), block_names)
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            directory, dtype=getattr(torch, config.dtype), attn_implementation="sdpa"
        )
        processor = AutoImageProcessor.from_pretrained(directory, trust_remote_code=False)
        return cls(
            model,
            processor,
            Path(directory),
            entropy_gradient=isinstance(config.loss, TokenLoss) and config.loss.entropy_weight > 0,
            is_guided=config.rollout.guidance_scale != 1,
        )

    # ------------------------------------------------------------------ batches

    def collate(self, examples: Sequence[Example]) -> PolicyBatch:
        """Pad token streams to one batch and turn their pictures into patches.

        Args:
            examples: Segments are ``TokenStream``s; each brings one picture a placeholder, in order.

        Returns:
            Arrays of actions ``[B, T]`` aligned with the streams, and the inputs of ``forward``.

        Raises:
            TypeError: If a segment is not a token stream.
            ValueError: If pictures and placeholders differ in number, or guidance was used and is not configured.
        """
        streams = [_stream(example) for example in examples]
        if not self._is_guided and any(stream.sampling.guidance != 1 for stream in streams):
            raise ValueError("guidance was sampled with, but the policy's guidance_scale is 1")
        patches, grids = self._patches(examples)
        counts = (grids.prod(dim=1) // self._image_processor.merge_size**2).tolist()
        rows, first = [], 0
        for stream, example in zip(streams, examples, strict=True):
            num = max(1, len(example.pictures))
            rows.append(self._expand(stream, counts[first : first + num], bool(example.pictures)))
            first += num
        action_mask = _pad(streams, "action_mask", False)
        inputs = {
            **self._sequences(rows, grids),
            **self._actions(streams, rows, action_mask),
            "pixel_values": patches,
            "image_grid_thw": grids,
        }
        return PolicyBatch(
            inputs=self._doubled(inputs, examples) if self._is_guided else inputs,
            behaviour_logprobs=_pad(streams, "behaviour_logprobs", 0.0),
            action_mask=action_mask,
            block_of=_pad(streams, "block_of", -1).long(),
        )

    def _patches(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Turn all pictures of all rows, in order, into patches and grids ``[pictures, 3]``."""
        dummy: Pixels = np.zeros((DUMMY_PX, DUMMY_PX, 3), dtype=np.uint8)
        pictures = [p for example in examples for p in (example.pictures or (dummy,))]
        done = self._image_processor(pictures, return_tensors="pt")
        return done["pixel_values"], done["image_grid_thw"]

    def _doubled(self, inputs: Mapping[str, Tensor], examples: Sequence[Example]) -> dict[str, Tensor]:
        """Append the rows without their pictures' content: ``[2B, S]``, ids and positions twice."""
        grey, _ = self._patches([replace(e, pictures=tuple(without_content(e.pictures))) for e in examples])
        scales = [_stream(example).sampling.guidance for example in examples]
        return {
            **inputs,
            "input_ids": torch.cat([inputs["input_ids"]] * 2),
            "position_ids": torch.cat([inputs["position_ids"]] * 2, dim=1),
            "pixel_values": torch.cat([inputs["pixel_values"], grey]),
            "image_grid_thw": torch.cat([inputs["image_grid_thw"]] * 2),
            "guidance": torch.tensor(scales, dtype=torch.float32),
        }

    def _expand(self, stream: TokenStream, counts: Sequence[int], has_pictures: bool) -> _Row:
        """Repeat each placeholder as often as its picture costs tokens."""
        tokens = torch.from_numpy(np.array(stream.tokens, dtype=np.int64))
        repeats = torch.ones_like(tokens)
        places = torch.nonzero(tokens == self._image_token).flatten()
        if len(places) != (len(counts) if has_pictures else 0):
            raise ValueError(f"{len(places)} placeholders, but {len(counts) if has_pictures else 0} pictures")
        if has_pictures:
            repeats[places] = torch.tensor(counts)
        expanded = tokens.repeat_interleave(repeats)
        if not has_pictures:
            dummy = [self._vision_start, *[self._image_token] * counts[0], self._vision_end]
            expanded = torch.cat([expanded, torch.tensor(dummy)])
        return _Row(tokens=expanded, position_of=repeats.cumsum(0) - repeats)

    def _sequences(self, rows: Sequence[_Row], grids: Tensor) -> dict[str, Tensor]:
        """Pad expanded tokens to ``[B, S]`` and count their positions in time, height and width ``[3, B, S]``."""
        input_ids = pad_sequence([row.tokens for row in rows], batch_first=True)
        is_real = pad_sequence([torch.ones_like(row.tokens) for row in rows], batch_first=True)
        position_ids, _ = self.model.model.get_rope_index(
            input_ids,
            mm_token_type_ids=(input_ids == self._image_token).int(),
            image_grid_thw=grids,
            attention_mask=is_real,
        )
        return {"input_ids": input_ids, "position_ids": position_ids}

    def _actions(
        self, streams: Sequence[TokenStream], rows: Sequence[_Row], action_mask: Tensor
    ) -> dict[str, Tensor]:
        """List the batch's actions: what was sampled, and which expanded position it was sampled from."""
        row_of, column = torch.nonzero(action_mask, as_tuple=True)
        position_of = pad_sequence([row.position_of for row in rows], batch_first=True)
        samplings = [stream.sampling for stream in streams]
        return {
            "row_of": row_of,
            "column": column,
            "source": position_of[row_of, column] - 1,
            "target": _pad(streams, "tokens", 0).long()[row_of, column],
            "shape": torch.tensor(action_mask.shape),
            "temperature": torch.tensor([s.temperature or 1.0 for s in samplings], dtype=torch.float32),
            "forbidden": self._forbidden(samplings),
        }

    def _forbidden(self, samplings: Sequence[TextSampling]) -> Tensor:
        """Mark the ids each row could not sample, ``[B, V]`` bool."""
        forbidden = torch.zeros(len(samplings), self._num_ids, dtype=torch.bool)
        for row, sampling in enumerate(samplings):
            forbidden[row, list(sampling.forbidden_ids)] = True
        return forbidden

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
        row_of, column = inputs["row_of"], inputs["column"]
        rows, columns = inputs["shape"].tolist()
        # With guidance [n, 2, width]: each action in its row, and in that row without its pictures' content.
        halves = [hidden[first + row_of, inputs["source"]] for first in range(0, len(hidden), rows)]
        chosen = torch.stack(halves, dim=1)
        parts = zip(
            *(torch.tensor_split(x, NUM_CHUNKS) for x in (chosen, inputs["target"], row_of)), strict=True
        )
        scored = [checkpoint(self._score, *part, inputs, use_reentrant=False) for part in parts]
        blank = hidden.new_zeros((rows, columns), dtype=torch.float32)
        logprobs, entropy = (
            blank.index_put((row_of, column), torch.cat(values)) for values in zip(*scored, strict=True)
        )
        return ActionScores(logprobs=logprobs, entropy=entropy)

    def hidden_states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run the model up to its output matrix, ``[B, S, width]``, with guidance ``[2B, S, width]``.

        Rows are padded behind their ends, where a causal model does not look, so no mask is needed.
        """
        output = self.model.model(
            input_ids=inputs["input_ids"],
            position_ids=inputs["position_ids"],
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
            use_cache=False,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _score(
        self, hidden: Tensor, target: Tensor, row_of: Tensor, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return log-prob and entropy of some actions, ``[n]`` each, from ``[n, 1 or 2, width]``."""
        forbidden = inputs["forbidden"]
        logits, *unconditional = self.model.lm_head(hidden).float().unbind(1)
        if unconditional:
            logits = guided(logits, unconditional[0], inputs["guidance"][row_of])
        logits = logits / inputs["temperature"][row_of, None]
        logits = logits.masked_fill(forbidden[row_of], -torch.inf)
        table = torch.log_softmax(logits, dim=-1)
        with torch.set_grad_enabled(self._entropy_gradient and torch.is_grad_enabled()):
            entropy = -(table.exp() * table.masked_fill(forbidden[row_of], 0.0)).sum(-1)
        return table.gather(-1, target[:, None])[:, 0], entropy

    # ------------------------------------------------------------------ weights

    @property
    def trained_net(self) -> nn.Module:
        """The whole model."""
        model: nn.Module = self.model
        return model

    def published(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield every parameter under its transformers name, which vLLM's loader takes as well."""
        yield from self.model.named_parameters()

    def export(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Write the Hugging Face layout: weights, configuration, processor and tokenizer."""
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copytree(
            self._directory, directory, ignore=shutil.ignore_patterns(*_WEIGHTS), dirs_exist_ok=True
        )
        self.model.save_pretrained(directory, state_dict=dict(weights))


def _stream(example: Example) -> TokenStream:
    if not isinstance(example.segment, TokenStream):
        raise TypeError(f"a token policy cannot score a {type(example.segment).__name__}")
    return example.segment


def _pad(streams: Sequence[TokenStream], field: str, value: float) -> Tensor:
    """Stack one array of all streams, ``[B, T]``."""
    rows = [torch.from_numpy(np.array(getattr(stream, field))) for stream in streams]
    return pad_sequence(rows, batch_first=True, padding_value=value)
