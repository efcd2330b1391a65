"""Copies of runs: on pyarrow's in-memory file system, through file:// URIs, and when writing fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from cluster.record.rundir import RunDir
from cluster.run.remote_copy import ATTEMPTS, RemoteCopy, Storage, open_storage
from configs.derive import coldstart_directory
from configs.load import load_config, to_yaml
from rl.ahead import DataPosition
from rl.errors import ConfigError, StorageError, UntrustedFileError


def memory() -> Storage:
    filesystem, root = fs.FileSystem.from_uri("mock:///bucket/runs")
    return Storage(filesystem=filesystem, root=root, pause_s=0.0)


def make_run(path: Path, steps: tuple[int, ...] = (2, 4), resolved: str = "name: mine\n") -> RunDir:
    run = RunDir(path)
    run.create(resolved_yaml=resolved)
    run.metrics.write_text('{"step": 0}\n')
    for step in steps:
        folder = run.checkpoint_path(step) / "text"
        folder.mkdir(parents=True)
        (folder / "weights.bin").write_bytes(bytes([step]) * 1000)
        run.finish_checkpoint(step, DataPosition(position=3 * step), {"text": step}, keep=2)
    return run


def names(storage: Storage) -> set[str]:
    selector = fs.FileSelector(storage.root, recursive=True)
    found = storage.filesystem.get_file_info(selector)
    return {i.path[len(storage.root) + 1 :] for i in found if i.type == fs.FileType.File}


def test_a_run_comes_back_with_its_newest_checkpoint(tmp_path):
    storage, run = memory(), make_run(tmp_path / "here")
    storage.push(run.path, "mine")
    back = RunDir(tmp_path / "there")
    assert storage.pull("mine", back.path)
    newest = back.newest_checkpoint()
    assert [c.step for c in back.checkpoints()] == [4]
    assert (newest.step, newest.data.position, newest.versions) == (4, 12, {"text": 4})
    assert (newest.path / "text" / "weights.bin").read_bytes() == b"\x04" * 1000
    assert back.resolved.read_text() == "name: mine\n"


def test_only_what_changed_is_sent_again(tmp_path):
    storage, run = memory(), make_run(tmp_path / "here")
    assert storage.push(run.path, "mine") > 2000
    assert storage.push(run.path, "mine") == 0
    run.metrics.write_text('{"step": 0}\n{"step": 1}\n')
    assert storage.push(run.path, "mine") == run.metrics.stat().st_size


def test_what_was_fetched_is_not_sent_back(tmp_path):
    storage = memory()
    storage.push(make_run(tmp_path / "here", steps=(4,)).path, "mine")
    storage.sent.clear()
    storage.pull("mine", tmp_path / "there")
    assert storage.push(tmp_path / "there", "mine") == 0


def test_old_checkpoints_go_there_too(tmp_path):
    storage, run = memory(), make_run(tmp_path / "here")
    storage.push(run.path, "mine")
    (run.checkpoint_path(6) / "text").mkdir(parents=True)
    run.finish_checkpoint(6, DataPosition(position=18), {"text": 6}, keep=2)
    storage.push(run.path, "mine")
    assert {name.split("/")[2] for name in names(storage) if "/checkpoints/" in name} == {
        "step_000004",
        "step_000006",
    }


def test_a_half_copied_checkpoint_does_not_count(tmp_path):
    storage, run = memory(), make_run(tmp_path / "here")
    storage.push(run.path, "mine")
    storage.filesystem.delete_file(f"{storage.root}/mine/checkpoints/step_000004/state.json")
    storage.pull("mine", tmp_path / "there")
    assert RunDir(tmp_path / "there").newest_checkpoint().step == 2


def test_nothing_there_is_no_run(tmp_path):
    assert not memory().pull("mine", tmp_path / "there")
    assert not (tmp_path / "there").exists()


class Flaky:
    """A file system whose writes fail a number of times."""

    def __init__(self, inner: Any, failures: int) -> None:
        self.inner, self.failures = inner, failures

    def open_output_stream(self, path: str) -> Any:
        if self.failures:
            self.failures -= 1
            raise OSError("no route to bucket")
        return self.inner.open_output_stream(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.mark.parametrize("failures", [1, ATTEMPTS - 1])
def test_a_write_is_tried_again(tmp_path, failures):
    storage, run = memory(), make_run(tmp_path / "here")
    storage.filesystem = Flaky(storage.filesystem, failures)
    storage.push(run.path, "mine")
    assert "mine/checkpoints/step_000004/state.json" in names(storage)


def test_a_write_that_goes_on_failing_is_named(tmp_path):
    storage, run = memory(), make_run(tmp_path / "here")
    storage.filesystem = Flaky(storage.filesystem, 1000)
    with pytest.raises(
        StorageError, match=r"storage_path: cannot write bucket/runs/mine/.*no route to bucket"
    ):
        storage.push(run.path, "mine")
    assert not any(name.endswith("state.json") for name in names(storage))


class Lists:
    """A file system that lists one file more."""

    def __init__(self, inner: Any, path: str) -> None:
        self.inner, self.path = inner, path

    def get_file_info(self, selector: Any) -> Any:
        return [*self.inner.get_file_info(selector), fs.FileInfo(self.path, type=fs.FileType.File)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.mark.parametrize(
    "path", ["bucket/runs/mine/../../out", "bucket/runs/mine//etc/out", "/etc/out", "bucket/runs/other/out"]
)
def test_a_listing_that_leads_out_of_the_run_is_refused_before_anything_is_fetched(tmp_path, path):
    storage = memory()
    storage.push(make_run(tmp_path / "here").path, "mine")
    storage.filesystem = Lists(storage.filesystem, path)
    with pytest.raises(UntrustedFileError, match=r"^storage_path: it lists '.*out', which leads out"):
        storage.pull("mine", tmp_path / "deep" / "there")
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_fresh_machine_resumes_from_a_folder(tmp_path, scheme):
    """The run and its cold start go out from one output folder and come back into another."""
    config = load_config(
        "tiny", [f"output_dir={tmp_path / 'old'}", f"storage_path={scheme}{tmp_path}/far", "name=mine"]
    )
    run = make_run(tmp_path / "old" / "mine", resolved=to_yaml(config))
    start = coldstart_directory(config)
    (start / "text").mkdir(parents=True)
    (start / "work").mkdir()
    (start / "work" / "left").write_text("over")
    (start / "text" / "model.safetensors").write_bytes(b"weights")
    (start / "coldstart.json").write_text(json.dumps({"digest": "x"}))
    RemoteCopy(config, run, open_storage(config.storage_path)).push()
    shutil.rmtree(tmp_path / "old")
    fresh = load_config(
        "tiny",
        [
            f"output_dir={tmp_path / 'new'}",
            f"storage_path={scheme}{tmp_path}/far",
            "name=mine",
            "resume=true",
        ],
    )
    run = RunDir(tmp_path / "new" / "mine")
    RemoteCopy(fresh, run, open_storage(fresh.storage_path)).fetch()
    run.check(resume=True)
    assert run.newest_checkpoint().step == 4
    start = coldstart_directory(fresh)
    assert (start / "text" / "model.safetensors").read_bytes() == b"weights"
    assert not (start / "work").exists()


def test_without_a_storage_path_nothing_is_copied(tmp_path):
    config = load_config("tiny", [f"output_dir={tmp_path}"])
    assert open_storage(config.storage_path) is None
    remote_copy = RemoteCopy(config, RunDir(tmp_path / "tiny"), None)
    remote_copy.fetch()
    remote_copy.push()
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_cannot_be_opened_is_named():
    with pytest.raises(ConfigError, match="storage_path: 'ftp://a/b' cannot be opened"):
        open_storage("ftp://a/b")
