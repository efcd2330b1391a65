"""Buckets and manifests: what goes in comes out, and damage is found and named."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.weights.buckets import ALIGNMENT, Bucket, BufferPool, ahead, pack, stream_buckets, unpack
from rl.errors import WeightSyncError
from rl.types import Manifest

DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int8,
    torch.int64,
    torch.bool,
    torch.float8_e4m3fn,
)


@st.composite
def models(draw):
    shapes = draw(st.lists(st.lists(st.integers(0, 7), max_size=3), max_size=12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    out = []
    for index, shape in enumerate(shapes):
        dtype = draw(st.sampled_from(DTYPES))
        tensor = (torch.randn(shape, generator=generator) * 3).to(dtype)
        if draw(st.booleans()) and tensor.ndim > 1:
            tensor = tensor.transpose(0, 1)
        out.append((f"layer.{index}", tensor))
    return out


def lent(tensors, bucket_bytes, pool=None):
    *buckets, manifest = stream_buckets("text", 3, tensors, bucket_bytes, pool=pool)
    return buckets, manifest


def publish(tensors, bucket_bytes):
    *buckets, manifest = pack("text", 3, tensors, bucket_bytes)
    assert isinstance(manifest, Manifest)
    assert all(isinstance(bucket, Bucket) for bucket in buckets)
    return buckets, manifest


def bits(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8) if tensor.numel() else tensor.view(-1)


@settings(deadline=None, max_examples=150)
@given(models(), st.integers(1, 600), st.booleans(), st.sampled_from(["packed", "lent", "copied"]))
def test_round_trip_keeps_every_bit(tensors, bucket_bytes, readonly, way):
    buckets, manifest = publish(tensors, bucket_bytes)
    data = [bucket.data for bucket in buckets]
    if way != "packed":
        packed = manifest
        data, manifest = lent(tensors, bucket_bytes, BufferPool() if way == "copied" else None)
        assert manifest == packed
        data = [[piece.copy() for piece in pieces] for pieces in data]
    for array in data if way == "packed" else itertools.chain(*data):
        if readonly:
            array.setflags(write=False)
    got = list(unpack(manifest, data))
    assert [name for name, _ in got] == [name for name, _ in tensors]
    for (_, want), (_, tensor) in zip(tensors, got, strict=True):
        assert tensor.dtype == want.dtype
        assert tensor.shape == want.shape
        assert torch.equal(bits(tensor), bits(want))


@settings(deadline=None, max_examples=100)
@given(models(), st.integers(1, 600))
def test_layout(tensors, bucket_bytes):
    buckets, manifest = publish(tensors, bucket_bytes)
    assert [bucket.index for bucket in buckets] == list(range(len(buckets)))
    assert tuple(bucket.digest for bucket in buckets) == manifest.digests
    assert tuple(bucket.data.size for bucket in buckets) == manifest.bucket_bytes
    for index, bucket in enumerate(buckets):
        inside = [spec for spec in manifest.tensors if spec.bucket == index]
        assert all(spec.offset % ALIGNMENT == 0 for spec in inside)
        assert len(inside) == 1 or bucket.data.size <= bucket_bytes
        for left, right in itertools.pairwise(inside):
            assert left.offset + left.num_bytes <= right.offset


def test_buckets_stream_before_the_next_tensor_is_asked_for():
    asked = []

    def tensors():
        for index in range(4):
            asked.append(index)
            yield f"t{index}", torch.zeros(64)

    stream = pack("text", 0, tensors(), 600)
    next(stream)
    assert asked == [0, 1, 2]


def test_views_share_memory_with_the_bucket():
    buckets, manifest = publish([("a", torch.arange(5.0))], 64)
    ((_, tensor),) = unpack(manifest, [bucket.data for bucket in buckets])
    assert tensor.data_ptr() == buckets[0].data.ctypes.data


def test_lent_weights_are_not_copied_unless_a_pool_is_given():
    weights = [("a", torch.arange(5.0)), ("b", torch.arange(6.0))]
    pieces, manifest = lent(weights, 1000)
    assert [t.data_ptr() for _, t in unpack(manifest, pieces)] == [t.data_ptr() for _, t in weights]

    def whole_until_the_next():
        gathered = torch.empty(3)
        for value in range(4):
            yield f"t{value}", gathered.fill_(value)

    pieces, manifest = lent(whole_until_the_next(), 1000, BufferPool())
    assert [tensor.tolist() for _, tensor in unpack(manifest, pieces)] == [[value] * 3 for value in range(4)]


def test_same_weights_have_the_same_digests():
    tensors = [(f"t{i}", torch.full((3, i), float(i))) for i in range(5)]
    assert publish(tensors, 128)[1] == publish(tensors, 128)[1]


@settings(deadline=None, max_examples=60)
@given(st.data(), st.booleans())
def test_flipped_byte_is_found_and_named(data, is_lent):
    """In any tensor; what lies between them is nobody's."""
    tensors = [(f"t{i}", torch.randn(17)) for i in range(6)]
    spec = data.draw(st.sampled_from(publish(tensors, 200)[1].tensors))
    first = next(other.name for other in publish(tensors, 200)[1].tensors if other.bucket == spec.bucket)
    at, flip = data.draw(st.integers(0, spec.num_bytes - 1)), 1 << data.draw(st.integers(0, 7))
    if is_lent:
        arrays, manifest = lent(tensors, 200)
        place = [other.name for other in manifest.tensors if other.bucket == spec.bucket].index(spec.name)
        arrays[spec.bucket][place][at] ^= flip
    else:
        buckets, manifest = publish(tensors, 200)
        arrays = [bucket.data for bucket in buckets]
        arrays[spec.bucket][spec.offset + at] ^= flip
    with pytest.raises(WeightSyncError, match=rf"version 3: bucket {spec.bucket} \({first},.*digest"):
        unpack(manifest, arrays)


