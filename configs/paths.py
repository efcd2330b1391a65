"""Paths that users write: the one place where ``~`` becomes a home folder and what no file can be called is refused."""

from __future__ import annotations

import os

from configs.errors import ConfigError

LONGEST_NAME, LONGEST_PATH = 255, 3800
"""Bytes that Linux takes in one name, and in a whole path with room for what we put below it."""


def expand(path: str) -> str:
    """Return a path with its ``~`` or ``~user`` replaced by a home folder.

    A URI, or a name on a hub, comes back as it is.

    Raises:
        ConfigError: If no file can be called so, or there is no such user.
    """
    if "\0" in path:
        raise ConfigError(f"{path!r} has a NUL character, which no path can have")
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ConfigError(
            f"{path!r}: there is no home folder of {expanded.partition('/')[0]}; write the whole path"
        )
    num_bytes = max(len(os.fsencode(name)) for name in expanded.split("/"))
    if num_bytes > LONGEST_NAME:
        raise ConfigError(f"a name in the path has {num_bytes} bytes, want at most {LONGEST_NAME}")
    if (num_bytes := len(os.fsencode(expanded))) > LONGEST_PATH:
        raise ConfigError(f"the path has {num_bytes} bytes, want at most {LONGEST_PATH}")
    return expanded
