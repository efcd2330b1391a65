"""Buckets of weights: a few large pieces of bytes, and a manifest that proves that they arrived.

A publication streams: a full bucket is digested and handed out while the next one fills. ``stream_buckets`` hands out
the tensors where they lie, for a transport that copies them itself (Ray's object store); ``pack`` copies them into
contiguous buckets, for one that sends memory (a broadcast) or shares it (CUDA IPC). Both make the same manifest.
Nothing here knows how buckets travel (``actors.weights``) or which engine loads them.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from rl.errors import WeightSyncError
from rl.types import Manifest, TensorSpec

T = TypeVar("T")
Bytes = NDArray[np.uint8]
Memory = TypeVar("Memory", Bytes, Tensor)
Received = Bytes | Tensor | Sequence[Bytes]
"""A bucket as a worker has it: bytes in its memory, ``uint8[num_bytes]`` on its GPU, or the bytes of each tensor."""
CPU = torch.device("cpu")

ALIGNMENT = 64
"""Bytes. Every tensor starts at a multiple of it: a cache line, and whole elements of any dtype."""
NUM_OWN_REFERENCES = 2
"""References to a buffer that nobody outside its pool holds: the pool's list, and the call that counts them."""
NUM_NAMED = 3
"""Tensors of a broken bucket that the error names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """One packed bucket on its way."""

    index: int
    data: Bytes
    """``[num_bytes]``, at most the bucket size unless it holds a single larger tensor.
    In host memory, whatever device the weights are on."""
    digest: str
    """xxh3-128 of the tensors in it, hex."""
    tensor: Tensor
    """The same bytes where the bucket was packed: ``uint8[num_bytes]``."""


class BufferPool:
    """Host memory that is used again once nobody holds it: fresh pages cost more than the copy into them."""

    def __init__(self) -> None:
        self._buffers: defaultdict[int, list[Bytes]] = defaultdict(list)

    def take(self, num_bytes: int) -> Bytes:
        """Return ``num_bytes`` of any content. They are taken for free when no view of them is left."""
        buffers = self._buffers[num_bytes]
        for index in range(len(buffers)):
            # Every view of an array holds the array itself.
            if sys.getrefcount(buffers[index]) == NUM_OWN_REFERENCES:
                return buffers[index][:]
        buffers.append(np.empty(num_bytes, dtype=np.uint8))
        return buffers[-1][:]


# --------------------------------------------------------------------------------- sending


@dataclass(slots=True, kw_only=True)
class _Layout:
    """Which tensor lies where; grows as tensors come."""

    capacity: int
    """Of a bucket, bytes."""
    used: int = 0
    """Of the open bucket, bytes."""
    specs: list[TensorSpec] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ValueError(f"bucket_bytes={self.capacity}: want at least 1")

    def fits(self, tensor: Tensor) -> bool:
        """Return whether a tensor fits behind what the open bucket holds."""
        return aligned(self.used) + tensor.nbytes <= self.capacity

    def place(self, name: str, tensor: Tensor) -> TensorSpec:
        """Give a tensor the next place in the open bucket."""
        offset = aligned(self.used)
        spec = TensorSpec(
            name=name,
            shape=tuple(tensor.shape),
            dtype=str(tensor.dtype).removeprefix("torch."),
            bucket=len(self.digests),
            offset=offset,
            num_bytes=tensor.nbytes,
        )
        self.used = offset + tensor.nbytes
        self.specs.append(spec)
        return spec

    def close(self, pieces: Iterable[Bytes]) -> str:
        """End the open bucket and return its digest."""
        self.sizes.append(self.used)
        self.digests.append(digest(pieces))
        self.used = 0
        return self.digests[-1]

    def manifest(self, policy: str, version: int) -> Manifest:
        """Describe all buckets."""
        return Manifest(
            policy=policy,
            version=version,
            tensors=tuple(self.specs),
            bucket_bytes=tuple(self.sizes),
            digests=tuple(self.digests),
        )


def aligned(offset: int) -> int:
    """Round up to the next multiple of ``ALIGNMENT``, bytes."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def digest(pieces: Iterable[Bytes]) -> str:
    """Return the xxh3-128 of contiguous bytes, one after another, hex."""
    state = xxhash.xxh3_128()
    for piece in pieces:
        state.update(piece.data)
    return state.hexdigest()


