"""The supervised loop in real processes."""

from __future__ import annotations

import gc
import os
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.coldstart.supervised import SupervisedSpec, run_supervised
from actors.shared import deepspeed_engine as ds
from rl.errors import DivergedError
from tests.reference.tiny_policy import TinyClassifier

NUM_STEPS = 8


def supervised_batches(rank: int, world_size: int) -> Iterator[dict[str, Tensor]]:
    """Eight rows a step, split over ranks."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(NUM_STEPS):
        x = torch.randn(8, 4, generator=generator)
        y = (x.sum(1) > 0).long()
        yield {"x": x[rank::world_size], "y": y[rank::world_size]}


def lives(rank: int, world_size: int, port: int, folder: Path) -> dict[str, Any]:
    """A whole run that leaves a checkpoint on its way, the run that goes on from it, and one that diverges."""
    if world_size > 1:  # what Ray Train does before it calls us; alone, nothing is prepared
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
        torch.distributed.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size
        )
    spec = SupervisedSpec(num_steps=NUM_STEPS, learning_rate=1e-2, checkpoint_dir=folder, save_every=5)
    losses, weights = _life(spec, rank, world_size)
    resumed_losses, resumed = _life(spec, rank, world_size)
    poison = {"x": torch.full((2, 4), torch.nan if rank == 0 else 0.0), "y": torch.zeros(2).long()}
    diverged = "none"
    try:
        run_supervised(
            replace(spec, checkpoint_dir=None),
            module=TinyClassifier(),
            batches=iter([poison]),
            report=lambda *_: None,
        )
    except DivergedError as error:
        diverged = str(error)
    return {
        "losses": losses,
        "weights": weights,
        "resumed losses": resumed_losses,
        "resumed weights": resumed,
        "diverged": diverged,
    }


def finalizer_imports(*_: int) -> dict[str, Any]:
    """Use an engine, drop it, and tell whether the garbage collector had it and what that imported."""
    ds.join_process_group(torch.device("cpu"))
    engine = ds.make_engine(
        TinyClassifier(),
        zero_stage=1,
        learning_rate=1e-2,
        weight_decay=0.0,
        max_grad_norm=1.0,
        dtype="float32",
    )
    ds.backward(engine, engine(next(supervised_batches(0, 1))))
    ds.step(engine, 1e-2)
    seen, before = weakref.ref(engine), set(sys.modules)
    del engine
    gc.collect()
    return {"collected": seen() is None, "imported": sorted(set(sys.modules) - before)}


def two_process_groups(*_: int) -> list[list[float]]:
    """The losses of two runs in one process, the second in a process group of its own."""
    spec = SupervisedSpec(num_steps=NUM_STEPS, learning_rate=1e-2)
    found = []
    for _ in range(2):
        found.append(_life(spec, 0, 1)[0])
        ds.stop_process_group()
    return found


def _life(spec: SupervisedSpec, rank: int, world_size: int) -> tuple[list[float], dict[str, Tensor]]:
    torch.manual_seed(0)
    module = TinyClassifier()
    losses: list[float] = []
    run_supervised(
        spec,
        module=module,
        batches=islice(supervised_batches(rank, world_size), NUM_STEPS),
        report=lambda _, seen: losses.append(seen["loss"]),
    )
    return losses, {name: p.detach().clone() for name, p in module.named_parameters()}
