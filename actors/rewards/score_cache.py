"""Cache of scores by content: a deterministic reward would score a chain's equal alike."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import xxhash

from rl.chain.json_form import chain_to_json
from rl.types import ChainView, Scores

MOST = 8192
"""Scores that are kept; the one that was not asked for longest goes first."""


class ScoreCache:
    """A bounded map from a chain's content to its score. Failures are not kept: they may pass."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, Scores] = OrderedDict()

    def get(self, key: bytes) -> Scores | None:
        """Return the score kept under a key, one chain's, or None."""
        scores = self._kept.get(key)
        if scores is not None:
            self._kept.move_to_end(key)
        return scores

    def put(self, key: bytes, scores: Scores) -> None:
        """Keep one chain's score, unless it is none."""
        if not scores.valid.all():
            return
        self._kept[key] = scores
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)


def content_key(view: ChainView) -> bytes:
    """Hash what a reward may judge: texts, pictures and the prompt, reference included; not the chain's name.

    Returns:
        xxh3-128, 16 bytes.
    """
    named = view.named_pictures
    nameless = replace(view, chain_id="", group_id="", prompt=replace(view.prompt, prompt_id=""))
    words = chain_to_json(nameless.with_pictures(lambda picture: list(picture.shape)))
    digest = xxhash.xxh3_128(json.dumps(words, sort_keys=True).encode())
    for name in sorted(named):
        digest.update(np.ascontiguousarray(named[name]).data)
    return digest.digest()