def test_cut_and_missing_buckets_are_found():
    buckets, manifest = publish([("a", torch.ones(9)), ("b", torch.zeros(9))], 40)
    arrays = [bucket.data for bucket in buckets]
    with pytest.raises(WeightSyncError, match=r"bucket 1 .*has 35 bytes, 36 were sent"):
        unpack(manifest, [arrays[0], arrays[1][:-1]])
    pieces, _ = lent([("a", torch.ones(9)), ("b", torch.zeros(9))], 40)
    with pytest.raises(WeightSyncError, match=r"bucket 1 .*has \[35\] bytes, \[36\] were sent"):
        unpack(manifest, [pieces[0], [pieces[1][0][:-1]]])
    with pytest.raises(WeightSyncError, match=r"bucket 1 .*has \[\] bytes, \[36\] were sent"):
        unpack(manifest, [pieces[0], []])
    with pytest.raises(WeightSyncError, match="1 buckets arrived, 2 were sent"):
        unpack(manifest, arrays[:1])
    swapped = dataclasses.replace(manifest, digests=manifest.digests[::-1])
    with pytest.raises(WeightSyncError, match="bucket 0 "):
        unpack(swapped, arrays)


@pytest.mark.parametrize("make", [pack, stream_buckets])
def test_bucket_size_must_be_positive(make):
    with pytest.raises(ValueError, match="bucket_bytes=0"):
        list(make("text", 0, [], 0))


def test_a_buffer_is_used_again_only_when_nobody_holds_a_view_of_it():
    pool = BufferPool()
    first = pool.take(100)
    place = first.ctypes.data
    view = torch.from_numpy(first[:10])
    del first
    assert pool.take(100).ctypes.data != place
    part = view[2:4].numpy()
    del view
    assert pool.take(100).ctypes.data != place
    del part
    assert pool.take(100).ctypes.data == place


def test_what_lies_between_tensors_has_no_part_in_digests():
    tensors = [("a", torch.ones(3)), ("b", torch.ones(5))]
    pool = BufferPool()
    pool.take(1000)[:] = 255
    *_, fresh = pack("text", 0, tensors, 1000)
    *buckets, used = pack("text", 0, tensors, 1000, pool=pool)
    assert used == fresh
    assert dict(unpack(used, [bucket.data for bucket in buckets]))["b"].tolist() == [1.0] * 5


def test_packing_ahead_changes_nothing_and_passes_errors_on():
    tensors = [(f"t{i}", torch.full((50,), float(i))) for i in range(7)]
    pool = BufferPool()
    for _ in range(3):
        *buckets, manifest = ahead(pack("text", 1, tensors, 500, pool=pool))
        assert manifest == dataclasses.replace(publish(tensors, 500)[1], version=1)
        assert [tensor[0].item() for _, tensor in unpack(manifest, [b.data for b in buckets])] == [*range(7)]
    with pytest.raises(ValueError, match="bucket_bytes=0"):
        list(ahead(pack("text", 0, [], 0)))
