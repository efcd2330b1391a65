"""Owners of folders: one process at a time, a gone one is taken over, and another machine's is named."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cluster.runtime.ownership import OWNER, owned, owner_of
from rl.errors import ConfigError, OwnedError
from tests.reference.command import ROOT

HOLDS = """
import sys
from pathlib import Path
from cluster.runtime.ownership import owned
with owned(Path(sys.argv[1]), "train"):
    print("mine", flush=True)
    sys.stdin.readline()
"""
TAKES = """
import sys
from pathlib import Path
from cluster.runtime.ownership import owned
from rl.errors import OwnedError
sys.stdin.readline()
try:
    with owned(Path(sys.argv[1]), "train"):
        with (Path(sys.argv[1]) / "log").open("a") as log:
            log.write("in ")
            log.flush()
            __import__("time").sleep(0.3)
            log.write("out ")
        print("mine", flush=True)
except OwnedError as error:
    print(error, flush=True)
"""


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", code, str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)


def test_a_second_process_is_refused_with_the_first_ones_name(tmp_path):
    folder = tmp_path / "runs" / "x"
    with start(HOLDS, folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        with pytest.raises(OwnedError) as caught, owned(folder, "train"):
            pass
        line = str(caught.value)
        assert line.startswith(
            f"{folder}: cannot train: process {process.pid} on {os.uname().nodename} since "
        )
        assert line.endswith("works in it; wait until it ends, or choose another name")
        process.communicate("\n")
    with owned(folder, "train"):
        assert (folder / OWNER).exists()
    assert not (tmp_path / "runs").exists(), "an empty folder was left behind"


def test_a_killed_process_is_taken_over_by_exactly_one_of_many(tmp_path):
    with start(HOLDS, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        process.kill()
    assert (tmp_path / OWNER).exists()
    others = [start(TAKES, tmp_path) for _ in range(6)]
    with ThreadPoolExecutor(len(others)) as pool:
        said = list(pool.map(lambda other: other.communicate("\n")[0], others))
    assert "mine\n" in said
    assert all(line == "mine\n" or "works in it" in line for line in said)
    log = (tmp_path / "log").read_text().split()
    assert log == ["in", "out"] * said.count("mine\n"), "two were in it at once"
    assert not (tmp_path / OWNER).exists()


def test_another_machines_process_is_never_taken_over_and_the_remedy_is_said(tmp_path):
    with owned(tmp_path, "train"):
        owner = owner_of(tmp_path)
    assert owner is not None
    for other in (replace(owner, host="elsewhere", pid=1), replace(owner, pid_space="pid:[1]", pid=1)):
        (tmp_path / OWNER).write_text(json.dumps(asdict(other)))
        with pytest.raises(OwnedError) as caught, owned(tmp_path, "train"):
            pass
        assert str(caught.value).endswith(f"if it is gone, remove {tmp_path / OWNER}")
    (tmp_path / OWNER).unlink()
    with owned(tmp_path, "train"):
        pass


def test_a_number_that_was_used_again_is_another_process(tmp_path):
    with owned(tmp_path, "train"):
        owner = owner_of(tmp_path)
    assert owner is not None
    (tmp_path / OWNER).write_text(json.dumps(asdict(replace(owner, pid_begin_s=owner.pid_begin_s - 100))))
    with owned(tmp_path, "train"):
        pass


def test_a_damaged_owner_file_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.runtime.ownership.WRITE_S", 0.1)
    (tmp_path / OWNER).touch()
    with (
        pytest.raises(OwnedError, match=r"owner\.json is damaged; remove it if no other process works"),
        owned(tmp_path, "train"),
    ):
        pass


def test_a_folder_that_cannot_be_made_costs_a_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written in"), owned(tmp_path / "file" / "x", "train"):
        pass
