"""A learner's state: tensors and JSON alone, whatever else is put in a file's place."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from actors.shared import deepspeed_engine as ds
from actors.shared.engine_checkpoint import load_checkpoint, save_checkpoint
from rl.errors import LearnerError, UntrustedFileError
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


def _engine(stage: int, dtype: str, width: int = 8) -> object:
    module = nn.Sequential(nn.Linear(8, width), nn.Linear(width, 1)).to(getattr(torch, dtype))
    engine = ds.make_engine(
        module, zero_stage=stage, learning_rate=1e-3, weight_decay=0.0, max_grad_norm=1.0, dtype=dtype
    )
    ds.backward(engine, engine(torch.ones(2, 8, dtype=getattr(torch, dtype))).float().sum())
    ds.step(engine, 1e-3)
    return engine


def _one_life(root: Path, stage: int, dtype: str) -> list[str]:
    engine, folder = _engine(stage, dtype), root / f"{stage}-{dtype}"
    save_checkpoint(engine, folder, "step", {"version": 7})
    (file,) = folder.rglob("*.safetensors")
    whole = file.read_bytes()
    told = []
    for poison in (pickle.dumps(Runs(root / "ran"), protocol=2), whole[:-8], b"", None):
        file.write_bytes(poison) if poison is not None else file.unlink()
        told.append(_load(engine, folder))
    file.write_bytes(whole)
    told += [_load(_engine(stage, dtype, width=9), folder), _load(engine, folder)]
    (folder / "step" / "state.json").rename(folder / "step" / "mp_rank_00_model_states.pt")
    return [*told, _load(engine, folder)]


def _load(engine: object, folder: Path) -> str:
    try:
        return f"version {load_checkpoint(engine, folder, 'step')['version']}"
    except (UntrustedFileError, LearnerError) as error:
        return f"{type(error).__name__}: {error}"


def test_what_is_no_state_of_this_policy_is_refused_in_every_stage(tmp_path):
    (lives,) = run_ranks(save_poison_load, 1, tmp_path)
    for life, told in lives.items():
        *foreign, missing, other, whole, older = told
        assert len(foreign) == 3
        assert all(t.startswith("UntrustedFileError: ") and "nothing of it is read" in t for t in foreign), (
            life
        )
        assert missing.endswith("has no file of its 1 ranks")
        assert "64 elements of 0.weight, want 72; a file is missing, or the model is another" in other
        assert whole == "version 7"
        assert "is an older vlcot's, in pickles" in older
        assert not any("\n" in line for line in told)
    assert not (tmp_path / "ran").exists()
