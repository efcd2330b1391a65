"""The command line as a user has it, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from rl.types import JsonDict

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 900
"""Longest a command may take."""
CALL_S = 240.0
"""Longest an actor of a test may take to answer, its start included, on a busy machine."""
NUM_STEPS = 2
"""Of the run that end-to-end tests share."""
FAILING = "tests.reference.failing_tracker:FailsAtOne"
"""A tracker of that run."""


def vlcot(*words: str, expect: int = 0, cwd: Path = ROOT, python: Path = Path(sys.executable)) -> str:
    """Run the command with a Python and return what it printed."""
    done = subprocess.run(
        [str(python), "-P", "-m", "cluster.cli", *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == expect, done.stdout
    return done.stdout


INTERRUPTIBLE = ("env", "--default-signal=INT")
"""Words before a command that is to be interrupted: what a shell starts in the background ignores SIGINT, and so would
all that the suite starts."""


def interrupt(process: subprocess.Popen[str], *, within_s: float = 60.0) -> tuple[str, str]:
    """Press Ctrl-C, and return what the process said from then on; it is killed if it does not end in time."""
    process.send_signal(signal.SIGINT)
    try:
        return process.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def numbers(record: JsonDict) -> JsonDict:
    """What does not depend on the clock."""
    return {name: value for name, value in record.items() if not name.startswith(("time/", "wall_time"))}
