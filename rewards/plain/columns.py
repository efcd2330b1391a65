"""What a plain reward function is told about chains, whichever signature it has.

| column | one entry a chain |
|---|---|
| ``prompts`` | id of the group, ``<prompt>#<step>``: chains of one prompt share it; there is no prompt text |
| ``completions`` | everything written, tags included, ``<|image|>`` in a picture's place |
| ``chain_id`` | id of the chain, as in the recorded chains |
| ``finish`` | how it ended: ``stop`` (whole), ``length``, ``malformed``, ``aborted`` |
| ``block_text`` | body of every closed text block by its name |
| ``pictures`` | finished pictures by block, ``uint8[H, W, 3]`` |
| ``final_picture`` | the restored photo, ``uint8[H, W, 3]``, or None where the chain ended before it |
| ``degraded`` | the photo to restore, ``uint8[h, w, 3]`` |
| ``truth`` | the ground truth, ``uint8[H, W, 3]``, or None |
| ``labels`` | degradation words by slot (blur, resize, noise, compression, resize); may be empty |
| ``tags`` | things the photo shows; may be empty |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from configs.suggest import suggest
from rewards.base import Need
from rl.errors import ConfigError
from rl.types import ChainView

COLUMNS: dict[str, Callable[[ChainView], Any]] = {
    "prompts": lambda chain: chain.group_id,
    "completions": lambda chain: chain.text,
    "chain_id": lambda chain: chain.chain_id,
    "finish": lambda chain: str(chain.finish),
    "block_text": lambda chain: dict(chain.block_text),
    "pictures": lambda chain: dict(chain.pictures),
    "final_picture": lambda chain: chain.final_picture,
    "degraded": lambda chain: chain.degraded,
    "truth": lambda chain: chain.reference.photo,
    "labels": lambda chain: list(chain.reference.labels),
    "tags": lambda chain: list(chain.reference.tags),
}
"""How each column is read."""


def parse_needs(names: Sequence[str]) -> frozenset[Need]:
    """Turn the words of a config into needs.

    Raises:
        ConfigError: Names the first that is none.
    """
    if isinstance(names, str):
        raise ConfigError(f"needs: want a list, as in [{names}]")
    for name in names:
        if name not in list(Need):
            raise ConfigError(f"needs: no input {name!r}{suggest(name, Need)}")
    return frozenset(Need(name) for name in names)


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
