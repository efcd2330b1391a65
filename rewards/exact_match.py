"""Exact match: whether an answer is the right one, word for word."""

from __future__ import annotations

from collections.abc import Sequence


def exact_match(completions: Sequence[str], ground_truth: Sequence[object], **columns: object) -> list[float]:
    """Return 1 for every answer that is the right one, without regard to spaces around it, and 0 for others.

    Args:
        completions: Answers.
        ground_truth: Right answers, from the column of the prompts' file; numbers are compared as they are written.
        columns: Others of the file.
    """
    return [
        float(answer.strip() == str(right).strip())
        for answer, right in zip(completions, ground_truth, strict=True)
    ]
