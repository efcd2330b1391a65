"""Restoration in a report: degradation words set beside what was done, and things of the photograph that are named.

Which words are right is said by the rewards' own rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from cluster.record.run_data import RecordedChain
from cluster.report.spans import Span, mark_words
from rewards.degradation import normalise, slots
from rl.restoration.labels import slot_texts
from rl.restoration.names import LABELS, TAGS

DEGRADATION = "degradation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One degradation word, as written and as it was."""

    written: str
    truth: str

    @property
    def is_right(self) -> bool:
        """Return whether it counts for the reward."""
        return bool(self.truth) and self.written == self.truth


def mark_note(name: str, body: str, chain: RecordedChain) -> tuple[Sequence[Span], Sequence[Slot]]:
    """Return a text block with the photo's tags marked; the slots of a degradation block."""
    if name == DEGRADATION and (labels := chain.words(LABELS)):
        return (), pair_slots(body, labels)
    return mark_words(body, chain.words(TAGS)), ()


def named_tags(chain: RecordedChain, written: str) -> list[tuple[str, bool]]:
    """Return the things in the photo, and whether the text names them."""
    tags = chain.words(TAGS)
    named = {span.text.lower() for span in mark_words(written, tags) if span.mark}
    return [(tag, tag.lower() in named) for tag in tags]


def pair_slots(body: str, labels: Sequence[str]) -> list[Slot]:
    """Set what a degradation text says beside what was done, slot by slot."""
    truths = [normalise(text) for text in slot_texts(labels)]
    return [Slot(written=word, truth=truth) for word, truth in zip_longest(slots(body), truths, fillvalue="")]
