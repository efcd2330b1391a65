"""Guidance inside vLLM's sampler: two rows' logits become one distribution, for both.

vLLM loads the class by name (``logits_processors``) in every process that samples. It runs after forbidden ids
are set to -inf and before temperature, so vLLM's processed log-probs are those of the combined distribution; both
rows sample from the same logits with the same seed, hence the same token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from actors.policies.guidance import guided
from rl.errors import RolloutError

ARGUMENT = "guidance"
"""Key in a request's ``extra_args``; the value is ``row_arguments``."""


def row_arguments(pair: str, *, name: str, scale: float, is_conditional: bool) -> dict[str, object]:
    """Return what a request carries to be half of a pair.

    Args:
        pair: Key that both rows share and no other unfinished request has.
        name: What errors call the request.
        scale: Guidance g.
        is_conditional: Whether this row sees the pictures.
    """
    return {ARGUMENT: {"pair": pair, "name": name, "scale": scale, "is_conditional": is_conditional}}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Half:
    """One row of a pair."""

    pair: str
    name: str
    scale: float
    is_conditional: bool
    written: Sequence[int]
    """Ids sampled so far; vLLM's own list, which grows."""


class PairGuidance(LogitsProcessor):  # type: ignore[misc]  # vLLM is not typed for us
    """Combines the logits of each pair's rows."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._device = device
        self._halves: dict[int, _Half] = {}
        """By row of the batch."""

    def is_argmax_invariant(self) -> bool:
        """Return False: it must run for greedy rows too, and before temperature."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow rows as they come, go and move."""
        process_dict_updates(self._halves, batch_update, _half)

    def apply(self, logits: Tensor) -> Tensor:
        """Replace both rows of every pair, in place.

        Raises:
            RolloutError: If a pair's rows are not both there, or not at the same token.
        """
        if not self._halves:
            return logits
        seen, unseen, scales = pairs_of(self._halves)
        first, second = (torch.tensor(rows, device=logits.device) for rows in (seen, unseen))
        scale = torch.tensor(scales, dtype=logits.dtype, device=logits.device)
        mixed = guided(logits[first], logits[second], scale)
        logits[first] = mixed
        logits[second] = mixed
        return logits


def pairs_of(halves: Mapping[int, _Half]) -> tuple[list[int], list[int], list[float]]:
    """Return each pair's conditional and unconditional row, and its scale.

    Raises:
        RolloutError: If a pair's rows are not both there, or not at the same token.
    """
    rows: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for row, half in halves.items():
        rows[half.is_conditional][half.pair] = row
    unseen, seen = rows
    for half in halves.values():
        pair = half.pair
        both = pair in seen and pair in unseen
        if not both or list(halves[seen[pair]].written) != list(halves[unseen[pair]].written):
            raise RolloutError(
                f"{half.name}: the rows with and without pictures are not in the same step, so it cannot be "
                "guided; set the policy's guidance_scale=1"
            )
    return list(seen.values()), [unseen[pair] for pair in seen], [halves[row].scale for row in seen.values()]


def _half(params: SamplingParams, prompt: list[int] | None, written: list[int]) -> _Half | None:
    extra: Mapping[str, Any] = params.extra_args or {}
    arguments = extra.get(ARGUMENT)
    return None if arguments is None else _Half(**arguments, written=written)
