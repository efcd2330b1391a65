"""What some ranks wrote and others read, without DeepSpeed: nothing is lost, whatever the layouts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.shared import fragments
from actors.shared.fragments import Fragment, read_fragments, write_fragments
from rl.errors import LearnerError

KINDS = ("weight", "average")


def one_after_the_other(sizes, num_ranks):
    """As below stage 3: all parameters in a row, cut into equal shards."""
    length = -(-sum(sizes) // num_ranks)
    ranks = []
    for rank in range(num_ranks):
        first, last, at, found = rank * length, (rank + 1) * length, 0, []
        for index, size in enumerate(sizes):
            a, b = max(first, at), min(last, at + size)
            start = a - at if a < b else 0
            found.append(fragment(index, size, start, max(0, b - a), offset=a - first if a < b else 0))
            at += size
        ranks.append((found, length))
    return ranks


def each_cut(sizes, num_ranks):
    """As in stage 3: every parameter cut into equal parts, the last ones padded."""
    ranks = []
    for rank in range(num_ranks):
        offset, found = 0, []
        for index, size in enumerate(sizes):
            each = -(-size // num_ranks)
            start = min(each * rank, size)
            found.append(fragment(index, size, start, min(each, size - start), offset=offset))
            offset += each
        ranks.append((found, offset))
    return ranks


def fragment(index, size, start, length, *, offset):
    return Fragment(name=f"p{index}", num_total=size, start=start, length=length, shard=0, offset=offset)


def values_of(kind, index, size):
    return torch.arange(size, dtype=torch.float32) + 1000 * index + (0.5 if kind == "average" else 0.0)


def written(folder, ranks, kinds=KINDS):
    for rank, (held, length) in enumerate(ranks):
        shards = {}
        for kind in kinds:
            shards[kind] = [torch.full((length,), float("nan"))]
            for index, part in enumerate(held):
                part.of(shards[kind]).copy_(
                    values_of(kind, index, part.num_total)[part.start :][: part.length]
                )
        write_fragments(folder, held, shards, rank=rank, num_ranks=len(ranks))


layouts = st.tuples(st.sampled_from([one_after_the_other, each_cut]), st.integers(1, 5))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 23), min_size=1, max_size=6), layouts, layouts, st.sampled_from([1, 40, 1 << 30])
)
def test_any_ranks_read_what_any_ranks_wrote(sizes, before, after, file_bytes):
    (lay, num_writers), (lay_again, num_readers) = before, after
    with tempfile.TemporaryDirectory() as name, mock.patch.object(fragments, "FILE_BYTES", file_bytes):
        folder = Path(name)
        written(folder, lay(sizes, num_writers))
        for held, length in lay_again(sizes, num_readers):
            shards = {kind: [torch.full((length,), float("nan"))] for kind in KINDS}
            read_fragments(folder, held, shards, num_ranks=num_writers)
            for kind in KINDS:
                for index, part in enumerate(held):
                    want = values_of(kind, index, part.num_total)[part.start :][: part.length]
                    assert torch.equal(part.of(shards[kind]), want)


def test_a_rank_whose_file_is_gone_is_noticed(tmp_path):
    ranks = one_after_the_other([7, 9], 2)
    written(tmp_path, ranks)
    (tmp_path / "rank_1_of_2_0.safetensors").unlink()
    held, length = each_cut([7, 9], 1)[0]
    with pytest.raises(LearnerError, match=r"weight in .*: 1 elements of p1, want 9; a file is missing"):
        read_fragments(tmp_path, held, {"weight": [torch.zeros(length)]}, num_ranks=2)


def test_other_parameters_are_named(tmp_path):
    written(tmp_path, each_cut([7], 1))
    held, length = each_cut([7, 3], 1)[0]
    with pytest.raises(LearnerError, match=r"of other parameters, e\.g\. p1; was learner\.lora the same"):
        read_fragments(tmp_path, held, {"weight": [torch.zeros(length)]}, num_ranks=1)


def test_files_of_another_number_of_ranks_are_left_alone(tmp_path):
    written(tmp_path, each_cut([7], 3))
    (tmp_path / "rank_0_of_1_0.safetensors").write_bytes(b"left by an attempt that was broken off")
    held, length = each_cut([7], 1)[0]
    shard = torch.zeros(length)
    read_fragments(tmp_path, held, {"weight": [shard]}, num_ranks=3)
    assert torch.equal(shard, values_of("weight", 0, 7))
