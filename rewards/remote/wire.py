"""The JSON that a reward over HTTP speaks: schema version 1, both directions. Never pickle.

``GET <url>/v1/reward`` describes the reward; ``POST <url>/v1/score`` scores a batch. ``docs/rewards.md`` has the schema
with an example. Pictures are PNG, base64, in one list; chains point into it by index, so that the degraded photo of a
whole group is sent once.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from rewards.base import Failure, Missing, Reward, Score
from rl.types import DEGRADED, TRUTH, ChainView, Finish, JsonDict, Pixels, Reference

VERSION = 1
"""Of the schema. A server refuses another with status 400."""
DESCRIBE_PATH = "/v1/reward"
SCORE_PATH = "/v1/score"
LARGEST_PIXELS = 1 << 28
"""Of all pictures of a request together: 768 MiB once unpacked."""


class WireError(ValueError):
    """A message that is not of the schema. One argument: what is wrong with it."""


# --------------------------------------------------------------------------------- requests


def encode_request(chains: Sequence[ChainView]) -> JsonDict:
    """Turn a batch into JSON types."""
    images: list[str] = []
    places: dict[tuple[tuple[int, ...], bytes], int] = {}

    def place(picture: Pixels | None) -> int | None:
        if picture is None:
            return None
        key = (picture.shape, picture.tobytes())
        if key not in places:
            places[key] = len(images)
            images.append(encode_picture(picture))
        return places[key]

    rows = [
        {
            "chain_id": chain.chain_id,
            "group_id": chain.group_id,
            "finish": str(chain.finish),
            "text": chain.text,
            "block_text": dict(chain.block_text),
            "pictures": {name: place(picture) for name, picture in chain.pictures.items()},
            "final_block": chain.final_block,
            DEGRADED: place(chain.degraded),
            TRUTH: place(chain.reference.photo),
            "labels": list(chain.reference.labels),
            "tags": list(chain.reference.tags),
            "captions": list(chain.reference.captions),
        }
        for chain in chains
    ]
    return {"version": VERSION, "images": images, "chains": rows}


def decode_request(message: Any) -> list[ChainView]:
    """Turn a request back into chains.

    Raises:
        WireError: Names the version, key or picture that is wrong.
    """
    rows = _of_version(message, "chains")
    images = decode_pictures(_typed(message.get("images"), list, "images"))
    return [_decode_chain(row, images, f"chains[{index}]") for index, row in enumerate(rows)]


def _decode_chain(row: Any, images: Sequence[Pixels], where: str) -> ChainView:
    _typed(row, dict, where)
    texts = _typed(row.get("block_text", {}), dict, f"{where}.block_text")
    places = _typed(row.get("pictures", {}), dict, f"{where}.pictures")
    truth = row.get(TRUTH)
    try:
        finish = Finish(row.get("finish", "stop"))
    except ValueError as error:
        raise WireError(f"{where}.finish: {error}") from error
    return ChainView(
        chain_id=_typed(row.get("chain_id"), str, f"{where}.chain_id"),
        group_id=_typed(row.get("group_id"), str, f"{where}.group_id"),
        finish=finish,
        text=_typed(row.get("text"), str, f"{where}.text"),
        block_text={name: _typed(text, str, f"{where}.block_text.{name}") for name, text in texts.items()},
        pictures={name: _picked(images, place, f"{where}.pictures.{name}") for name, place in places.items()},
        final_block=_typed(row.get("final_block", ""), str, f"{where}.final_block"),
        degraded=_picked(images, row.get(DEGRADED), f"{where}.{DEGRADED}"),
        reference=Reference(
            photo=None if truth is None else _picked(images, truth, f"{where}.{TRUTH}"),
            **{key: _words(row, key, where) for key in ("labels", "tags", "captions")},
        ),
    )


def _words(row: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    words = _typed(row.get(key, []), list, f"{where}.{key}")
    return tuple(_typed(word, str, f"{where}.{key}") for word in words)


def _picked(images: Sequence[Pixels], place: Any, where: str) -> Pixels:
    if not isinstance(place, int) or not 0 <= place < len(images):
        raise WireError(f"{where}: want an index into the {len(images)} images, got {place!r}")
    return images[place]


# --------------------------------------------------------------------------------- answers


def encode_answer(scores: Sequence[Score]) -> JsonDict:
    """Turn scores into JSON types: a number, or why there is none."""
    return {"version": VERSION, "scores": [_encode_score(score) for score in scores]}


def decode_answer(message: Any, num: int) -> list[Score]:
    """Turn an answer back into scores.

    Args:
        message: What the server sent.
        num: Chains it was asked about.

    Raises:
        WireError: If it is not of the schema, has another number of scores, or one that is not finite.
    """
    rows = _of_version(message, "scores")
    if len(rows) != num:
        raise WireError(f"{len(rows)} scores for {num} chains")
    return [_decode_score(row, f"scores[{index}]") for index, row in enumerate(rows)]


def _encode_score(score: Score) -> JsonDict:
    if isinstance(score, Failure):
        return {"failure": score.reason}
    if isinstance(score, Missing):
        return {"missing": score.reason}
    return {"score": score}


def _decode_score(row: Any, where: str) -> Score:
    _typed(row, dict, where)
    if "failure" in row:
        return Failure(str(row["failure"]))
    if "missing" in row:
        return Missing(str(row["missing"]))
    value = row.get("score")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise WireError(f"{where}: want score (a finite number), failure or missing, got {str(row)[:80]}")
    return float(value)


# --------------------------------------------------------------------------------- descriptions


def describe(reward: Reward, name: str) -> JsonDict:
    """Say what a reward declares. An end of the range that is open is null."""
    low, high, missing = (v if math.isfinite(v) else None for v in (reward.low, reward.high, reward.missing))
    return {
        "version": VERSION,
        "name": name,
        "needs": sorted(str(need) for need in reward.needs),
        "unit": reward.unit,
        "low": low,
        "high": high,
        "missing": missing,
        "larger_is_better": reward.larger_is_better,
        "deterministic": reward.deterministic,
    }


# --------------------------------------------------------------------------------- parts


def encode_picture(picture: Pixels) -> str:
    """Return a picture as PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format="PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode_pictures(texts: Sequence[Any]) -> list[Pixels]:
    """Return pictures ``uint8[H, W, 3]``, read-only as they are in a run.

    All sizes are read before any pixel: a few bytes may claim to be a picture that fills the memory.

    Raises:
        WireError: If one is not the base64 of a PNG, or they are too large together.
    """
    try:
        files = [_open_picture(text) for text in texts]
        num_pixels = sum(file.width * file.height for file in files)
        if num_pixels > LARGEST_PIXELS:
            raise WireError(f"images: {num_pixels} pixels together, want at most {LARGEST_PIXELS}")
        pictures = [np.array(file.convert("RGB")) for file in files]
    except (
        binascii.Error,
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:
        raise WireError(f"images: not a PNG in base64: {error}") from error
    for pixels in pictures:
        pixels.flags.writeable = False
    return pictures


def _open_picture(text: Any) -> Image.Image:
    data = base64.b64decode(_typed(text, str, "images"), validate=True)
    return Image.open(io.BytesIO(data), formats=["PNG"])


def _of_version(message: Any, key: str) -> list[Any]:
    if not isinstance(message, dict) or message.get("version") != VERSION:
        said = message.get("version") if isinstance(message, dict) else type(message).__name__
        raise WireError(f"want a message of version {VERSION}, got {said!r}")
    rows: list[Any] = _typed(message.get(key), list, key)
    return rows


def _typed(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind):
        raise WireError(f"{where}: want a {kind.__name__}, got {type(value).__name__}")
    return value
