"""The two errors everything else derives from; here so that ``configs`` needs nothing above it.

The rest of the family is in ``rl.errors``, which re-exports these.
"""

from __future__ import annotations

from typing import ClassVar


class VlcotError(Exception):
    """Base of every error the project raises on purpose. One argument: the message."""

    exit_code: ClassVar[int] = 1
    """What the command line ends with."""


class ConfigError(VlcotError, ValueError):
    """A configuration or input that cannot work; the message names key or file and the remedy."""

    exit_code = 2
