"""Queue of a guided engine's requests: keeps the two rows of each in step, with their condition and without it.

Both rows must be in every step of the engine together, or their logits cannot be combined. The engine's scheduler
knows nothing of pairs and would cut one in two wherever a step, its rows or its cache are full. So a request, also one
of a single row, waits here until there is certainly room for all that its rows will ever need. Whether pairs kept in
step is proved for every one all the same.

Knows nothing of vLLM: requests and outputs are opaque.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rl.errors import RolloutError

UNCONDITIONAL = "/unconditional"
"""Ends the key of a pair's second row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the engine has."""

    step_tokens: int
    """Most tokens in one step, over all rows."""
    rows: int
    """Most rows in one step."""
    blocks: int
    """Cache blocks in all."""
    block_tokens: int
    """Tokens of a cache block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """One request: a guided pair, or a single row."""

    key: str
    """Of its first row; a second has ``UNCONDITIONAL`` behind it."""
    name: str
    """What errors call it."""
    requests: tuple[Any, ...]
    """Of each row, as the engine takes them."""
    lengths: tuple[int, ...]
    """Tokens of each prompt, pictures expanded."""
    max_tokens: int
    """Most tokens sampled."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Of each row."""
        return (self.key, self.key + UNCONDITIONAL)[: len(self.requests)]

    def blocks(self, block_tokens: int) -> int:
        """Cache blocks all rows need to their ends, none shared."""
        return sum(-(-(length + self.max_tokens) // block_tokens) for length in self.lengths)


class RowQueue:
    """Requests that wait for room, and requests under way."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._waiting: deque[Rows] = deque()
        self._under_way: dict[str, Rows] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether a request has not started."""
        return bool(self._waiting)

    def put(self, rows: Rows) -> None:
        """Take a request in; it starts when there is room.

        Raises:
            ValueError: If there would never be room.
        """
        room = self._room
        if (
            sum(rows.lengths) > room.step_tokens
            or rows.blocks(room.block_tokens) > room.blocks
            or room.rows < len(rows.requests)
        ):
            raise ValueError(
                f"{rows.name}: guidance needs rows of {rows.lengths} tokens in one step of the engine, which takes "
                f"{room.step_tokens} tokens and {room.rows} rows and caches {room.blocks * room.block_tokens} tokens"
            )
        self._waiting.append(rows)

    def start(self) -> list[Rows]:
        """Return the requests that start with the coming step, in order: those for which there is room."""
        started: list[Rows] = []
        tokens = num_rows = sum(len(rows.requests) for rows in self._under_way.values())
        blocks = sum(rows.blocks(self._room.block_tokens) for rows in self._under_way.values())
        while self._waiting:
            first = self._waiting[0]
            tokens, num_rows = tokens + sum(first.lengths), num_rows + len(first.requests)
            blocks += first.blocks(self._room.block_tokens)
            if tokens > self._room.step_tokens or num_rows > self._room.rows or blocks > self._room.blocks:
                break
            started.append(self._waiting.popleft())
        self._under_way |= {rows.key: rows for rows in started}
        return started

    def finish(self, finished: Mapping[str, Any]) -> dict[str, Any]:
        """Return the first row's output of each request that finished in this step.

        Args:
            finished: vLLM's finished outputs of the step by row.

        Raises:
            RolloutError: If one row of a pair finished without the other, or they wrote differently.
        """
        done: dict[str, Any] = {}
        for rows in [r for r in self._under_way.values() if any(key in finished for key in r.keys)]:
            outputs = [finished.get(key) for key in rows.keys]
            if any(output is None or _written(output) != _written(outputs[0]) for output in outputs):
                raise RolloutError(
                    f"{rows.name}: the rows with and without their condition did not keep in step, so its guidance is "
                    "wrong; set the policy's guidance_scale=1"
                )
            done[rows.key] = outputs[0]
            del self._under_way[rows.key]
        return done

    def forget(self, keys: Sequence[str]) -> list[str]:
        """Drop unfinished requests by key and return the rows of those that had started."""
        self._waiting = deque(rows for rows in self._waiting if rows.key not in keys)
        dropped = [self._under_way.pop(key) for key in keys if key in self._under_way]
        return [row for rows in dropped for row in rows.keys]


def _written(output: Any) -> tuple[list[int], list[float], str]:
    """Return what a row wrote: ids, their log-probs, and why it ended."""
    (completion,) = output.outputs
    return (
        list(completion.token_ids),
        list(completion.logprobs.logprobs),
        str(completion.finish_reason),
    )
