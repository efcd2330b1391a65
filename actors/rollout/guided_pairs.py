"""Queue of guided requests: keeps the two rows of each in step, with the pictures and without them.

Both rows must be in every step of the engine together, or their logits cannot be combined. The engine's scheduler
knows nothing of pairs and would cut one in two wherever a step, its rows or its cache are full. So a pair waits
here until there is certainly room for all that both rows will ever need. Whether they kept in step is proved for
every pair all the same.

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
class Pair:
    """One guided request."""

    key: str
    """Of its first row; the second has ``UNCONDITIONAL`` behind it."""
    name: str
    """What errors call it."""
    requests: tuple[Any, Any]
    """Of both rows, as the engine takes them."""
    length: int
    """Tokens of either prompt, pictures expanded."""
    max_tokens: int
    """Most tokens sampled."""

    @property
    def keys(self) -> tuple[str, str]:
        """Of both rows."""
        return self.key, self.key + UNCONDITIONAL

    def blocks(self, block_tokens: int) -> int:
        """Cache blocks both rows need to their ends, none shared."""
        return 2 * -(-(self.length + self.max_tokens) // block_tokens)


class GuidedPairQueue:
    """Pairs that wait for room, and pairs under way."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._waiting: deque[Pair] = deque()
        self._under_way: dict[str, Pair] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether a pair has not started."""
        return bool(self._waiting)

    def put(self, pair: Pair) -> None:
        """Take a pair in; it starts when there is room.

        Raises:
            ValueError: If there would never be room.
        """
        room = self._room
        if (
            2 * pair.length > room.step_tokens
            or pair.blocks(room.block_tokens) > room.blocks
            or room.rows < 2
        ):
            raise ValueError(
                f"{pair.name}: guidance needs two rows of {pair.length} tokens in one step of the engine, which "
                f"takes {room.step_tokens} tokens and {room.rows} rows and caches "
                f"{room.blocks * room.block_tokens} tokens"
            )
        self._waiting.append(pair)

    def start(self) -> list[Pair]:
        """Return the pairs that start with the coming step, in order: those for which there is room."""
        started: list[Pair] = []
        tokens = rows = 2 * len(self._under_way)
        blocks = sum(pair.blocks(self._room.block_tokens) for pair in self._under_way.values())
        while self._waiting:
            first = self._waiting[0]
            tokens, rows = tokens + 2 * first.length, rows + 2
            blocks += first.blocks(self._room.block_tokens)
            if tokens > self._room.step_tokens or rows > self._room.rows or blocks > self._room.blocks:
                break
            started.append(self._waiting.popleft())
        self._under_way |= {pair.key: pair for pair in started}
        return started

    def finish(self, finished: Mapping[str, Any]) -> dict[str, Any]:
        """Return the first row's output of each pair that finished in this step.

        Args:
            finished: vLLM's finished outputs of the step by row.

        Raises:
            RolloutError: If one row finished without the other, or they wrote differently.
        """
        done: dict[str, Any] = {}
        for pair in [p for p in self._under_way.values() if any(key in finished for key in p.keys)]:
            seen, unseen = (finished.get(key) for key in pair.keys)
            if seen is None or unseen is None or _written(seen) != _written(unseen):
                raise RolloutError(
                    f"{pair.name}: the rows with and without pictures did not keep in step, so its guidance is "
                    "wrong; set the policy's guidance_scale=1"
                )
            done[pair.key] = seen
            del self._under_way[pair.key]
        return done

    def forget(self, keys: Sequence[str]) -> list[str]:
        """Drop unfinished pairs by key and return the rows of those that had started."""
        self._waiting = deque(pair for pair in self._waiting if pair.key not in keys)
        dropped = [self._under_way.pop(key) for key in keys if key in self._under_way]
        return [row for pair in dropped for row in pair.keys]


def _written(output: Any) -> tuple[list[int], list[float], str]:
    """Return what a row wrote: ids, their log-probs, and why it ended."""
    (completion,) = output.outputs
    return (
        list(completion.token_ids),
        list(completion.logprobs.logprobs),
        str(completion.finish_reason),
    )
