"""Answers of a pipeline's text encoders: recorded at rollout, packed, joined to rows, and told again to the learner.

A learner that is told them loads no text encoder. What they are, how many and in which order, is the pipeline's
business: whatever ``encode_prompt`` returned, call by call, is what it returns again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten, treespec_dumps, treespec_loads

from rl.types import Packed

ENCODERS = ("encode_prompt", "_encode_prompt")
"""Methods by which diffusers pipelines ask their text encoders."""

Leaf = Tensor | list[Tensor] | bool | int | float | str | None
"""A list of tensors has one for each row (and branch of guidance)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one call of an encoder returned."""

    leaves: tuple[Leaf, ...]
    tree: TreeSpec
    """How they nest."""
    shared: tuple[bool, ...]
    """By leaf: it has no row axis (positions of tokens, flags), so rows of a batch share it."""

    def value(self) -> Any:
        """Put the leaves together as they were returned."""
        return tree_unflatten(list(self.leaves), self.tree)

    @property
    def shape_key(self) -> tuple[int, ...]:
        """Numbers that are equal where answers can be joined: every leaf's shape."""
        key: list[int] = []
        for leaf in self.leaves:
            tensors = leaf if isinstance(leaf, list) else [leaf]
            for tensor in tensors:
                key += [*tensor.shape, -1] if isinstance(tensor, Tensor) else [-2]
        return tuple(key)


Answers = tuple[Answer, ...]
"""Of all calls that one call of the pipeline makes, in order."""


def flattened(returned: Any, *, shared: Sequence[bool] | None = None) -> Answer:
    """Take apart what an encoder returned; ``shared`` is known from ``find_shared``."""
    leaves, tree = tree_flatten(returned, is_leaf=lambda node: isinstance(node, list))
    kept = [_kept(leaf) for leaf in leaves]
    return Answer(leaves=tuple(kept), tree=tree, shared=tuple(shared or [False] * len(kept)))


def _kept(leaf: Any) -> Leaf:
    if isinstance(leaf, Tensor):
        return leaf.detach().cpu()
    if isinstance(leaf, list) and all(isinstance(row, Tensor) for row in leaf):
        return [row.detach().cpu() for row in leaf]
    if leaf is None or isinstance(leaf, (bool, int, float, str)):
        return leaf
    raise ValueError(
        f"its prompt encoder returns a {type(leaf).__name__}, which cannot be told again to a learner"
    )


def find_shared(of_one: Answer, of_two: Answer) -> tuple[bool, ...]:
    """Find the leaves without a row axis: those that stay the same size when a prompt is asked for twice.

    Raises:
        ValueError: If a leaf neither stays nor doubles.
    """
    if len(of_one.leaves) != len(of_two.leaves):
        raise ValueError("its prompt encoder returns more for two prompts than for one")
    return tuple(_is_shared(one, two) for one, two in zip(of_one.leaves, of_two.leaves, strict=True))


def _is_shared(one: Leaf, two: Leaf) -> bool:
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two)
    if not isinstance(one, Tensor) or not isinstance(two, Tensor):
        return True
    if one.shape == two.shape:
        return True
    if two.shape[0] == 2 * one.shape[0] and one.shape[1:] == two.shape[1:]:
        return False
    raise ValueError(
        f"its prompt encoder returns {list(one.shape)} for a prompt and {list(two.shape)} for it twice; "
        "rows of a batch cannot be told apart"
    )


def joined(rows: Sequence[Answers], device: torch.device) -> Answers:
    """Join the answers of B rows to those of a batch, on ``device``, in float32 (the net casts what it is given).

    Pipelines take the dtype of latents, pictures and timesteps from them: in a shorter one the first latents of a call
    would be rounded and later ones not, and no step could be scored by itself. An answer may hold both branches of
    guidance, one behind the other: rows are joined within each.
    """
    return tuple(
        Answer(
            leaves=tuple(
                _joined([answer.leaves[i] for answer in calls], calls[0].shared[i], device)
                for i in range(len(calls[0].leaves))
            ),
            tree=calls[0].tree,
            shared=calls[0].shared,
        )
        for calls in zip(*rows, strict=True)
    )


