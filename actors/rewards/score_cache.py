"""Scores by content: what a deterministic reward said of a chain, it would say again of its equal."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import xxhash

from rl.types import ChainView, Pixels, Scores

MOST = 8192
"""Scores that are kept; the one that was not asked for longest goes first."""


class ScoreCache:
    """A bounded map from a chain's content to its score. Failures are not kept: they may pass."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, Scores] = OrderedDict()

    def get(self, key: bytes) -> Scores | None:
        """Return the score kept under a key, one chain's, or None."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: bytes, scores: Scores) -> None:
        """Keep one chain's score, unless it is none."""
        if not scores.valid.all():
            return
        self._kept[key] = scores
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)


def content_key(view: ChainView) -> bytes:
    """Hash what a reward may judge: text, pictures, ground truth, labels, tags; not the chain's name.

    Returns:
        xxh3-128, 16 bytes.
    """
    digest = xxhash.xxh3_128()
    reference = view.reference
    words = [
        view.text,
        view.finish.value,
        view.final_block,
        sorted(view.block_text.items()),
        list(reference.labels),
        list(reference.tags),
        sorted(view.pictures),
    ]
    digest.update(json.dumps(words).encode())
    pictures: Sequence[Pixels | None] = [
        view.degraded,
        reference.photo,
        *(view.pictures[name] for name in sorted(view.pictures)),
    ]
    for picture in pictures:
        # The shape parts one picture from the next.
        digest.update(repr(None if picture is None else picture.shape).encode())
        if picture is not None:
            digest.update(np.ascontiguousarray(picture).data)
    return digest.digest()
