"""A run in a process of its own, which a test watches, disturbs and waits for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.reference.command import DEADLINE_S, ROOT


class Running:
    """A run in a process of its own, and what it has printed so far."""

    def __init__(self, folder: Path, name: str, *words: str) -> None:
        self.path, self._log = folder / name, folder / f"{name}.log"
        command = [sys.executable, "-P", "-m", "cluster.cli", "train"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *words, f"output_dir={folder}", f"name={name}"],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE_S
        while not is_so():
            assert self._process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.05)

    def wait_for_checkpoint(self, step: int) -> None:
        """Wait until so many steps are done and saved; the next one begins then."""
        self.wait_until((self.path / "checkpoints" / f"step_{step:06d}" / "state.json").exists)

    def kill(self, worker: str) -> None:
        """Kill one worker process by its class."""
        below = psutil.Process(self._process.pid).children(recursive=True)
        named = [process for process in below if "".join(process.cmdline()).startswith(f"ray::{worker}")]
        named[0].kill()

    def terminate(self) -> None:
        """Ask it to end, as a batch system does."""
        self._process.terminate()

    def finish(self, *, expect: int) -> None:
        assert self._process.wait(timeout=DEADLINE_S) == expect, self.said