def _joined(leaves: Sequence[Leaf], shared: bool, device: torch.device) -> Leaf:
    first = leaves[0]
    if isinstance(first, Tensor):
        if shared:
            return _wide(first, device)
        stacked = torch.stack([leaf for leaf in leaves if isinstance(leaf, Tensor)], dim=1)
        return _wide(stacked.flatten(0, 1), device)
    if isinstance(first, list):
        branches = zip(*[leaf for leaf in leaves if isinstance(leaf, list)], strict=True)
        return [_wide(row, device) for branch in branches for row in branch]
    return first


def _wide(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, torch.float32 if tensor.is_floating_point() else tensor.dtype)


# --------------------------------------------------------------------------------- in a pipeline


@contextmanager
def recorded(pipe: Any, shared: Sequence[Sequence[bool]] | None) -> Iterator[list[Answer]]:
    """Collect what the pipeline's encoders return in one call of it.

    Args:
        pipe: The pipeline.
        shared: By call, as in ``flattened``.
    """
    answers: list[Answer] = []
    depth = 0

    def watching(encode: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            depth += 1  # one may ask the other
            try:
                returned = encode(*args, **kwargs)
            finally:
                depth -= 1
            if depth == 0:
                known = shared[len(answers)] if shared is not None and len(answers) < len(shared) else None
                answers.append(flattened(returned, shared=known))
            return returned

        return ask

    with _replaced(pipe, watching):
        yield answers


@contextmanager
def told(pipe: Any, answers: Answers) -> Iterator[None]:
    """Have the pipeline's encoders return recorded answers, in order."""
    left = iter(answers)

    def telling(_: Callable[..., Any]) -> Callable[..., Any]:
        def tell(*args: Any, **kwargs: Any) -> Any:
            del args, kwargs
            answer = next(left, None)
            if answer is None:
                raise ValueError("the pipeline asks its text encoder more often than it did at rollout")
            return answer.value()

        return tell

    with _replaced(pipe, telling):
        yield


@contextmanager
def _replaced(pipe: Any, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    names = [name for name in ENCODERS if hasattr(type(pipe), name)]
    for name in names:
        setattr(pipe, name, make(getattr(pipe, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(pipe, name)


# --------------------------------------------------------------------------------- packed


def pack(answers: Answers) -> Packed:
    """Write answers as the bytes of a safetensors file: any dtype, and nothing that is code."""
    tensors: dict[str, Tensor] = {}
    calls = []
    for index, answer in enumerate(answers):
        leaves: list[Any] = []
        for place, leaf in enumerate(answer.leaves):
            rows = leaf if isinstance(leaf, list) else [leaf] if isinstance(leaf, Tensor) else []
            names = [f"{index}.{place}.{row}" for row in range(len(rows))]
            tensors.update(zip(names, (row.contiguous().clone() for row in rows), strict=True))
            kind = "list" if isinstance(leaf, list) else "tensor" if rows else "value"
            leaves.append([kind, names if rows else leaf])
        calls.append({"tree": treespec_dumps(answer.tree), "shared": answer.shared, "leaves": leaves})
    return np.frombuffer(save(tensors, metadata={"calls": json.dumps(calls)}), dtype=np.uint8)


def unpack(packed: Packed) -> Answers:
    """Read what ``pack`` wrote."""
    content = packed.tobytes()
    tensors = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return tuple(
        Answer(
            leaves=tuple(_unpacked(kind, held, tensors) for kind, held in call["leaves"]),
            tree=treespec_loads(call["tree"]),
            shared=tuple(call["shared"]),
        )
        for call in json.loads(header["__metadata__"]["calls"])
    )


def _unpacked(kind: str, held: Any, tensors: dict[str, Tensor]) -> Leaf:
    if kind == "value":
        value: Leaf = held
        return value
    rows = [tensors[name] for name in held]
    return rows if kind == "list" else rows[0]
