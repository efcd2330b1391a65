"""Messages out of a prompt's cell: text or turns, marks and typed parts in which pictures have their places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rl.errors import DataError
from rl.types import Message, PicturePart, TextPart

MARK = "<image>"
"""Place of the next picture in a text, as verl and EasyR1 write it."""
_REMEDY = "give every picture one place, or none to have them before the first words"
Part = TextPart | PicturePart


def to_messages(cell: Any, pictures: Sequence[str], *, has_marks: bool, where: str) -> tuple[Message, ...]:
    """Turn a prompt into messages with its pictures in their places.

    A text is one message of the user's. Pictures without a place go before the first words of the user's.

    Args:
        cell: Text, or turns ``{role, content}`` whose content is text or typed parts.
        pictures: Names of the pictures, in order.
        has_marks: Whether ``<image>`` in a text is a picture's place; else it is text.
        where: File and row, for messages.

    Raises:
        DataError: If it is neither text nor turns, is empty, or has another number of places than pictures.
    """
    turns = _turns(cell, where)
    places = iter(pictures)
    num_places = sum(_num_places(turn["content"], has_marks) for turn in turns)
    if num_places not in (0, len(pictures)):
        raise DataError(f"{where}: {num_places} places for {len(pictures)} pictures; {_REMEDY}")
    messages = [
        Message(role=turn["role"], parts=tuple(_parts(turn["content"], places, has_marks, where)))
        for turn in turns
    ]
    if waiting := tuple(PicturePart(name) for name in places):
        first = next((i for i, message in enumerate(messages) if message.role == "user"), 0)
        messages[first] = Message(role=messages[first].role, parts=(*waiting, *messages[first].parts))
    if not any(message.parts for message in messages):
        raise DataError(f"{where}: the prompt is empty; fill it or remove the row")
    return tuple(messages)


def inline_pictures(cell: Any) -> list[Any]:
    """Return the pictures that typed parts hold themselves, ``{"type": "image", "image": ...}``, in order."""
    turns = cell if isinstance(cell, list) else []
    contents = [turn.get("content") for turn in turns if isinstance(turn, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    held = [part.get("image") for part in parts if isinstance(part, dict) and part.get("type") == "image"]
    return [picture for picture in held if picture is not None]


def without_pictures(cell: Any) -> Any:
    """Return a cell whose typed parts say where pictures are, and hold none."""
    if isinstance(cell, list):
        return [without_pictures(inner) for inner in cell]
    if not isinstance(cell, dict):
        return cell
    is_place = cell.get("type") == "image"
    return {
        name: without_pictures(inner) for name, inner in cell.items() if not (is_place and name == "image")
    }


def _turns(cell: Any, where: str) -> list[dict[str, Any]]:
    if isinstance(cell, str):
        return [{"role": "user", "content": cell}]
    if not isinstance(cell, list):
        raise DataError(
            f"{where}: the prompt is a {type(cell).__name__}, want text or messages; write it as text, or name "
            "another column in data.prompt"
        )
    for number, turn in enumerate(cell):
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise DataError(f"{where}: message {number} of the prompt is no {{role, content}}; write it so")
        if not isinstance(turn.get("content"), str | list):
            raise DataError(f"{where}: message {number} of the prompt has no content; fill it or take it out")
    return cell


def _num_places(content: str | list[Any], has_marks: bool) -> int:
    if isinstance(content, str):
        return content.count(MARK) if has_marks else 0
    return sum(isinstance(part, dict) and part.get("type") == "image" for part in content)


def _parts(content: str | list[Any], places: Iterator[str], has_marks: bool, where: str) -> Iterator[Part]:
    if isinstance(content, list):
        yield from (_typed_part(part, places, where) for part in content)
        return
    for number, text in enumerate(content.split(MARK) if has_marks else [content]):
        if number:
            yield PicturePart(next(places))
        if text:
            yield TextPart(text)


def _typed_part(part: Any, places: Iterator[str], where: str) -> Part:
    if isinstance(part, str):
        return TextPart(part)
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return TextPart(part["text"])
    if kind == "image":
        return PicturePart(next(places))
    raise DataError(f"{where}: want parts of type text or image in the prompt, got {str(part)[:80]}")
