"""Weight outbox: a learner rank's side of the transports that do not go through the object store."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from actors.weights.buckets import Bucket
from actors.weights.group import Backend, WeightGroup
from actors.weights.ipc import SharedWeights, share
from rl.errors import WeightSyncError
from rl.types import Manifest


class WeightOutbox:
    """Sends publications to process groups, or keeps them where workers can open them.

    Args:
        device: Of the rank.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._group: WeightGroup | None = None
        self._kept: list[Tensor] = []

    def open_group(self, backend: Backend, *, size: int, address: str, port: int, deadline_s: float) -> None:
        """Wait, as its sender, for the members of a new process group; the one before it ends.

        Raises:
            WeightSyncError: If the members do not meet in time.
        """
        if self._group is not None:
            self._group.close()
        device = self._device if backend == "nccl" else torch.device("cpu")
        self._group = WeightGroup(
            backend, rank=0, size=size, address=address, port=port, deadline_s=deadline_s, device=device
        )

    @property
    def group(self) -> WeightGroup:
        """The open process group."""
        if self._group is None:
            raise WeightSyncError("this learner rank sends through no process group; open_group comes first")
        return self._group

    def broadcast(self, parts: Iterable[Bucket | Manifest]) -> Manifest:
        """Send each bucket as it is packed; return the manifest, which travels by itself.

        Raises:
            WeightSyncError: If a member is gone or late.
        """
        manifest = _each_bucket(parts, self.group.send)
        self.group.finish()
        return manifest

    def share(self, parts: Iterable[Bucket | Manifest]) -> SharedWeights:
        """Keep the buckets on the GPU and describe them to the processes beside this one."""
        self._kept = []
        manifest = _each_bucket(parts, lambda bucket: self._kept.append(bucket.tensor))
        return share(manifest, self._kept, self._device)

    def release(self) -> None:
        """Give back what was shared; no worker may read it any more."""
        self._kept = []
        if self._device.type == "cuda":
            torch.cuda.ipc_collect()


def _each_bucket(parts: Iterable[Bucket | Manifest], use: Callable[[Bucket], None]) -> Manifest:
    """Use each bucket as it comes; return the manifest, which comes last."""
    for part in parts:
        if isinstance(part, Manifest):
            return part
        use(part)
    raise WeightSyncError("a publication ended without its manifest")
