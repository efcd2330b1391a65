"""Folders that two runs share, and disks that fill up: real processes, real engines, a real disk."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.record.sinks import read_metrics
from tests.reference.command import DEADLINE_S, ROOT, numbers

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow, pytest.mark.long]

COMMAND = [sys.executable, "-P", "-m", "cluster.cli", "train", str(ROOT / "tests/reference/pictures.yaml")]
SETTINGS = ["num_steps=3", "keep_checkpoints=3", "coldstart.image_steps=40"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
DISK_MIB = 40
"""Room for the start, 5 MiB, and one checkpoint of 20."""


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, ``a`` and ``b``, that were started at once and differ in a learning rate only."""
    folder = tmp_path_factory.mktemp("runs")
    settings: dict[str, list[str]] = {"a": [], "b": ["policies.image.learner.learning_rate=2e-5"]}
    running = {}
    for name, words in settings.items():
        with (folder / f"{name}.log").open("wb") as log:
            running[name] = subprocess.Popen(
                [*COMMAND, *SETTINGS, *words, f"output_dir={folder}", f"name={name}"],
                cwd=ROOT,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
    for name, process in running.items():
        assert process.wait(timeout=DEADLINE_S) == 0, (folder / f"{name}.log").read_text()
    return folder


def test_two_runs_that_start_together_share_one_cold_start_and_both_end_well(together: Path) -> None:
    said = [(together / f"{name}.log").read_text() for name in "ab"]
    assert sum("waiting for it" in text for text in said) == 1
    assert sum("cold start: image" in text for text in said) == 1, "it is made once"
    (start,) = together.glob("coldstart-*")
    for name in "ab":
        for made in ("model_index.json", "unet/diffusion_pytorch_model.safetensors"):
            own = together / name / "start" / "image" / made
            assert own.samefile(start / "image" / made)
        assert [record["step"] for record in read_metrics(together / name / "metrics.jsonl")] == [0, 1, 2]
    assert not list(together.rglob("owner.json"))
    assert not list(together.rglob("*.partial"))


def test_a_full_disk_costs_one_line_and_the_run_goes_on_when_there_is_room(
    together: Path, tmp_path: Path
) -> None:
    """A disk of its own, in a mount namespace; filled by the second checkpoint, then made larger."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (start,) = together.glob("coldstart-*")
    words = [*COMMAND, *SETTINGS, f"output_dir={disk}", "name=full", f"coldstart.directory={start}"]
    script = f"""
        mount -t tmpfs -o size={DISK_MIB}m tmpfs {disk} || exit 77
        "$@" >{tmp_path}/full.log 2>&1; echo $? >{tmp_path}/full.code
        (cd {disk}/full/checkpoints && ls -d step_*/ step_*/state.json) >{tmp_path}/full.files
        mount -o remount,size=1g {disk}
        "$@" resume=true >{tmp_path}/more.log 2>&1; echo $? >{tmp_path}/more.code
        cp {disk}/full/metrics.jsonl {tmp_path}"""
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *words]
    done = subprocess.run(
        unshare, cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.DEVNULL, check=False, timeout=DEADLINE_S
    )
    if done.returncode == 77 or not (tmp_path / "full.code").exists():
        pytest.skip("no mount namespaces here")
    said, files = (tmp_path / "full.log").read_text(), (tmp_path / "full.files").read_text().split()
    assert (tmp_path / "full.code").read_text().strip() == "1", said
    last = said.strip().splitlines()[-1]
    assert last.startswith(f"vlcot: error: no space left in {disk}/full/checkpoints"), said
    assert last.endswith("make room, then resume=true goes on from the newest checkpoint")
    assert "Traceback" not in said
    assert files == ["step_000001/", "step_000001/state.json"], "the half checkpoint is removed"
    assert (tmp_path / "more.code").read_text().strip() == "0", (tmp_path / "more.log").read_text()
    undisturbed, resumed = (
        read_metrics(path) for path in (together / "a/metrics.jsonl", tmp_path / "metrics.jsonl")
    )
    assert [numbers(record) for record in resumed] == [numbers(record) for record in undisturbed]


def test_sigterm_saves_the_last_step_and_says_so(together: Path) -> None:
    """As a batch system ends a job; nothing is left that says somebody works there."""
    (start,) = together.glob("coldstart-*")
    run, said = together / "ended", together / "ended.log"
    words = [
        f"output_dir={together}",
        "name=ended",
        f"coldstart.directory={start}",
        "num_steps=500",
        "save_every=500",
    ]
    with said.open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, *SETTINGS, *words],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    end = time.monotonic() + DEADLINE_S
    while not read_metrics(run / "metrics.jsonl"):
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < end, said.read_text()
        time.sleep(0.2)
    process.terminate()
    assert process.wait(timeout=120) == 143, said.read_text()
    lines = said.read_text().strip().splitlines()
    assert lines[-1] == "vlcot: ended by SIGTERM"
    assert "Traceback" not in said.read_text()
    done = len(read_metrics(run / "metrics.jsonl"))
    assert f"SIGTERM: the checkpoint of step {done} is saved; resume=true goes on from there" in lines
    assert (run / "checkpoints" / f"step_{done:06d}" / "state.json").is_file()
    assert not (run / "owner.json").exists()
