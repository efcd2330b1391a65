"""Suggestions: the nearest right name, for the end of an error message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known name that is spelt most like the word, '' if none is."""
    lowered = {name.lower().replace("-", "_"): name for name in known}
    close = difflib.get_close_matches(word.lower().replace("-", "_"), list(lowered), n=1)
    return lowered[close[0]] if close else ""


def suggest(word: str, known: Iterable[str]) -> str:
    """Return '; did you mean x?' with the nearest known name, or ''."""
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""
