"""Text of strangers made fit for a terminal, a log and a file: one line, printable, of bounded length."""

from __future__ import annotations

LONGEST = 600
"""Characters of a message that are kept."""


def one_line(text: str, longest: int = LONGEST) -> str:
    """Return the start of a text as one line: what does not print (escape codes, line breaks) becomes a space.

    Args:
        text: Of any length, from anywhere.
        longest: Characters that are kept.
    """
    start = text[: 2 * longest]
    words = "".join(char if char.isprintable() else " " for char in start).split()
    line = " ".join(words)
    return line if len(line) <= longest and len(text) <= 2 * longest else f"{line[:longest]}..."
