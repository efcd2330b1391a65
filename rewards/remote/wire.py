"""JSON of rewards over HTTP: schema version 2, both directions. Never pickle.

``GET <url>/v1/reward`` describes the reward; ``POST <url>/v1/score`` scores a batch. ``docs/rewards.md`` has the schema
with an example. Pictures are PNG, base64, in one list; chains point into it by index, so that what a
whole group shares is sent once.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from rewards.base import Failure, Missing, Reward, Score
from rl.chain.json_form import chain_to_json
from rl.types import (
    ChainView,
    Finish,
    FinishedChain,
    JsonDict,
    Message,
    PicturePart,
    Pixels,
    Prompt,
    TextPart,
)

VERSION = 2
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

    def place(picture: Pixels) -> int:
        key = (picture.shape, picture.tobytes())
        if key not in places:
            places[key] = len(images)
            images.append(encode_picture(picture))
        return places[key]

    rows = [chain_to_json(chain.with_pictures(place)) for chain in chains]
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
    try:
        finish = Finish(row.get("finish", "stop"))
    except ValueError as error:
        raise WireError(f"{where}.finish: {error}") from error
    return FinishedChain(
        chain_id=_typed(row.get("chain_id"), str, f"{where}.chain_id"),
        group_id=_typed(row.get("group_id"), str, f"{where}.group_id"),
        prompt=_decode_prompt(row.get("prompt"), images, f"{where}.prompt"),
        finish=finish,
        text=_typed(row.get("text"), str, f"{where}.text"),
        block_text={name: _typed(text, str, f"{where}.block_text.{name}") for name, text in texts.items()},
        pictures={name: _picked(images, place, f"{where}.pictures.{name}") for name, place in places.items()},
        final_block=_typed(row.get("final_block", ""), str, f"{where}.final_block"),
        completion_ids=_decode_ids(row.get("completion_ids"), f"{where}.completion_ids"),
    )


def _decode_ids(ids: Any, where: str) -> tuple[int, ...] | None:
    return None if ids is None else tuple(_typed(one, int, where) for one in _typed(ids, list, where))


def _decode_prompt(row: Any, images: Sequence[Pixels], where: str) -> Prompt:
    _typed(row, dict, where)
    messages = _typed(row.get("messages", []), list, f"{where}.messages")
    places = _typed(row.get("pictures", {}), dict, f"{where}.pictures")
    shown = _typed(row.get("shown", []), list, f"{where}.shown")
    fields: JsonDict = {
        "prompt_id": _typed(row.get("prompt_id"), str, f"{where}.prompt_id"),
        "messages": tuple(_decode_message(m, f"{where}.messages[{i}]") for i, m in enumerate(messages)),
        "tokens": _decode_ids(row.get("tokens", []), f"{where}.tokens"),
        "pictures": {n: _picked(images, place, f"{where}.pictures.{n}") for n, place in places.items()},
        "shown": tuple(_typed(name, str, f"{where}.shown") for name in shown),
        "reference": _typed(row.get("reference", {}), dict, f"{where}.reference"),
    }
    try:
        return Prompt(**fields)
    except ValueError as error:
        raise WireError(f"{where}: {error}") from error


def _decode_message(row: Any, where: str) -> Message:
    _typed(row, dict, where)
    parts: list[TextPart | PicturePart] = []
    for part in _typed(row.get("content"), list, f"{where}.content"):
        kind = _typed(part, dict, f"{where}.content").get("type")
        if kind == "text":
            parts.append(TextPart(_typed(part.get("text"), str, f"{where}.content.text")))
        elif kind == "image":
            parts.append(PicturePart(_typed(part.get("name"), str, f"{where}.content.name")))
        else:
            raise WireError(f"{where}.content: want parts of type text or image, got {kind!r}")
    return Message(role=_typed(row.get("role"), str, f"{where}.role"), parts=tuple(parts))


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
        version = message.get("version") if isinstance(message, dict) else type(message).__name__
        raise WireError(f"want a message of version {VERSION}, got {version!r}")
    rows: list[Any] = _typed(message.get(key), list, key)
    return rows


def _typed(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind):
        raise WireError(f"{where}: want a {kind.__name__}, got {type(value).__name__}")
    return value
