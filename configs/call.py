"""Call of a picture policy's pipeline: which of the chain's words and pictures go to which of its arguments.

``policies.NAME.call`` has an entry an argument:

- ``text``: the chain's words so far (of a chain without text blocks: what the prompt says); ``question``: what the
  prompt says;
- a picture's name: one that the prompt shows, or ``previous``, the chain's picture before this one;
- ``{from: degraded, px: 64}``: a picture, resized to that edge (``[height, width]`` if it is no square), or with
  ``share: 0.25`` to that share of the painted picture's size; of several names the first that is there is taken;
- ``{from: degraded, px: 64, by: real_esrgan}``: a picture of the prompt, restored and enlarged by that net to the edge;
- ``{value: "blurry"}``: a constant. Numbers, true, false, null and lists need no braces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from configs.errors import ConfigError
from configs.suggest import suggest

WORDS = ("text", "question")
"""Sources that are words."""
Enlarger = Literal["bicubic", "real_esrgan"]
"""By what a picture is brought to its size."""
OURS = {
    "latents": "the run draws them",
    "generator": "the run seeds it",
    "num_inference_steps": "it is chain.<block>.num_steps",
    "height": "it is chain.<block>.height_px, or size_px",
    "width": "it is chain.<block>.size_px",
    "output_type": "the run asks for pixels",
    "return_dict": "the run decides",
    "num_images_per_prompt": "a group's pictures are asked for one by one",
    "sigmas": "the schedule is the checkpoint's",
    "timesteps": "the schedule is the checkpoint's",
}
"""Arguments that the run fills in, and why none else may."""


@dataclass(frozen=True, slots=True)
class Words:
    """Text of the chain."""

    name: Literal["text", "question"]


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture of the prompt or the chain."""

    names: tuple[str, ...]
    """The first that is there is taken."""
    size: tuple[int, int] | None = None
    """Height and width it is resized to, pixels; None leaves it as it is."""
    share: float | None = None
    """Of the painted picture's size, that it is resized to instead."""
    by: Enlarger = "bicubic"

    @property
    def is_restored(self) -> bool:
        """Whether a net restores it; then it has one name, and ``size`` is set."""
        return self.by != "bicubic"

    def size_for(self, painted: tuple[int, int]) -> tuple[int, int] | None:
        """Return the height and width it is resized to for a picture of this size, pixels."""
        if self.share is None:
            return self.size
        return round(painted[0] * self.share), round(painted[1] * self.share)


@dataclass(frozen=True, slots=True)
class Constant:
    """The same value for every picture."""

    value: Any


CallArgument = Words | Shown | Constant


def call_arguments(call: Mapping[str, Any], *, key: str) -> dict[str, CallArgument]:
    """Read ``policies.NAME.call``.

    Args:
        call: As it was written.
        key: Its full key, for messages.

    Raises:
        ConfigError: For an entry that cannot be read, or one that the run fills in itself.
    """
    for name in call:
        if name in OURS:
            raise ConfigError(f"{key}.{name}: cannot be set, {OURS[name]}; take it out")
    return {name: _argument(value, f"{key}.{name}") for name, value in call.items()}


def restored_entries(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries whose picture a net restores, keys sorted; the painter's cold start depends on them."""
    return {
        name: dict(sorted(entry.items()))
        for name, entry in sorted(call.items())
        if isinstance(entry, Mapping) and entry.get("by", "bicubic") != "bicubic"
    }


def _argument(value: Any, key: str) -> CallArgument:
    if isinstance(value, str):
        return Words(cast(Literal["text", "question"], value)) if value in WORDS else Shown((value,))
    if not isinstance(value, Mapping):
        return Constant(value)
    if set(value) == {"value"}:
        return Constant(value["value"])
    names = value.get("from")
    if "from" not in value or set(value) - {"from", "px", "share", "by"} or {"px", "share"} <= set(value):
        raise ConfigError(
            f"{key}: want {{from: picture}}, with px: 64 or share: 0.25, or {{value: ...}}, got {dict(value)}"
        )
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{key}.from: want a picture's name, or a list of them, got {value['from']!r}")
    shown = Shown(
        tuple(names),
        _size(value.get("px"), f"{key}.px"),
        _share(value.get("share"), f"{key}.share"),
        _enlarger(value.get("by", "bicubic"), f"{key}.by"),
    )
    if shown.is_restored and (shown.size is None or len(names) > 1):
        raise ConfigError(
            f"{key}.by: want one picture and its px, {{from: degraded, px: 64, by: {shown.by}}}"
        )
    return shown


def _enlarger(by: Any, key: str) -> Enlarger:
    if by not in (known := get_args(Enlarger)):
        raise ConfigError(f"{key}: want {' or '.join(known)}, got {by!r}{suggest(str(by), known)}")
    return cast(Enlarger, by)


def _share(share: Any, key: str) -> float | None:
    if share is not None and (
        isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 4
    ):
        raise ConfigError(f"{key}: want a number above 0 and at most 4, got {share!r}")
    return share


def _size(px: Any, key: str) -> tuple[int, int] | None:
    edges = px if isinstance(px, list) else [px, px]
    if px is None:
        return None
    if len(edges) != 2 or not all(isinstance(edge, int) and 0 < edge <= 1 << 14 for edge in edges):
        raise ConfigError(f"{key}: want an edge in pixels, or [height, width], got {px!r}")
    return edges[0], edges[1]
