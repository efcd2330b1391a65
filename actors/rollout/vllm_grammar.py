"""Grammar inside vLLM's sampler: every chain is led through its plan, id by id.

vLLM loads the class by name (``logits_processors``) in every process that samples. It runs behind guidance and before
temperature, so vLLM's processed log-probs are those of what was sampled from, and those of forced ids are exactly 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from actors.policies.unified.vocabulary import CODE_ROW, TEXT_ROW, load_unified_vocabulary
from actors.rollout.text_engine import BLOCK_NAMES
from actors.rollout.vllm_requests import PLANNED, Planned
from rl.chain.plan import TEXT, Walk, walked

FORCED_ROW, FREE_ROW = 2, 3
"""Rows of the table behind the vocabulary's masks: nothing, and anything, may be sampled."""


@dataclass(slots=True)
class _Row:
    """A chain in the batch."""

    walk: Walk
    written: Sequence[int]
    """Ids of this request so far; vLLM's own list, which grows."""
    num_walked: int = 0

    def allowed(self) -> int:
        """Walk on to where the chain is, and return what may come next."""
        for token in self.written[self.num_walked :]:
            self.walk.push(token)
        self.num_walked = len(self.written)
        return self.walk.allowed


class PlanMasks(LogitsProcessor):  # type: ignore[misc]  # vLLM is not typed for us
    """Lets each chain's next id be text, a code, or the one that is forced."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        directory, names = Path(vllm_config.model_config.model), vllm_config.additional_config[BLOCK_NAMES]
        masks = torch.from_numpy(~load_unified_vocabulary(directory, names).masks)
        everything = torch.ones_like(masks[:1])
        self._forbidden = torch.cat([masks, everything, ~everything]).to(device)
        """``[4, V]``"""
        self._rows: dict[int, _Row] = {}
        """By place in the batch."""

    def is_argmax_invariant(self) -> bool:
        """Return False: it must run for greedy rows too, and before temperature."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow rows as they come, go and move."""
        process_dict_updates(self._rows, batch_update, _row)

    def apply(self, logits: Tensor) -> Tensor:
        """Forbid, in place; a step costs four tensor operations, however many chains there are."""
        if not self._rows:
            return logits
        kinds = [FREE_ROW] * len(logits)
        forced: dict[int, int] = {}
        for place, row in self._rows.items():
            allowed = row.allowed()
            if allowed >= 0:
                kinds[place], forced[place] = FORCED_ROW, allowed
            else:
                kinds[place] = TEXT_ROW if allowed == TEXT else CODE_ROW
        device = logits.device
        logits.masked_fill_(self._forbidden[torch.tensor(kinds, device=device)], -torch.inf)
        if forced:
            places, ids = torch.tensor([[*forced], [*forced.values()]], device=device)
            logits[places, ids] = 0.0
        return logits


def _row(params: SamplingParams, prompt: list[int] | None, written: list[int]) -> _Row | None:
    planned: Planned | None = (params.extra_args or {}).get(PLANNED)
    return None if planned is None else _Row(walked(planned.plan, planned.before), written)
