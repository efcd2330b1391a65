"""Probe of a node, sent there by value at the start of a run: ours may not be importable there.

Standard library and psutil (Ray brings it) only, and plain dictionaries out: nothing of this file exists on the node.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

GPU_QUERY = ("nvidia-smi", "--query-gpu=memory.total,memory.used", "--format=csv,noheader,nounits")
QUERY_S = 20.0
"""Longest wait for the GPU driver."""


class NodeProbe:
    """One node's side."""

    def __init__(self) -> None:
        self._listener: socket.socket | None = None

    def facts(self, packages: Sequence[str], distributions: Sequence[str]) -> dict[str, Any]:
        """Return what is installed and what is free.

        Args:
            packages: Import names whose folders are looked up.
            distributions: Installed packages whose versions are wanted.

        Returns:
            ``origins`` (folder and files by package), ``python``, ``versions`` ('' where not installed), ``cores``,
            ``memory_bytes`` free, ``shm_bytes`` free (None where there is none), ``gpus`` (total and used MiB of each).
        """
        return {
            "origins": {package: _origin(package) for package in packages},
            "python": platform.python_version(),
            "versions": {name: _version(name) for name in distributions},
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": psutil.virtual_memory().available,
            "shm_bytes": shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else None,
            "gpus": _gpus(),
        }

    def listen(self) -> int:
        """Open a port that takes connections for as long as the probe lives; return it."""
        self._listener = socket.create_server(("", 0), backlog=512)
        threading.Thread(target=_accept, args=(self._listener,), daemon=True).start()
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        """Close the port."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def reach(self, targets: Mapping[str, tuple[str, int]], timeout_s: float) -> dict[str, str]:
        """Try to connect to other nodes; return what is wrong by target, '' where it answered."""
        faults = {}
        for name, address in targets.items():
            try:
                socket.create_connection(address, timeout=timeout_s).close()
                faults[name] = ""
            except OSError as error:
                faults[name] = str(error) or type(error).__name__
        return faults


def _accept(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the port was closed
        while True:
            listener.accept()[0].close()


def _origin(package: str) -> tuple[str, list[str]]:
    spec = importlib.util.find_spec(package)
    folder = next(iter(spec.submodule_search_locations or []), "") if spec else ""
    return folder or "nowhere", os.listdir(folder) if folder else []


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _gpus() -> list[tuple[int, int]]:
    if shutil.which(GPU_QUERY[0]) is None:
        return []
    done = subprocess.run(GPU_QUERY, capture_output=True, text=True, timeout=QUERY_S, check=False)
    rows = [line.split(",") for line in done.stdout.splitlines() if done.returncode == 0 and line.strip()]
    return [(int(total), int(used)) for total, used in rows]
