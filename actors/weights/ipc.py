"""Weights in one GPU's memory, shared with the other processes on it (CUDA IPC): nothing is copied or sent.

Every learner rank shares what it has gathered, so a rollout worker finds a publication on its own GPU wherever a
rank is colocated. The sender keeps the memory until all workers have loaded it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from rl.errors import WeightSyncError
from rl.types import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedWeights:
    """One rank's publication: what travels instead of bytes."""

    manifest: Manifest
    gpu: str
    """UUID of the GPU that holds it: the same in every process, however devices are numbered there."""
    handles: tuple[Any, ...]
    """A function and its arguments for each bucket; called in another process they open the memory."""


def share(manifest: Manifest, buckets: Sequence[Tensor], device: torch.device) -> SharedWeights:
    """Describe buckets on a GPU so that another process there can open them.

    The buckets must live until every worker has loaded them.
    """
    torch.cuda.synchronize(device)
    return SharedWeights(
        manifest=manifest, gpu=gpu_uuid(device), handles=tuple(reduce_tensor(bucket) for bucket in buckets)
    )


def open_shared(shared: Sequence[SharedWeights], device: torch.device) -> tuple[Manifest, list[Tensor]]:
    """Open the publication that lies on this process's GPU.

    Args:
        shared: One of each learner rank.
        device: This process's GPU.

    Raises:
        WeightSyncError: If no rank shares this GPU.
    """
    gpu = gpu_uuid(device)
    for publication in shared:
        if publication.gpu == gpu:
            return publication.manifest, [rebuild(*arguments) for rebuild, arguments in publication.handles]
    held = ", ".join(publication.gpu for publication in shared)
    raise WeightSyncError(
        f"ipc: this worker's GPU is {gpu}, learner ranks are on {held}; place a rank on every rollout worker's "
        "GPU, or set policies.*.rollout.transport to nccl"
    )


def gpu_uuid(device: torch.device) -> str:
    """Return the UUID of a GPU."""
    return str(torch.cuda.get_device_properties(device).uuid)
