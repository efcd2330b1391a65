"""Sidecar of a photograph: scene, tags with boxes, and the captions of a crop that follow from them.

A sidecar is a small JSON file beside the photograph::

    {"scene": "garage",
     "tags": [{"name": "motorcycle", "detail": "red", "boxes": [[0.1, 0.2, 0.9, 0.9]]},
              {"name": "floor", "detail": "gray concrete"}]}

Boxes are ``x0, y0, x1, y1`` as fractions of width and height; a thing that is there twice has two. A tag
without boxes is everywhere.

Differs from the paper: tags and captions came from RAM and LLaVA there, whose words and lengths no
small model can learn; here people write the tags and captions are put together from them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from rl.errors import DataError

Box = tuple[float, float, float, float]
"""``x0, y0, x1, y1``; of a photograph in fractions 0..1 of its width and height."""

SIDES = ("right", "bottom", "left", "top")
"""Where a photograph's held-out strip can lie."""
PLACES = ("left", "right", "top", "bottom", "center", "everywhere")
"""Words that say where in a crop a thing is."""
MAX_TAGS = 4
"""Most tags a crop has: those that cover most of it. Keeps the rough caption within 12 words."""
MAX_DETAILED = 3
"""Tags described in the two finer captions. Keeps them within 16 and 20 words."""

EXAMPLE = (
    '{"scene": "garage", "tags": [{"name": "motorcycle", "detail": "red", "boxes": [[0.1, 0.2, 0.9, 0.9]]}]}'
)
"""A sidecar, for error messages."""

