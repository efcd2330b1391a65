"""Log-probs of a policy that writes text and pictures as ids of one vocabulary.

Every action is scored under the mask it was sampled with, which follows from the id itself: a code was sampled among
codes, any other id among text; forced ids are no actions. With guidance a picture's codes are scored in their context
and in that of the picture alone; a row's pictures stand one behind another in one further row, where each begins at
position 0 and sees nothing but itself. Letters: B rows, n actions of the batch, V ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from actors.policies.token.policy import MODEL, PolicyParts, TokenPolicy, load_parts, stream_of, token_row
from actors.policies.unified.vocabulary import CODE_ROW, UnifiedVocabulary, load_unified_vocabulary
from configs.schema import PolicyConfig
from rl.errors import ConfigError
from rl.types import Example, TokenStream

TOLERANCE = 1e-3
"""Most that a hidden state of a picture may differ beside others, in parts of the largest."""


class UnifiedPolicy(TokenPolicy):
    """A causal language model over text ids and codes.

    Args:
        vocabulary: Of the checkpoint.
        parts: Of ``TokenPolicy``.

    Raises:
        ConfigError: If there is guidance, and the model sees across pictures that stand in one row.
    """

    def __init__(self, *, vocabulary: UnifiedVocabulary, **parts: Unpack[PolicyParts]) -> None:
        super().__init__(**parts)
        self._masks, self._begin = torch.from_numpy(vocabulary.masks), vocabulary.begin
        if self._is_guided:
            self._prove(vocabulary.pictures.layout(1, 1).opening)

    @classmethod
    def load(cls, directory: Path, config: PolicyConfig, *, block_names: Sequence[str]) -> Self:
        """Read a checkpoint; arguments and errors as of ``TokenPolicy.load``."""
        vocabulary = load_unified_vocabulary(directory, block_names)
        return cls(vocabulary=vocabulary, **load_parts(directory, config, block_names))

    def _contexts(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Return what the model takes, with guidance the pictures alone in rows ``[B:2B]``."""
        if not self._is_guided:
            return super()._contexts(examples)
        rows = [token_row(stream_of(example)) for example in examples]
        alone = [self._alone(stream_of(example)) for example in examples]
        ids = [*rows, *(row[places] for row, (places, _) in zip(rows, alone, strict=True))]
        positions = [*(torch.arange(len(row)) for row in rows), *(place for _, place in alone)]
        return {
            MODEL + "input_ids": pad_sequence(ids, batch_first=True),
            MODEL + "position_ids": pad_sequence(positions, batch_first=True),
        }

    def _actions(self, streams: Sequence[TokenStream], action_mask: Tensor) -> dict[str, Any]:
        """List the batch's actions; codes have another mask than text, and alone guidance."""
        actions = super()._actions(streams, action_mask)
        is_code = self._masks[CODE_ROW][actions["target"]]
        actions |= {
            "masks": self._masks,
            "mask_of": is_code.long() * CODE_ROW,
            "guidance": torch.where(is_code, actions["guidance"], 1.0),
        }
        if self._is_guided:
            at = actions["seen_at"]
            for row, stream in enumerate(streams):
                of_row = is_code & (actions["row_of"] == row)
                # Both ascend, so the first place that is not less is the very one.
                at[of_row, 1, 1] = torch.searchsorted(self._alone(stream)[0], at[of_row, 0, 1])
            # Text has no second context: it is its own, and mixes to itself.
            at[~is_code, 1] = at[~is_code, 0]
        return actions

    def _alone(self, stream: TokenStream) -> tuple[Tensor, Tensor]:
        """Find what a stream's sampled codes see of their own pictures.

        Returns:
            ``[k]``: places of the stream, ascending: each picture's from its begin to before its last code; and the
            position of each in its picture.
        """
        is_code = self._masks[CODE_ROW][token_row(stream)].numpy() & stream.action_mask
        codes, begins = np.flatnonzero(is_code), np.flatnonzero(stream.tokens == self._begin)
        begin_of = begins[np.searchsorted(begins, codes) - 1]
        spans = [(begin, int(codes[begin_of == begin].max())) for begin in np.unique(begin_of).tolist()]
        places = [torch.arange(begin, stop) for begin, stop in spans]
        positions = [torch.arange(stop - begin) for begin, stop in spans]
        nothing = torch.zeros(0, dtype=torch.int64)
        return torch.cat([*places, nothing]), torch.cat([*positions, nothing])

    def _masked(self, logits: Tensor, mask_of: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Give ids that could not be sampled probability 0, ``[n, V]``."""
        return logits.masked_fill(~inputs["masks"][mask_of], -torch.inf)

    @torch.no_grad()
    def _prove(self, opening: Sequence[int]) -> None:
        """Compare a picture's states beside others in a row with those alone.

        Raises:
            ConfigError: If they differ.
        """
        codes = torch.nonzero(self._masks[CODE_ROW])[:3, 0]
        picture = torch.cat([torch.tensor(opening), codes])
        twice = torch.cat([picture.flip(0), picture])[None]
        positions = torch.arange(len(picture)).repeat(2)[None]
        alone = self.hidden_states({MODEL + "input_ids": picture[None]})[0]
        beside = self.hidden_states({MODEL + "input_ids": twice, MODEL + "position_ids": positions})
        gap = (beside[0, len(picture) :] - alone).abs().max()
        if self._needs_mask or gap > TOLERANCE * alone.abs().max():
            raise ConfigError(
                f"{type(self.model).__name__}: its layers see from one picture into another within a row, so it "
                "cannot be guided; set rollout.guidance_scale=1"
            )
