"""Columns: what a plain reward function is told about chains, whichever signature it has.

| column | one entry a chain |
|---|---|
| ``prompts`` | what was asked: as the data file has it, text or messages; else the messages' words, or the group's id |
| ``completions`` | everything written, tags included, ``<|image|>`` in a picture's place |
| ``completion_ids`` | the same as token ids; None where they are not known |
| ``images`` | the pictures that the policies saw, in order, ``uint8[H, W, 3]`` each |
| ``group_id`` | id of the group, ``<prompt>#<step>``: chains of one prompt share it |
| ``chain_id`` | id of the chain, as in the recorded chains |
| ``finish`` | how it ended: ``stop`` (whole), ``length``, ``malformed`` |
| ``block_text`` | body of every closed text block by its name |
| ``pictures`` | finished pictures by block, ``uint8[H, W, 3]`` |
| ``final_picture`` | the last picture, ``uint8[H, W, 3]``, or None where the chain ended before it |

and the prompt's pictures and reference values, each under its own name; None where a prompt does not have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rl.errors import ConfigError
from rl.types import ChainView, Json, TextPart

PROMPT = "prompt"
"""Reference value that is what the data file asks."""


def asked(chain: ChainView) -> Json:
    """Return what a chain was asked; a list of messages where its data file has one."""
    prompt = chain.prompt
    if (given := prompt.reference.get(PROMPT)) is not None:
        return given
    parts = [part for message in prompt.messages for part in message.parts]
    return " ".join(part.text for part in parts if isinstance(part, TextPart)) or chain.group_id


COLUMNS: dict[str, Callable[[ChainView], Any]] = {
    "prompts": asked,
    "completions": lambda chain: chain.text,
    "completion_ids": lambda chain: None if (ids := chain.completion_ids) is None else list(ids),
    "images": lambda chain: [chain.prompt.pictures[name] for name in chain.prompt.shown],
    "group_id": lambda chain: chain.group_id,
    "chain_id": lambda chain: chain.chain_id,
    "finish": lambda chain: str(chain.finish),
    "block_text": lambda chain: dict(chain.block_text),
    "pictures": lambda chain: dict(chain.pictures),
    "final_picture": lambda chain: chain.final_picture,
}
"""How each column of the chain's own is read."""


def row_of(chain: ChainView) -> dict[str, Any]:
    """Return every column's entry for one chain."""
    own = {name: read(chain) for name, read in COLUMNS.items()}
    return {**chain.prompt.reference, **chain.prompt.pictures, **own}


def parse_needs(names: Sequence[str]) -> frozenset[str]:
    """Turn the words of a config into needs; ``Reward.check_prompt`` looks whether prompts have them.

    Raises:
        ConfigError: If they are not a list of words.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"needs: want a list, as in [{names}]")
    return frozenset(names)


def check_bounds(low: float, high: float, missing: float) -> None:
    """Refuse a range or missing value that is no number, and an empty range.

    Raises:
        ConfigError: Names the option.
    """
    for key, number in {"low": low, "high": high, "missing": missing}.items():
        if not isinstance(number, int | float) or isinstance(number, bool):
            raise ConfigError(f"{key}: want a number, got {number!r}")
    if not low < high:
        raise ConfigError(f"low: want less than high ({high:g}), got {low:g}")
