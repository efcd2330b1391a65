"""A chain's text as a reader sees it: cut into blocks, right and wrong words marked.

Pure. Which words are right is said by the rewards' own rules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.record.recorder import PICTURE_MARK
from rewards.degradation import normalise, slots
from rl.restoration.labels import slot_texts

_TAG = re.compile(r"</?\w+>")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of text and how to mark it: '', ``hit``, ``miss`` or ``tag``."""

    text: str
    mark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One degradation word, as written and as it was."""

    said: str
    truth: str

    @property
    def is_right(self) -> bool:
        """Return whether it counts for the reward."""
        return bool(self.truth) and self.said == self.truth


def split_blocks(text: str) -> list[tuple[str, str | None]]:
    """Return (name, body) of each block in order; the body of a picture block, None.

    An unclosed block keeps what was written of it; text outside blocks has no name.
    """
    blocks: list[tuple[str, str | None]] = []
    rest = text
    while rest:
        match = re.match(r"<(\w+)>", rest)
        if match is None:
            body, mark, after = rest.partition("<")
            if not body:
                body, after = "<", rest[1:]
                mark = ""
            blocks.append(("", body))
            rest = mark + after
            continue
        name = match.group(1)
        inside, _, rest = rest[match.end() :].partition(f"</{name}>")
        blocks.append((name, None if PICTURE_MARK in inside else inside))
    return [(name, body) for name, body in blocks if name or (body or "").strip()]


def mark_tags(text: str, tags: Sequence[str]) -> list[Span]:
    """Cut a text so that the photo's tags, as whole words, stand alone."""
    wanted = "|".join(re.escape(tag) for tag in sorted(tags, key=len, reverse=True) if tag.strip())
    if not wanted:
        return [Span(text)]
    pieces = re.split(rf"(?<!\w)({wanted})(?!\w)", text, flags=re.IGNORECASE)
    return [Span(piece, "hit" if odd % 2 else "") for odd, piece in enumerate(pieces) if piece]


def mark_markup(text: str) -> list[Span]:
    """Cut a chain's text so that its tags stand alone."""
    spans, at = [], 0
    for match in _TAG.finditer(text):
        spans += [Span(text[at : match.start()]), Span(match.group(), "tag")]
        at = match.end()
    return [span for span in [*spans, Span(text[at:])] if span.text]


def pair_slots(body: str, labels: Sequence[str]) -> list[Slot]:
    """Set what a degradation text says beside what was done, slot by slot."""
    said, truth = slots(body), [normalise(text) for text in slot_texts(labels)]
    length = max(len(said), len(truth))
    said, truth = said + [""] * (length - len(said)), truth + [""] * (length - len(truth))
    return [Slot(said=a, truth=b) for a, b in zip(said, truth, strict=True)]