def stream_buckets(
    policy: str,
    version: int,
    tensors: Iterable[tuple[str, Tensor]],
    bucket_bytes: int,
    *,
    pool: BufferPool | None = None,
) -> Iterator[list[Bytes] | Manifest]:
    """Stream weights where they lie, a bucket at a time, then the manifest.

    Args:
        policy: Name of the policy.
        version: Weight version.
        tensors: Names and tensors of any dense dtype, in host memory, which nobody writes to before the stream ends.
        bucket_bytes: Capacity of a bucket, bytes. A larger tensor gets a bucket of its own.
        pool: Copy each tensor there first. For tensors on a GPU, and for those that are whole only until the next
            one is asked for (ZeRO-3).

    Yields:
        Each bucket, as the bytes of its tensors, when it is full and digested; at the end the ``Manifest``. Lent until
        the stream ends: who keeps a bucket longer copies it.

    Raises:
        ValueError: If ``bucket_bytes`` is not positive.
    """
    layout = _Layout(capacity=bucket_bytes)
    pieces: list[Bytes] = []
    for name, tensor in tensors:
        if pieces and not layout.fits(tensor):
            layout.close(pieces)
            yield pieces
            pieces = []
        layout.place(name, tensor)
        pieces.append(_bytes_of(tensor) if pool is None else _copied(tensor, pool))
    if pieces:
        layout.close(pieces)
        yield pieces
    yield layout.manifest(policy, version)


def _bytes_of(tensor: Tensor) -> Bytes:
    """Return a tensor's bytes in the order of its elements; a copy only where they do not lie so."""
    flat: Bytes = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
    return flat


def _copied(tensor: Tensor, pool: BufferPool) -> Bytes:
    """Copy a tensor, straight from its device."""
    data = pool.take(tensor.nbytes)
    if data.size:  # torch views no empty array as another dtype
        _copy(tensor, torch.from_numpy(data))
    return data


def _copy(tensor: Tensor, target: Tensor) -> None:
    target.view(tensor.dtype).view(tensor.shape).copy_(tensor.detach())


def pack(
    policy: str,
    version: int,
    tensors: Iterable[tuple[str, Tensor]],
    bucket_bytes: int,
    *,
    device: torch.device = CPU,
    pool: BufferPool | None = None,
) -> Iterator[Bucket | Manifest]:
    """Stream weights as contiguous buckets, then the manifest.

    Args:
        policy: Name of the policy.
        version: Weight version.
        tensors: Names and tensors of any dense dtype, on any device; taken one at a time, so it may gather
            a sharded parameter only when it is asked for it.
        bucket_bytes: Capacity of a bucket, bytes. A larger tensor gets a bucket of its own.
        device: Where buckets are filled; the CPU, or the GPU from which they will be sent.
        pool: Host memory from before; a bucket that somebody still holds is never filled again.

    Yields:
        Each ``Bucket`` as soon as it is full, at the end the ``Manifest``.

    Raises:
        ValueError: If ``bucket_bytes`` is not positive.
    """
    layout, pool = _Layout(capacity=bucket_bytes), pool or BufferPool()
    data: Tensor | None = None
    inside: list[TensorSpec] = []
    for name, tensor in tensors:
        if data is not None and not layout.fits(tensor):
            yield _packed(layout, data, inside)
            data, inside = None, []
        if data is None:
            data = _opened(max(bucket_bytes, tensor.nbytes), device, pool)
        spec = layout.place(name, tensor)
        inside.append(spec)
        _copy(tensor, data[spec.offset : spec.offset + spec.num_bytes])
    if data is not None:
        yield _packed(layout, data, inside)
    yield layout.manifest(policy, version)


def _opened(num_bytes: int, device: torch.device, pool: BufferPool) -> Tensor:
    if device.type == "cpu":
        return torch.from_numpy(pool.take(num_bytes))
    return torch.empty(num_bytes, dtype=torch.uint8, device=device)


