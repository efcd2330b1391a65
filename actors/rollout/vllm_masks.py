"""Masks inside vLLM's sampler: ids that a request may not sample get probability 0.

vLLM loads the class by name (``logits_processors``) in every process that samples. Only the forbidden ids are named,
and a batch in which all rows forbid the same costs one write to a few columns.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from actors.rollout.vllm_requests import FORBIDDEN


class ForbiddenIds(LogitsProcessor):  # type: ignore[misc]  # vLLM is not typed for us
    """Forbids ids, before temperature, so that vLLM's processed log-probs are those of what was sampled from."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._device = device
        self._rows: dict[int, tuple[int, ...]] = {}
        """Forbidden ids by place in the batch."""
        self._columns: dict[tuple[int, ...], Tensor] = {}
        """The same ids on the device."""
        self._groups: list[tuple[Tensor | None, Tensor]] = []
        """Rows (None for all there are) and columns that are forbidden in them."""
        self._is_stale = False

    def is_argmax_invariant(self) -> bool:
        """Return False: it must run for greedy rows too."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow rows as they come, go and move."""
        process_dict_updates(self._rows, batch_update, _forbidden)
        self._is_stale |= batch_update is not None

    def apply(self, logits: Tensor) -> Tensor:
        """Forbid, in place."""
        if self._is_stale:
            self._groups = self._grouped(len(logits))
            self._is_stale = False
        for rows, columns in self._groups:
            if rows is None:
                logits.index_fill_(-1, columns, -torch.inf)
            else:
                logits[rows[:, None], columns] = -torch.inf
        return logits

    def _grouped(self, num_rows: int) -> list[tuple[Tensor | None, Tensor]]:
        groups = []
        for ids, rows in rows_by_ids(self._rows).items():
            if ids not in self._columns:
                self._columns[ids] = torch.tensor(ids, device=self._device)
            places = None if len(rows) == num_rows else torch.tensor(rows, device=self._device)
            groups.append((places, self._columns[ids]))
        return groups


def rows_by_ids(forbidden: Mapping[int, tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    """Return the places of the rows that forbid the same ids."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for place, ids in forbidden.items():
        rows.setdefault(ids, []).append(place)
    return rows


def _forbidden(
    params: SamplingParams, prompt: list[int] | None, written: list[int]
) -> tuple[int, ...] | None:
    ids = (params.extra_args or {}).get(FORBIDDEN)
    return tuple(ids) if ids else None
