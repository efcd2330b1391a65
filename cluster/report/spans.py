"""Pieces of a chain's text, and how they are marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_TAG = re.compile(r"(</?\w+>)")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of text and how to mark it: '', ``hit``, ``miss`` or ``tag``."""

    text: str
    mark: str = ""


def mark_markup(text: str) -> list[Span]:
    """Cut a chain's text so that its tags stand alone."""
    return _alternating(_TAG.split(text), "tag")


def mark_words(text: str, words: Sequence[str]) -> list[Span]:
    """Cut a text so that some words, whole and in any case, stand alone."""
    wanted = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True) if word.strip())
    if not wanted:
        return [Span(text)]
    return _alternating(re.split(rf"(?<!\w)({wanted})(?!\w)", text, flags=re.IGNORECASE), "hit")


def _alternating(pieces: Sequence[str], mark: str) -> list[Span]:
    return [Span(piece, mark if index % 2 else "") for index, piece in enumerate(pieces) if piece]
