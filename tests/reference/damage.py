"""Ways in which a JSON file of ours can be damaged."""

import json
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[bytes], bytes]


def inside(change) -> Damage:
    """Change the value that a file holds."""

    def damage(content: bytes) -> bytes:
        value = json.loads(content)
        return json.dumps(change(value)).encode()

    return damage


def _first(value):
    """Return the first of a container's entries, and its place."""
    place = next(iter(value)) if isinstance(value, dict) else 0
    return place, value[place]


def wrong_type_inside(value):
    """Put a list of a mapping where the first entry was."""
    place, _ = _first(value)
    value[place] = [{"a": 1}]
    return value


def wrong_types_everywhere(value):
    """Make every number a word, and every word a number, at any depth."""
    if isinstance(value, dict):
        return {key: wrong_types_everywhere(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [wrong_types_everywhere(entry) for entry in value]
    return 7 if isinstance(value, str) else "seven"


def missing_key(value):
    """Take the first entry out."""
    place, _ = _first(value)
    del value[place]
    return value


DAMAGES: dict[str, Damage] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) * 2 // 3],
    "cut short": lambda content: content[:1],
    "not JSON": lambda content: b"{oops} " + content,
    "wrong type at the top": lambda content: b"[1, 2, 3]",
    "a number": lambda content: b"17",
    "null": lambda content: b"null",
    "empty object": lambda content: b"{}",
    "wrong type inside": inside(wrong_type_inside),
    "wrong types everywhere": inside(wrong_types_everywhere),
    "missing key": inside(missing_key),
    "NUL bytes": lambda content: bytes(len(content)),
    "no UTF-8": lambda content: b"\xff\xfe" + content,
    "deep": lambda content: b'{"a":' * 5000,
}


def damage(path: Path, name: str) -> None:
    """Damage a file in the way of that name."""
    path.write_bytes(DAMAGES[name](path.read_bytes()))
