"""Files of ours: whole or not there, damage costs a line, a full disk is named and leaves nothing half-written."""

import errno
import os
import subprocess

import pytest
import torch
from safetensors.torch import save_file

from cluster.runtime.files import as_disk_full, flush_tree, write_atomically


def test_writing_replaces_all_or_nothing(tmp_path):
    path = tmp_path / "a.json"
    for durable in (True, False):
        write_atomically(path, "before", durable=durable)
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "after \ud800")
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "before"


def test_a_flushed_tree_stays_as_it_is(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "weights").write_bytes(bytes(10))
    flush_tree(tmp_path / "a")
    assert (tmp_path / "a" / "b" / "weights").read_bytes() == bytes(10)


@pytest.fixture
def full_disk(tmp_path):
    """A disk of a megabyte that is nearly full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a disk of its own")
    (disk / "ballast").write_bytes(bytes(900_000))
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def write_text(disk):
    write_atomically(disk / "a.json", "x" * 300_000)


def write_torch(disk):
    torch.save({"a": torch.zeros(100_000)}, disk / "a.pt")


def write_safetensors(disk):
    save_file({"a": torch.zeros(100_000)}, disk / "a.safetensors")


@pytest.mark.parametrize("write", [write_text, write_torch, write_safetensors])
def test_a_full_disk_is_told_from_what_every_library_says(full_disk, write):
    with pytest.raises(Exception) as caught:  # noqa: PT011 each library has its own
        write(full_disk)
    full = as_disk_full(caught.value, full_disk, "the checkpoint of step 4", num_bytes=300_000)
    assert full is not None
    said = f"no space left in {full_disk}: the checkpoint of step 4 needs about 0.3 MB, "
    assert str(full).startswith(said)
    assert str(full).endswith(" MB free; make room")
    assert not (full_disk / "a.json").exists()
    assert not (full_disk / "a.json.partial").exists()


def test_the_cause_may_lie_deep_and_other_failures_are_not_taken_for_it(tmp_path):
    group = ExceptionGroup("several workers failed", [ValueError("x"), OSError(errno.EDQUOT, "quota")])
    assert as_disk_full(group, tmp_path, "it") is not None
    outer = RuntimeError("save failed")
    outer.__cause__ = OSError(errno.ENOSPC, "No space", str(tmp_path / "deep" / "file"))
    assert f"no space left in {tmp_path / 'deep'}: " in str(as_disk_full(outer, tmp_path / "deep", "it"))
    assert as_disk_full(PermissionError(errno.EACCES, "no"), tmp_path, "it") is None