def _packed(layout: _Layout, data: Tensor, inside: Sequence[TensorSpec]) -> Bucket:
    tensor = data[: layout.used]
    host: Bytes = tensor.cpu().numpy()
    proof = layout.close(_pieces(host, inside))
    return Bucket(index=inside[0].bucket, data=host, digest=proof, tensor=tensor)


def ahead(parts: Iterator[T]) -> Iterator[T]:
    """Make each part in a thread while the one before it is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        coming = thread.submit(next, parts, None)
        while (part := coming.result()) is not None:
            coming = thread.submit(next, parts, None)
            yield part


# --------------------------------------------------------------------------------- receiving


def unpack(manifest: Manifest, buckets: Sequence[Received]) -> Iterator[tuple[str, Tensor]]:
    """Check every bucket, then return the tensors as views of them.

    Args:
        manifest: What was published.
        buckets: All buckets in order, each contiguous or as the bytes of its tensors. They may be read-only (shared
            memory).

    Returns:
        Names and tensors. They share memory with the buckets: copy *from* them, never write to them.

    Raises:
        WeightSyncError: If a bucket is missing, cut or changed. Raised by the call, before any tensor.
    """
    if len(buckets) != len(manifest.digests):
        raise WeightSyncError(
            f"policy {manifest.policy} version {manifest.version}: {len(buckets)} buckets arrived, "
            f"{len(manifest.digests)} were sent; publish again"
        )
    inside: defaultdict[int, list[TensorSpec]] = defaultdict(list)
    for spec in manifest.tensors:
        inside[spec.bucket].append(spec)
    for index, data in enumerate(buckets):
        want, size = _sizes(manifest.bucket_bytes[index], data, inside[index])
        if size != want:
            raise _broken(manifest, index, f"has {size} bytes, {want} were sent")
        host = data.cpu().numpy() if isinstance(data, Tensor) else data
        if digest(_pieces(host, inside[index])) != manifest.digests[index]:
            raise _broken(manifest, index, "has another digest than was sent")
    return _views(inside, buckets)


def _sizes(packed_bytes: int, data: Received, inside: Sequence[TensorSpec]) -> tuple[object, object]:
    """Return the size that a bucket must have, and what it has: of each tensor, where they came apart."""
    if isinstance(data, Tensor | np.ndarray):
        return packed_bytes, data.nbytes
    return [spec.num_bytes for spec in inside], [piece.nbytes for piece in data]


def _pieces(data: Memory | Sequence[Memory], inside: Sequence[TensorSpec]) -> Sequence[Memory]:
    """Return the bytes of each tensor in a bucket."""
    if isinstance(data, Tensor | np.ndarray):
        return [data[spec.offset : spec.offset + spec.num_bytes] for spec in inside]
    return data


def _broken(manifest: Manifest, index: int, what: str) -> WeightSyncError:
    """Name the policy, the bucket and the first tensors in it."""
    names = ", ".join(islice((s.name for s in manifest.tensors if s.bucket == index), NUM_NAMED))
    return WeightSyncError(
        f"policy {manifest.policy} version {manifest.version}: bucket {index} ({names}, ...) {what}; "
        "publish again"
    )


class _Alias:
    """Read-only bytes under a writable flag: torch warns of every read-only array otherwise."""

    def __init__(self, data: Bytes) -> None:
        self._owner = data
        interface = dict(data.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def _views(
    inside: Mapping[int, Sequence[TensorSpec]], buckets: Sequence[Received]
) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor as a view of its bucket."""
    for index, data in enumerate(buckets):
        specs = inside[index]
        pieces: Sequence[Tensor]
        if isinstance(data, Tensor):
            pieces = _pieces(data, specs)
        else:
            pieces = [torch.from_numpy(np.asarray(_Alias(piece))) for piece in _pieces(data, specs)]
        for spec, piece in zip(specs, pieces, strict=True):
            yield spec.name, piece.view(getattr(torch, spec.dtype)).view(spec.shape)
