"""A learner's state is loaded as tensors: what else a file holds is refused, and not run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from actors.shared import deepspeed_engine as ds
from rl.errors import UntrustedFileError
from tests.reference.ranks import run_ranks

pytestmark = pytest.mark.engine

LIVES = [(stage, dtype) for stage in (1, 2, 3) for dtype in ("float32", "bfloat16")]


class Runs:
    """What somebody else's pickle may be: a call, made when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def save_poison_load(rank: int, world_size: int, port: int, root: Path) -> dict[str, list[str]]:
    """Save under each (stage, dtype), then load with each file poisoned in turn, then as it was."""
    device = torch.device("cpu")
    ds.start_process_group(
        rank=rank, world_size=world_size, master_addr="127.0.0.1", master_port=port, device=device
    )
    return {f"{stage}/{dtype}": _one_life(root, stage, dtype) for stage, dtype in LIVES}


def _one_life(root: Path, stage: int, dtype: str) -> list[str]:
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1)).to(getattr(torch, dtype))
    engine = ds.make_engine(
        module, zero_stage=stage, learning_rate=1e-3, weight_decay=0.0, max_grad_norm=1.0, dtype=dtype
    )
    ds.backward(engine, engine(torch.ones(2, 8, dtype=getattr(torch, dtype))).float().sum())
    ds.step(engine, 1e-3)
    folder = root / f"{stage}-{dtype}"
    ds.save_checkpoint(engine, folder, "step", {"version": 7})
    told = []
    for file in sorted(folder.rglob("*.pt")):
        whole = file.read_bytes()
        torch.save({**torch.load(file, weights_only=False), "more": Runs(root / f"ran-{file.name}")}, file)
        told.append(_load(engine, folder))
        file.write_bytes(pickle.dumps(Runs(root / f"ran-{file.name}"), protocol=2))
        told.append(_load(engine, folder))
        file.write_bytes(whole)
    return [*told, _load(engine, folder)]


def _load(engine: object, folder: Path) -> str:
    try:
        return f"version {ds.load_checkpoint(engine, folder, 'step')['version']}"
    except UntrustedFileError as error:
        return str(error)


def test_a_state_that_holds_code_is_refused_in_every_stage_and_file(tmp_path):
    (lives,) = run_ranks(save_poison_load, 1, tmp_path)
    for life, told in lives.items():
        *refusals, whole = told
        assert len(refusals) == 4, life  # the model's and the optimizer's file, twice each
        assert all("posix.mkdir" in refusal and "\n" not in refusal for refusal in refusals), refusals
        assert whole == "version 7"
    assert not list(tmp_path.glob("ran-*"))
