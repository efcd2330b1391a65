"""Weights in GPU memory: packed there, shared with a process beside, and broadcast by NCCL. Bits must be equal."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

import pytest
import torch

from actors.weights.buckets import CPU, Bucket, digest, pack, unpack
from actors.weights.group import WeightGroup
from actors.weights.ipc import open_shared
from actors.weights.outbox import WeightOutbox
from rl.types import Manifest
from tests.reference.gpu import in_processes, needs_gpus

pytestmark = pytest.mark.gpu

BUCKET_BYTES = 10_000


def weights(device: torch.device) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    return {
        f"layer.{i}": (9 * torch.randn(41 * i, 13, generator=generator)).to(device, dtypes[i % 3])
        for i in range(12)
    }


def digests(tensors: Any) -> dict[str, str]:
    found = {}
    for name, tensor in tensors:
        flat = tensor.detach().reshape(-1).contiguous().cpu()
        found[name] = digest([flat.view(torch.uint8).numpy()])
    return found


def wanted() -> dict[str, str]:
    return digests(weights(CPU).items())


@needs_gpus(1, "packing on a GPU")
def test_a_publication_packed_on_the_gpu_is_that_of_the_cpu() -> None:
    device = torch.device("cuda", 0)
    *_, on_cpu = pack("text", 1, weights(CPU).items(), BUCKET_BYTES)
    *buckets, manifest = pack("text", 1, weights(device).items(), BUCKET_BYTES, device=device)
    assert manifest == on_cpu
    assert isinstance(manifest, Manifest)
    tensors = [bucket.tensor for bucket in buckets if isinstance(bucket, Bucket)]
    assert all(tensor.is_cuda for tensor in tensors)
    assert digests(unpack(manifest, tensors)) == wanted()


def _share(queues: Any, index: int) -> str:
    device = torch.device("cuda", 0)
    outbox = WeightOutbox(device)
    parts = pack("text", 1, weights(device).items(), BUCKET_BYTES, device=device)
    queues[1].put(outbox.share(parts))
    done = queues[index].get(timeout=60)
    outbox.release()
    return str(done)


def _open(queues: Any, index: int) -> dict[str, str]:
    shared = queues[index].get(timeout=60)
    manifest, buckets = open_shared([shared], torch.device("cuda", 0))
    found = digests(unpack(manifest, buckets))
    del buckets
    queues[0].put("loaded")
    return found


@needs_gpus(1, "CUDA IPC")
def test_shared_memory_has_the_same_bits_in_the_process_beside() -> None:
    said, found = in_processes(_share, _open)
    assert said == "loaded"
    assert found == wanted()


def _member(queues: Any, index: int, *, port: int) -> dict[str, str]:
    device = torch.device("cuda", index)
    group = WeightGroup(
        "nccl", rank=index, size=2, address="127.0.0.1", port=port, deadline_s=60, device=device
    )
    if index == 0:
        manifest: Manifest | None = None
        for part in pack("text", 1, weights(device).items(), BUCKET_BYTES, device=device):
            if isinstance(part, Bucket):
                group.send(part)
            else:
                manifest = part
        group.finish()
        queues[1].put(manifest)
        return wanted()
    buckets = [*group.receive()]
    return digests(unpack(queues[1].get(timeout=60), buckets))


@needs_gpus(2, "the NCCL broadcast")
def test_the_nccl_broadcast_gives_the_same_bits_as_the_object_store() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sent, received = in_processes(partial(_member, port=port), partial(_member, port=port))
    assert sent == received == wanted()


def _lonely(queues: Any, index: int, *, port: int) -> str:
    device = torch.device("cuda", index)
    group = WeightGroup(
        "nccl", rank=index, size=2, address="127.0.0.1", port=port, deadline_s=20, device=device
    )
    if index == 1:
        return "left"
    try:
        for _ in range(3):
            for part in pack("text", 1, weights(device).items(), BUCKET_BYTES, device=device):
                if isinstance(part, Bucket):
                    group.send(part)
    except Exception as error:  # noqa: BLE001  # its type and words are what is tested
        return f"{type(error).__name__}: {error}"
    return "nothing happened"


@needs_gpus(2, "the deadline of an NCCL broadcast")
def test_a_lost_receiver_is_an_error_within_the_deadline() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said, _ = in_processes(partial(_lonely, port=port), partial(_lonely, port=port))
    assert said.startswith("WeightSyncError: nccl: member 0 lost the others")
