"""Guidance inside vLLM's sampler: two rows' logits become one distribution, for both.

vLLM loads the class by name (``logits_processors``) in every process that samples. It runs after forbidden ids
are set to -inf, before plans do their masking, and before temperature, so vLLM's processed log-probs are those of the
combined distribution; both rows sample from the same logits with the same seed, hence the same token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from actors.policies.token.guidance import guided
from actors.rollout.vllm_requests import HALF, Half
from rl.errors import RolloutError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A half in the batch."""

    half: Half
    written: Sequence[int]
    """Ids sampled so far; vLLM's own list, which grows."""


class PairGuidance(LogitsProcessor):  # type: ignore[misc]  # vLLM is not typed for us
    """Combines the logits of each pair's rows."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, _Row] = {}
        """By place in the batch."""

    def is_argmax_invariant(self) -> bool:
        """Return False: it must run for greedy rows too, and before temperature."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow rows as they come, go and move."""
        process_dict_updates(self._rows, batch_update, _row)

    def apply(self, logits: Tensor) -> Tensor:
        """Replace both rows of every pair, in place.

        Raises:
            RolloutError: If a pair's rows are not both there, or not at the same token.
        """
        if not self._rows:
            return logits
        seen, unseen, scales = pairs_of(self._rows)
        first, second = (torch.tensor(rows, device=logits.device) for rows in (seen, unseen))
        scale = torch.tensor(scales, dtype=logits.dtype, device=logits.device)
        mixed = guided(logits[first], logits[second], scale)
        logits[first] = mixed
        logits[second] = mixed
        return logits


def pairs_of(rows: Mapping[int, _Row]) -> tuple[list[int], list[int], list[float]]:
    """Return the places of each pair's rows, conditional and unconditional, and its scale.

    Raises:
        RolloutError: If a pair's rows are not both there, or not at the same token.
    """
    seen = {row.half.pair: place for place, row in rows.items() if row.half.is_conditional}
    unseen = {row.half.pair: place for place, row in rows.items() if not row.half.is_conditional}
    for row in rows.values():
        places = [half.get(row.half.pair, -1) for half in (seen, unseen)]
        if min(places) < 0 or rows[places[0]].written != rows[places[1]].written:
            raise RolloutError(
                f"{row.half.name}: the rows with and without their condition are not in the same step, so it cannot "
                "be guided; set the policy's guidance_scale=1"
            )
    scales = [rows[place].half.scale for place in seen.values()]
    return list(seen.values()), [unseen[pair] for pair in seen], scales


def _row(params: SamplingParams, prompt: list[int] | None, written: list[int]) -> _Row | None:
    half = (params.extra_args or {}).get(HALF)
    return None if half is None else _Row(half=half, written=written)
