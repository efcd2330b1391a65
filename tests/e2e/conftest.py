"""One finished run for all end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reference.command import FAILING, NUM_STEPS, vlcot


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run, ``whole``, and its cold start."""
    folder = tmp_path_factory.mktemp("runs")
    trackers = f"trackers=[tensorboard,mlflow,'{FAILING}']"
    vlcot("train", "tiny", f"output_dir={folder}", "name=whole", f"num_steps={NUM_STEPS}", trackers)
    return folder
