"""Checkpoints of a hub: their folder on this machine, however their library fetches it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from configs.errors import first_line
from rl.errors import ConfigError


def local_copy(source: Path, fetch: Callable[[str], str]) -> Path:
    """Return the folder of a checkpoint; a hub name is fetched, or found in the hub's cache.

    Args:
        source: Folder, or hub name.
        fetch: Returns the folder of a hub name's copy.

    Raises:
        ConfigError: If there is no such folder, and no such model on the hub or no way to it.
    """
    if source.is_dir():
        return source
    try:
        return Path(fetch(str(source)))
    except Exception as error:
        raise ConfigError(
            f"{source}: no such folder, and it cannot be had from the hub: {type(error).__name__}: {first_line(error)}"
        ) from error
