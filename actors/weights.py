"""Weights as a few large buckets of bytes and a manifest that proves that they arrived.

A publication streams: tensors are copied, once each, into a bucket; a full bucket is digested and handed
out while the next one fills. Nothing here knows how the buckets travel (``actors.transports``) or which engine
loads them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from rl.errors import WeightSyncError
from rl.types import Manifest, TensorSpec

Bytes = NDArray[np.uint8]
Received = Bytes | Tensor
"""A bucket as a worker has it: bytes in its memory, or ``uint8[num_bytes]`` on its GPU."""
CPU = torch.device("cpu")

ALIGNMENT = 64
"""Bytes. Every tensor starts at a multiple of it: a cache line, and whole elements of any dtype."""
NUM_OWN_REFERENCES = 2
"""References to a buffer that nobody outside its pool holds: the pool's list, and the call that counts them."""
NUM_NAMED = 3
"""Tensors of a broken bucket that the error names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """One filled bucket on its way."""

    index: int
    data: Bytes
    """``[num_bytes]``, at most the bucket size unless it holds a single larger tensor."""
    """In host memory, whatever device the weights are on."""
    digest: str
    """xxh3-128 of ``data``, hex."""
    tensor: Tensor
    """The same bytes where the bucket was packed: ``uint8[num_bytes]``."""


class BufferPool:
    """Host memory that is used again once nobody holds it: fresh pages cost more than the copy into them."""

    def __init__(self) -> None:
        self._buffers: list[Bytes] = []

    def take(self, num_bytes: int) -> Bytes:
        """Return ``num_bytes`` of any content. It is taken for free when no view of it is left."""
        for index in range(len(self._buffers)):
            # Every view of an array holds the array itself.
            is_free = sys.getrefcount(self._buffers[index]) == NUM_OWN_REFERENCES
            if is_free and self._buffers[index].size >= num_bytes:
                return self._buffers[index][:num_bytes]
        self._buffers.append(np.empty(num_bytes, dtype=np.uint8))
        return self._buffers[-1][:]

    def drop(self) -> None:
        """Give back what nobody holds."""
        self._buffers.clear()


@dataclass(slots=True, kw_only=True)
class _Packer:
    """The bucket that is being filled, and what was handed out before."""

    capacity: int
    device: torch.device
    pool: BufferPool
    data: Tensor | None = None
    host: Bytes | None = None
    """The same memory, where ``data`` is on the CPU."""
    used: int = 0
    specs: list[TensorSpec] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)

    def fits(self, num_bytes: int) -> bool:
        """Return whether a tensor fits behind what the open bucket holds."""
        return self.data is None or aligned(self.used) + num_bytes <= self.capacity

    def add(self, name: str, tensor: Tensor) -> None:
        """Copy one tensor in, straight from its device."""
        num_bytes = tensor.numel() * tensor.element_size()
        if self.data is None:
            self._open(max(self.capacity, num_bytes))
        assert self.data is not None
        offset = aligned(self.used)
        # The gaps between tensors must have one digest in every run.
        self.data[self.used : offset] = 0
        target = self.data[offset : offset + num_bytes]
        target.view(tensor.dtype).view(tensor.shape).copy_(tensor.detach())
        self.used = offset + num_bytes
        self.specs.append(
            TensorSpec(
                name=name,
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
                bucket=len(self.digests),
                offset=offset,
                num_bytes=num_bytes,
            )
        )

    def _open(self, num_bytes: int) -> None:
        if self.device.type == "cpu":
            self.host = self.pool.take(num_bytes)
            self.data = torch.from_numpy(self.host)
        else:
            self.data = torch.empty(num_bytes, dtype=torch.uint8, device=self.device)

    def close(self) -> Iterator[Bucket]:
        """Digest and hand out the open bucket, if there is one."""
        if self.data is None:
            return
        tensor = self.data[: self.used]
        data = tensor.cpu().numpy() if self.host is None else self.host[: self.used]
        bucket = Bucket(index=len(self.digests), data=data, digest=digest(data), tensor=tensor)
        self.sizes.append(self.used)
        self.digests.append(bucket.digest)
        self.data, self.host, self.used = None, None, 0
        yield bucket


def aligned(offset: int) -> int:
    """Round up to the next multiple of ``ALIGNMENT``, bytes."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def digest(data: Received) -> str:
    """Return the xxh3-128 of contiguous bytes, hex."""
    return xxhash.xxh3_128_hexdigest((data.cpu().numpy() if isinstance(data, Tensor) else data).data)


def pack(
    policy: str,
    version: int,
    tensors: Iterable[tuple[str, Tensor]],
    bucket_bytes: int,
    *,
    device: torch.device = CPU,
    pool: BufferPool | None = None,
) -> Iterator[Bucket | Manifest]:
    """Stream weights as buckets, then the manifest.

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
    if bucket_bytes < 1:
        raise ValueError(f"bucket_bytes={bucket_bytes}: want at least 1")
    packer = _Packer(capacity=bucket_bytes, device=device, pool=pool or BufferPool())
    for name, tensor in tensors:
        if not packer.fits(tensor.numel() * tensor.element_size()):
            yield from packer.close()
        packer.add(name, tensor)
    yield from packer.close()
    yield Manifest(
        policy=policy,
        version=version,
        tensors=tuple(packer.specs),
        bucket_bytes=tuple(packer.sizes),
        digests=tuple(packer.digests),
    )


def ahead(parts: Iterator[Bucket | Manifest]) -> Iterator[Bucket | Manifest]:
    """Make each part in a thread while the one before it is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="pack") as thread:
        coming = thread.submit(next, parts, None)
        while (part := coming.result()) is not None:
            coming = thread.submit(next, parts, None)
            yield part


def unpack(manifest: Manifest, buckets: Sequence[Received]) -> Iterator[tuple[str, Tensor]]:
    """Check every bucket, then return the tensors as views of them.

    Args:
        manifest: What was published.
        buckets: All buckets in order, contiguous. They may be read-only (shared memory).

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
    for index, data in enumerate(buckets):
        want, size = manifest.bucket_bytes[index], data.numel() if isinstance(data, Tensor) else data.size
        if size != want:
            raise _broken(manifest, index, f"has {size} bytes, {want} were sent")
        if digest(data) != manifest.digests[index]:
            raise _broken(manifest, index, "has another digest than was sent")
    return _views(manifest, buckets)


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


def _views(manifest: Manifest, buckets: Sequence[Received]) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor as a view of its bucket."""
    flat = [d if isinstance(d, Tensor) else torch.from_numpy(np.asarray(_Alias(d))) for d in buckets]
    for spec in manifest.tensors:
        raw = flat[spec.bucket][spec.offset : spec.offset + spec.num_bytes]
        yield spec.name, raw.view(getattr(torch, spec.dtype)).view(spec.shape)
