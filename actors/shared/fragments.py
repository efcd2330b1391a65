"""Files of what ZeRO ranks hold, by parameter: written by any number of ranks under any stage, read by any other.

A rank holds a fragment of a parameter, a run of its elements, somewhere in a flat shard; so it is with the float32
weight as with everything that is kept beside it. Each rank writes its own fragments and nothing is gathered; a reader
copies what overlaps its own, from whichever files have it. safetensors only: nothing of it can run code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from configs.errors import first_line
from rl.errors import LearnerError, UntrustedFileError

FILE_BYTES = 2 << 30
"""A file is closed when it is as large; bounds the copy on the host."""

Shards = Mapping[str, Sequence[Tensor]]
"""By kind (weight, moment, average) this rank's flat shards, all cut alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """The part of a parameter that lies in one of this rank's shards."""

    name: str
    """Of the parameter."""
    num_total: int
    """Elements of the whole parameter."""
    start: int
    """First element of it that is here."""
    length: int
    """Elements that are here; 0 where none is."""
    shard: int
    """Index of the shard."""
    offset: int
    """Where in the shard they begin."""

    def of(self, shards: Sequence[Tensor]) -> Tensor:
        """Return the elements, a view."""
        return shards[self.shard].detach().narrow(0, self.offset, self.length)


def fragments_of(engine: Any) -> list[Fragment]:
    """Return what a DeepSpeed engine's rank has of every trained parameter, in the order of the module.

    Raises:
        LearnerError: If the engine is offloaded: then DeepSpeed does not know.
    """
    if engine.optimizer.offloaded_states:
        raise LearnerError("a learner that sleeps has no state to save or load; wake it first")
    find = _in_stage_3 if engine.zero_optimization_stage() == 3 else _below_stage_3
    trained = ((name, p) for name, p in engine.module.named_parameters() if p.requires_grad)
    return [find(engine.optimizer, name, parameter) for name, parameter in trained]


def _in_stage_3(optimizer: Any, name: str, parameter: Any) -> Fragment:
    """Every rank has as many elements, of which the last ones may be padding."""
    shard, offset, num_each = optimizer.grad_position[optimizer.get_param_id(parameter)]
    start = min(num_each * torch.distributed.get_rank(), parameter.ds_numel)
    length = min(num_each, parameter.ds_numel - start)
    return Fragment(
        name=name, num_total=parameter.ds_numel, start=start, length=length, shard=shard, offset=offset
    )


def _below_stage_3(_: Any, name: str, parameter: Any) -> Fragment:
    """Parameters lie one after the other over all ranks' shards."""
    mapping = parameter._hp_mapping
    if mapping is None:
        return Fragment(name=name, num_total=parameter.numel(), start=0, length=0, shard=0, offset=0)
    here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
    return Fragment(
        name=name,
        num_total=parameter.numel(),
        start=here.start,
        length=here.numel,
        shard=mapping.param_group_index,
        offset=there.start,
    )


# --------------------------------------------------------------------------------- files


def write_fragments(
    folder: Path, fragments: Sequence[Fragment], shards: Shards, *, rank: int, num_ranks: int
) -> None:
    """Write this rank's fragments of every kind of shard."""
    pieces: dict[str, Tensor] = {}
    num_files = num_bytes = 0
    here = [
        (kind, held, fragment) for kind, held in shards.items() for fragment in fragments if fragment.length
    ]
    for kind, held, fragment in here:
        piece = fragment.of(held).to("cpu", copy=True)
        pieces[f"{kind}/{fragment.start}/{fragment.name}"] = piece
        num_bytes += piece.nbytes
        if num_bytes >= FILE_BYTES:
            save_file(pieces, folder / _file(rank, num_ranks, num_files))
            pieces, num_files, num_bytes = {}, num_files + 1, 0
    save_file(pieces, folder / _file(rank, num_ranks, num_files))


def _file(rank: int | str, num_ranks: int, number: int | str) -> str:
    return f"rank_{rank}_of_{num_ranks}_{number}.safetensors"


@dataclass(frozen=True, slots=True)
class _Piece:
    """A fragment in a file."""

    start: int
    length: int
    file: Any
    key: str


def read_fragments(folder: Path, fragments: Sequence[Fragment], shards: Shards, *, num_ranks: int) -> None:
    """Fill this rank's fragments of every kind of shard from what ``num_ranks`` ranks wrote.

    Raises:
        LearnerError: If other parameters were trained, or a part is missing.
        UntrustedFileError: If a file is no safetensors file.
    """
    with ExitStack() as stack:
        pieces = _pieces(folder, num_ranks, stack)
        if not pieces:
            raise LearnerError(f"{folder} has no file of its {num_ranks} ranks")
        names = {fragment.name for fragment in fragments}
        if other := sorted(names ^ {name for _, name in pieces}):
            raise LearnerError(
                f"the learner state in {folder} is of other parameters, e.g. {other[0]}; was learner.lora the same?"
            )
        for kind, held in shards.items():
            for fragment in fragments:
                _fill(
                    fragment, fragment.of(held), pieces.get((kind, fragment.name), ()), f"{kind} in {folder}"
                )


def _pieces(folder: Path, num_ranks: int, stack: ExitStack) -> dict[tuple[str, str], list[_Piece]]:
    """Open all files and list what is in them, by kind and name of parameter."""
    pieces: dict[tuple[str, str], list[_Piece]] = {}
    for path in sorted(folder.glob(_file("*", num_ranks, "*"))):
        try:
            file: Any = stack.enter_context(safe_open(path, framework="pt"))
            keys: list[str] = file.keys()
            for key in keys:
                kind, start, name = key.split("/", 2)
                (length,) = file.get_slice(key).get_shape()
                piece = _Piece(start=int(start), length=length, file=file, key=key)
                pieces.setdefault((kind, name), []).append(piece)
        except (SafetensorError, ValueError) as error:
            raise UntrustedFileError(
                f"{path} is no file of a learner's state, or is damaged ({first_line(error)}); nothing of it is read"
            ) from error
    return pieces


def _fill(fragment: Fragment, target: Tensor, pieces: Iterable[_Piece], what: str) -> None:
    num_total = sum(piece.length for piece in pieces)
    if num_total != fragment.num_total:
        raise LearnerError(
            f"{what}: {num_total} elements of {fragment.name}, want {fragment.num_total}; a file is missing, or the "
            "model is another"
        )
    end = fragment.start + fragment.length
    for piece in pieces:
        first, last = max(fragment.start, piece.start), min(end, piece.start + piece.length)
        if first < last:
            values = piece.file.get_slice(piece.key)[first - piece.start : last - piece.start]
            target[first - fragment.start : last - fragment.start].copy_(values)
