"""The two errors everything else derives from; here so that ``configs`` needs nothing above it.

The rest of the family is in ``rl.errors``, which re-exports these.
"""

from __future__ import annotations


class VlcotError(Exception):
    """Base of every error the project raises on purpose. One argument: the message."""


class ConfigError(VlcotError, ValueError):
    """A configuration or input that cannot work; the message names key or file and the remedy."""
