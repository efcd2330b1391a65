"""Errors: the two that everything else derives from, and what is read of any; ``configs`` needs nothing above it.

The rest of the family is in ``rl.errors``, which re-exports these.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class VlcotError(Exception):
    """Base of every error the project raises on purpose. One argument: the message."""

    exit_code: ClassVar[int] = 1
    """What the command line ends with."""


class ConfigError(VlcotError, ValueError):
    """A configuration or input that cannot work; the message names key or file and the remedy."""

    exit_code = 2


@contextmanager
def prefixed(place: str) -> Iterator[None]:
    """Put before the message of a ``ConfigError`` of this block where it is: ``data: `` or ``data.options.``."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}{error}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the single errors of a group, of its groups and so on; an error that is no group is its own."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
