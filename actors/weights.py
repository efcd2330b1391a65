"""Weights as a few large buckets of bytes and a manifest that proves that they arrived.

A publication streams: tensors are copied, once each, into a bucket; a full bucket is digested and handed
out while the next one fills. Nothing here knows how the buckets travel or which engine loads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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

ALIGNMENT = 64
"""Bytes. Every tensor starts at a multiple of it: a cache line, and whole elements of any dtype."""
NUM_NAMED = 3
"""Tensors of a broken bucket that the error names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """One filled bucket on its way."""

    index: int
    data: Bytes
    """``[num_bytes]``, at most the bucket size unless it holds a single larger tensor."""
    digest: str
    """xxh3-128 of ``data``, hex."""


@dataclass(slots=True, kw_only=True)
class _Packer:
    """The bucket that is being filled, and what was handed out before."""

    capacity: int
    data: Bytes | None = None
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
            # Zeroed pages, so that the gaps between tensors have one digest in every run.
            self.data = np.zeros(max(self.capacity, num_bytes), dtype=np.uint8)
        offset = aligned(self.used)
        target = torch.from_numpy(self.data[offset : offset + num_bytes])
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

    def close(self) -> Iterator[Bucket]:
        """Digest and hand out the open bucket, if there is one."""
        if self.data is None:
            return
        data = self.data[: self.used]
        bucket = Bucket(index=len(self.digests), data=data, digest=digest(data))
        self.sizes.append(self.used)
        self.digests.append(bucket.digest)
        self.data, self.used = None, 0
        yield bucket


def aligned(offset: int) -> int:
    """Round up to the next multiple of ``ALIGNMENT``, bytes."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def digest(data: Bytes) -> str:
    """Return the xxh3-128 of contiguous bytes, hex."""
    return xxhash.xxh3_128_hexdigest(data.data)


def pack(
    policy: str, version: int, tensors: Iterable[tuple[str, Tensor]], bucket_bytes: int
) -> Iterator[Bucket | Manifest]:
    """Stream weights as buckets, then the manifest.

    Args:
        policy: Name of the policy.
        version: Weight version.
        tensors: Names and tensors of any dense dtype, on any device; taken one at a time, so it may gather
            a sharded parameter only when it is asked for it.
        bucket_bytes: Capacity of a bucket, bytes. A larger tensor gets a bucket of its own.

    Yields:
        Each ``Bucket`` as soon as it is full, at the end the ``Manifest``.

    Raises:
        ValueError: If ``bucket_bytes`` is not positive.
    """
    if bucket_bytes < 1:
        raise ValueError(f"bucket_bytes={bucket_bytes}: want at least 1")
    packer = _Packer(capacity=bucket_bytes)
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


def unpack(manifest: Manifest, buckets: Sequence[Bytes]) -> Iterator[tuple[str, Tensor]]:
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
        want = manifest.bucket_bytes[index]
        if data.size != want:
            raise _broken(manifest, index, f"has {data.size} bytes, {want} were sent")
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


def _views(manifest: Manifest, buckets: Sequence[Bytes]) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor as a view of its bucket."""
    flat = [torch.from_numpy(np.asarray(_Alias(data))) for data in buckets]
    for spec in manifest.tensors:
        raw = flat[spec.bucket][spec.offset : spec.offset + spec.num_bytes]
        yield spec.name, raw.view(getattr(torch, spec.dtype)).view(spec.shape)