_WORDS = re.compile(r"[a-z0-9][a-z0-9-]*( [a-z0-9][a-z0-9-]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """One thing a photograph shows, e.g. ``Tag(name="suit", boxes=((0.1, 0.4, 0.7, 1.0),))``."""

    name: str
    """One or two lower-case words."""
    detail: str = ""
    """At most two words that go before the name."""
    boxes: tuple[Box, ...] = ()
    """Where it is in the photograph; none means everywhere."""

    @property
    def phrase(self) -> str:
        """Detail and name."""
        return f"{self.detail} {self.name}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """Everything known about what a photograph shows."""

    scene: str
    """What kind of picture it is, one or two words."""
    tags: tuple[Tag, ...]
    """Most important first."""
    holdout_side: str = ""
    """Side of the held-out strip, one of ``SIDES``; empty takes the far end of the longer edge."""


def load_sidecar(path: Path, *, picture: Path | None = None) -> Sidecar:
    """Read and check a sidecar file.

    Args:
        path: The JSON file.
        picture: The photograph it belongs to, for the message where the file is missing.

    Raises:
        DataError: If it is missing or not as the schema says; the message tells what to write where.
    """
    if not path.is_file():
        raise DataError(f"{picture or path}: has no sidecar; write what it shows to {path}, e.g. {EXAMPLE}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a JSON file ({error}); write e.g. {EXAMPLE}") from error
    return parse_sidecar(content, name=str(path))


def parse_sidecar(content: object, *, name: str) -> Sidecar:
    """Check the content of a sidecar.

    Args:
        content: What the JSON holds.
        name: File name for messages.

    Raises:
        DataError: If a key is unknown, missing or has a value that cannot be used.
    """
    fields = _fields(content, {"scene", "tags", "holdout_side"}, name=name)
    entries = fields.get("tags")
    if not isinstance(entries, list) or not entries:
        raise DataError(f'{name}: "tags" must be a list with at least one tag, e.g. {EXAMPLE}')
    tags = tuple(_parse_tag(entry, name=f"{name}: tags[{i}]") for i, entry in enumerate(entries))
    names = [tag.name for tag in tags]
    if len(set(names)) != len(names):
        raise DataError(f"{name}: two tags have the same name; join their boxes or rename one")
    side = fields.get("holdout_side", "")
    if side not in ("", *SIDES):
        raise DataError(f'{name}: "holdout_side" must be one of {", ".join(SIDES)}, got {side!r}')
    return Sidecar(
        scene=_words(fields.get("scene"), name=f"{name}: scene"), tags=tags, holdout_side=str(side)
    )


def crop_tags(sidecar: Sidecar, crop: Box) -> tuple[Tag, ...]:
    """Choose the tags a crop keeps, those that cover most of it first.

    A tag is kept when at least half of one of its boxes is visible, or when at least half the crop lies
    inside one (a box may be larger than the crop), or when it has none. Of more than ``MAX_TAGS`` the ones
    that cover most of the crop stay. Where none is kept, the tag that covers most of the crop is; where
    none is visible at all, the result is empty and captions speak of the scene only.

    Args:
        sidecar: What the photograph shows.
        crop: The crop in fractions of the photograph.
    """
    cover = {tag.name: _cover(tag, crop) for tag in sidecar.tags}
    ranked = sorted(sidecar.tags, key=lambda tag: -cover[tag.name])
    kept = [tag for tag in ranked if cover[tag.name] >= 0.5 or _is_half_visible(tag, crop)]
    if not kept:
        kept = [tag for tag in ranked[:1] if cover[tag.name] > 0.0]
    return tuple(kept[:MAX_TAGS])


def tag_names(sidecar: Sidecar, tags: tuple[Tag, ...]) -> tuple[str, ...]:
    """Return the names a reward looks for: the kept tags', or the scene's where there are none."""
    return tuple(tag.name for tag in tags) or (sidecar.scene,)


def captions(sidecar: Sidecar, tags: tuple[Tag, ...], crop: Box) -> tuple[str, str, str]:
    """Describe a crop three times, coarse to fine.

    The first names every kept tag, the second adds details to the ``MAX_DETAILED`` first of them, the
    third also says where in the crop they are; at most 12, 16 and 20 words by construction.

    Returns:
        E.g. ``("portrait: woman, flag", "portrait: smiling woman, striped flag",
        "portrait: smiling woman center, striped flag left")``.
    """
    main = tags[:MAX_DETAILED]
    return (
        _sentence(sidecar.scene, [tag.name for tag in tags]),
        _sentence(sidecar.scene, [tag.phrase for tag in main]),
        _sentence(sidecar.scene, [f"{tag.phrase} {place(tag, crop)}" for tag in main]),
    )


def place(tag: Tag, crop: Box) -> str:
    """Say where in a crop a tag's visible part is, by its centre; one of ``PLACES``."""
    if _cover(tag, crop) >= 0.7:
        return "everywhere"
    x0, y0, x1, y1 = _intersection(max(tag.boxes, key=lambda box: _overlap(box, crop)), crop)
    right = ((x0 + x1) / 2 - crop[0]) / (crop[2] - crop[0]) - 0.5
    down = ((y0 + y1) / 2 - crop[1]) / (crop[3] - crop[1]) - 0.5
    if max(abs(right), abs(down)) < 0.15:
        return "center"
    if abs(right) >= abs(down):
        return "right" if right > 0 else "left"
    return "bottom" if down > 0 else "top"


def sidecar_texts(sidecar: Sidecar) -> list[str]:
    """List texts that hold every word a caption of this photograph can have, in their usual order."""
    names = [tag.name for tag in sidecar.tags]
    texts = [sidecar.scene, _sentence(sidecar.scene, names)]
    for tag in sidecar.tags:
        texts += [tag.name, _sentence(sidecar.scene, [tag.name]), _sentence(sidecar.scene, [tag.phrase])]
        texts += [_sentence(sidecar.scene, [f"{tag.phrase} {where}" for where in PLACES])]
    return texts


def _sentence(scene: str, parts: list[str]) -> str:
    return f"{scene}: {', '.join(parts)}" if parts else scene


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _intersection(box: Box, crop: Box) -> Box:
    return max(box[0], crop[0]), max(box[1], crop[1]), min(box[2], crop[2]), min(box[3], crop[3])


def _overlap(box: Box, crop: Box) -> float:
    return _area(_intersection(box, crop))


def _cover(tag: Tag, crop: Box) -> float:
    """Share of the crop that lies in the tag's best box."""
    if not tag.boxes:
        return 1.0
    return max(_overlap(box, crop) for box in tag.boxes) / _area(crop)


def _is_half_visible(tag: Tag, crop: Box) -> bool:
    return any(_overlap(box, crop) >= 0.5 * _area(box) for box in tag.boxes)


def _fields(content: object, known: set[str], *, name: str) -> dict[str, object]:
    """Return a JSON object's fields, refusing unknown ones."""
    if not isinstance(content, dict):
        raise DataError(f"{name}: want a JSON object, e.g. {EXAMPLE}")
    unknown = sorted(set(content) - known)
    if unknown:
        raise DataError(f"{name}: unknown key {unknown[0]!r}; keys are {', '.join(sorted(known))}")
    return content


def _parse_tag(entry: object, *, name: str) -> Tag:
    fields = _fields(entry, {"name", "detail", "boxes"}, name=name)
    detail, boxes = fields.get("detail", ""), fields.get("boxes", [])
    if not isinstance(boxes, list):
        raise DataError(f"{name}: boxes must be a list of [x0, y0, x1, y1], got {boxes!r}")
    return Tag(
        name=_words(fields.get("name"), name=f"{name}: name"),
        detail="" if detail == "" else _words(detail, name=f"{name}: detail"),
        boxes=tuple(_parse_box(box, name=f"{name}: boxes[{i}]") for i, box in enumerate(boxes)),
    )


def _words(value: object, *, name: str) -> str:
    if not isinstance(value, str) or not _WORDS.fullmatch(value):
        raise DataError(f"{name} must be one or two lower-case words, got {value!r}")
    return value


def _parse_box(value: object, *, name: str) -> Box:
    if not isinstance(value, list) or len(value) != 4 or not all(_is_fraction(edge) for edge in value):
        raise DataError(f"{name} must be four fractions [x0, y0, x1, y1] in 0..1, got {value!r}")
    x0, y0, x1, y1 = (float(edge) for edge in value)
    if x1 <= x0 or y1 <= y0:
        raise DataError(f"{name} must have x0 < x1 and y0 < y1, got {value!r}")
    return x0, y0, x1, y1


def _is_fraction(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
