"""One finished run for all end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from tests.reference.command import DEADLINE_S, FAILING, NUM_STEPS, vlcot


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder with one finished run, ``whole``, and its cold start; all of pytest's processes share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "runs"
    with FileLock(f"{folder}.lock", timeout=DEADLINE_S):
        if not (folder / "whole" / "report.html").exists():
            trackers = f"trackers=[tensorboard,mlflow,'{FAILING}']"
            settings = [f"output_dir={folder}", "name=whole", f"num_steps={NUM_STEPS}", trackers]
            vlcot("train", "tiny", *settings)
    return folder
