"""Checkpoints of a DeepSpeed engine: weights, moments and what is kept beside them, for any number of ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.shared.deepspeed_engine import master_shards, refresh_weights
from actors.shared.fragments import Shards, fragments_of, read_fragments, write_fragments
from rl.errors import LearnerError

STATE, LATEST = "state.json", "latest"
"""Of a checkpoint, written when all ranks have written theirs; and beside checkpoints, the name of the newest."""
WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")
"""Kinds of shards: masters, and the moments of torch's AdamW."""


def save_checkpoint(
    engine: Any, directory: Path, tag: str, state: Mapping[str, Any], more: Shards | None = None
) -> None:
    """Write the trained weights, Adam's moments and ``state``; all ranks call it and return when all have written.

    Args:
        engine: Frozen weights are not written: they are those it was made with.
        directory: Of checkpoints.
        tag: Name of this one.
        state: Plain values.
        more: Further shards by kind, cut as ``master_shards``.
    """
    folder, rank, num_ranks = (
        directory / tag,
        torch.distributed.get_rank(),
        torch.distributed.get_world_size(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    num_steps, more = _num_adam_steps(engine), more or {}
    shards = {WEIGHT: master_shards(engine), **(_moments(engine) if num_steps else {}), **more}
    write_fragments(folder, fragments_of(engine), shards, rank=rank, num_ranks=num_ranks)
    torch.distributed.barrier()
    if rank == 0:
        about = {
            "num_ranks": num_ranks,
            "num_adam_steps": num_steps,
            "kinds": list(shards),
            "state": dict(state),
        }
        _write(folder / STATE, json.dumps(about))
        _write(directory / LATEST, tag)
    torch.distributed.barrier()


def load_checkpoint(
    engine: Any, directory: Path, tag: str | None, more: Shards | None = None
) -> dict[str, Any]:
    """Read what ``save_checkpoint`` wrote under any number of ranks and any stage, and return its ``state``.

    Args:
        engine: A new one.
        directory: Of checkpoints.
        tag: Name of the checkpoint; None is the newest.
        more: Further shards to fill; those that the checkpoint does not have stay as they are.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        LearnerError: If it is of other parameters, or in the format of an older vlcot.
        UntrustedFileError: If a file of it is none of ours.
    """
    folder = directory / (tag or (directory / LATEST).read_text())
    if not (folder / STATE).exists() and any(folder.glob("*_states.pt")):
        raise LearnerError(
            f"the learner state in {folder} is an older vlcot's, in pickles, which are not read any more; start a new "
            "run from the model beside it"
        )
    about = json.loads((folder / STATE).read_text())
    _reset_moments(engine, about["num_adam_steps"])
    shards = {WEIGHT: master_shards(engine), **_moments(engine), **(more or {})}
    saved = {kind: held for kind, held in shards.items() if kind in about["kinds"]}
    read_fragments(folder, fragments_of(engine), saved, num_ranks=about["num_ranks"])
    refresh_weights(engine)
    return dict(about["state"])


def _write(path: Path, text: str) -> None:
    """Write a small file so that no reader sees half of it."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def _num_adam_steps(engine: Any) -> int:
    """Return the steps that Adam's moments are of; all shards have made as many."""
    states = engine.optimizer.optimizer.state
    return max((int(state["step"]) for state in states.values() if state), default=0)


def _moments(engine: Any) -> dict[str, list[Tensor]]:
    states, masters = engine.optimizer.optimizer.state, master_shards(engine)
    return {name: [states[master][name] for master in masters] for name in MOMENTS}


def _reset_moments(engine: Any, num_steps: int) -> None:
    """Give every shard moments of 0 that stand for ``num_steps`` steps, as torch's fused AdamW keeps them."""
    for master in master_shards(engine):
        step = torch.tensor(float(num_steps), dtype=torch.float32, device=master.device)
        moments = {name: torch.zeros_like(master, requires_grad=False) for name in MOMENTS}
        engine.optimizer.optimizer.state[master] = {"step": step, **moments}
