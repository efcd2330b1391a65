"""Where a run is started: addresses, GPUs, and folders in which sockets have room."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from cluster.runtime import machine
from cluster.runtime.machine import LONGEST_SOCKET, check_address, temporary_folder
from cluster.runtime.placement_groups import check_gpus
from configs.load import load_config
from configs.planning.placement import place
from rl.errors import ConfigError


@pytest.mark.parametrize(
    "address",
    [
        "http://[::1",
        "nope",
        "1.2.3.4",
        "ray://[",
        "a b:1",
        ":",
        "a:99999",
        "a:0",
        "x@y:1",
        "a" * 64 + ".com:1",
        "..:1",
    ],
)
def test_what_is_no_address_is_refused_by_its_form(address):
    with pytest.raises(ConfigError, match="ray_address: want host:port, ray://host:port or auto"):
        check_address(address)


def test_where_nothing_listens_there_is_no_cluster():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_address(f"127.0.0.1:{port}")
        check_address(f"ray://127.0.0.1:{port}")
    with pytest.raises(
        ConfigError, match=rf"^ray_address: no Ray cluster at 127\.0\.0\.1:{port}: .*leave it empty"
    ):
        check_address(f"127.0.0.1:{port}")


def test_gpus_that_are_not_there_are_counted():
    config = load_config("tiny", ["policies.text.num_gpus=1"])
    with pytest.raises(ConfigError, match="add up to 2 GPUs, this machine has 1"):
        check_gpus(place(config), [1.0], "this machine")
    check_gpus(place(config), [2.0], "this machine")


def test_a_long_temporary_folder_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    with temporary_folder() as folder:
        assert folder is None, "Ray's own choice is short enough"
    long = tmp_path / ("slurm_jobdir" * 8)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    with temporary_folder() as folder:
        assert folder is not None
        assert len(os.fsencode(folder + machine._SOCKET)) <= LONGEST_SOCKET
        assert Path(folder).is_dir()
    assert not Path(folder).exists()


def test_where_there_is_no_other_the_remedy_is_said(monkeypatch):
    def full(**_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * 100)
    monkeypatch.setattr(machine.tempfile, "mkdtemp", full)
    with (
        pytest.raises(ConfigError, match=r"set RAY_TMPDIR to a folder of at most [0-9]+ characters"),
        temporary_folder(),
    ):
        pass
