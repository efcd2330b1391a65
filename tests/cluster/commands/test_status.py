"""What ``vlcot status`` makes of a status file: living, stale, dead and ended runs, and their exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from socket import gethostname

import psutil
import pytest
from rich.console import Console

import cluster.commands.status_page
from cluster.cli import main
from cluster.commands.status_page import ALARM, DEAD, RUNS, SILENT, page, read_status, verdict_on
from rl.types import JsonDict
from tests.reference.fake_run import make_run

WORKER = {
    "name": "reward-generation-0",
    "host": gethostname(),
    "pid": os.getpid(),
    "silent_s": 0.4,
    "doing": [{"name": "score", "seconds": 3.2, "details": {"num_chains": 4, "first": "a/long/id/" * 5}}],
    "asked": [{"by": "scoring-0", "method": "score", "num": 4, "seconds": 3.5}],
    "pools": [],
}  # fmt: skip
POOLS = [{"pool": "reward-generation", "num_in_hand": 7, "num_done": 40, "done_per_s": 2.25, "version": 12}]


def write(run_dir: Path, **changes: object) -> JsonDict:
    me = psutil.Process()
    read: JsonDict = {
        "name": "demo", "state": "running", "error": "", "pid": me.pid, "pid_begin_s": me.create_time(),
        "host": gethostname(), "begin_s": time.time() - 75, "updated_s": time.time(), "num_updates": 75,
        "num_done": 3, "num_steps": 30, "metrics": {},
        "workers": [WORKER, WORKER | {"name": "scoring-0", "pools": POOLS}],
        "doing": [
            {"name": "step", "seconds": 9.0, "details": {"step": 3}},
            {"name": "collect", "seconds": 4.0, "details": {}},
        ],
    }  # fmt: skip
    read |= changes
    run_dir.mkdir(exist_ok=True)
    (run_dir / "status.json").write_text(json.dumps(read))
    return read


def shown(run_dir: Path, width: int = 200) -> str:
    read = read_status(run_dir)
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(page(run_dir, read, verdict_on(run_dir, read)))
    return console.export_text()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "demo", done=3, evaluated=False)


def test_a_living_run_shows_phase_rewards_and_workers(run_dir):
    write(run_dir)
    assert verdict_on(run_dir, read_status(run_dir)).code == RUNS
    said = shown(run_dir)
    assert "demo  running  3 of 30 steps, 1 min 15 s in this attempt" in said
    assert "driver: step (step=3) > collect, 4.0 s" in said
    assert "step   2/30  reward" in said
    assert "s a step (median of the last 3), about" in said
    row = next(line for line in said.splitlines() if line.startswith("reward-generation-0"))
    assert "score (num_chains=4), 3.2 s" in row
    assert "score x4 by scoring-0, 3.5 s" in row
    pools = next(line for line in said.splitlines() if line.startswith("scoring-0"))
    assert pools.split()[1:3] == ["0.4", "s"]
    assert pools.rstrip().endswith("7 in hand, 2.2/s, v12")


def test_a_cold_start_shows_how_far_each_job_is(run_dir):
    jobs = {"text": "1200/2100, 12 min 30 s left", "image": "3/4"}
    doing = [
        {"name": "cold start", "seconds": 9.0, "details": {}},
        {"name": "train", "seconds": 8.0, "details": jobs},
    ]
    write(run_dir, doing=doing, workers=[])
    assert "driver: cold start > train (text=1200/2100, 12 min 30 s left image=3/4), 8.0 s" in shown(run_dir)


def test_nothing_is_cropped_in_a_terminal_of_80_columns(run_dir):
    write(run_dir)
    words = shown(run_dir, width=80).split()
    assert sorted(shown(run_dir).split()) == sorted(words)
    assert "v12" in words


def test_a_silent_worker_is_named(run_dir):
    write(run_dir, workers=[WORKER | {"silent_s": 31.0}])
    verdict = verdict_on(run_dir, read_status(run_dir))
    assert verdict.code == SILENT
    assert verdict.text.startswith("running, but no sign of life from reward-generation-0 (process ")
    assert "(last said: score (num_chains=4), 3.2 s)" in shown(run_dir)


def test_a_driver_that_is_gone_is_dead_at_once(run_dir):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write(run_dir, pid=gone.pid, pid_begin_s=time.time())
    verdict = verdict_on(run_dir, read_status(run_dir))
    assert (verdict.code, verdict.lives) == (DEAD, False)
    assert f"dead: its driver (process {gone.pid}) is gone" in verdict.text


def test_another_process_with_the_drivers_number_is_not_the_driver(run_dir):
    write(run_dir, pid_begin_s=psutil.Process().create_time() - 3600)
    assert verdict_on(run_dir, read_status(run_dir)).code == DEAD


def test_a_stale_file_of_another_machine_is_watched_before_it_is_called_dead(run_dir, monkeypatch):
    monkeypatch.setattr(cluster.commands.status_page, "LOOK_AGAIN_S", 0.01)
    read = write(run_dir, host="elsewhere", updated_s=time.time() - 60)
    verdict = verdict_on(run_dir, read)
    assert verdict.code == DEAD
    assert "on elsewhere) says nothing since 1 min 0 s" in verdict.text
    # Its clock is a minute late, and it goes on writing.
    assert verdict_on(run_dir, read | {"num_updates": 74}).code == RUNS


@pytest.mark.parametrize(
    ("state", "error", "code", "said"),
    [
        ("finished", "", RUNS, "finished"),
        ("failed", "RewardError: no", DEAD, "failed: RewardError: no"),
        ("interrupted", "KeyboardInterrupt", DEAD, "interrupted: KeyboardInterrupt"),
        ("alarm", "AlarmError: ssim falls", ALARM, "stopped by an alarm: AlarmError: ssim falls"),
    ],
)
def test_a_run_that_ended_says_how(run_dir, state, error, code, said):
    write(run_dir, state=state, error=error, updated_s=0.0)
    verdict = verdict_on(run_dir, read_status(run_dir))
    assert (verdict.text, verdict.code, verdict.lives) == (said, code, False)
    assert "driver:" not in shown(run_dir)


def test_the_command_ends_with_the_code(run_dir, tmp_path, capsys):
    write(run_dir)
    assert main(["status", str(run_dir)]) == 0
    write(run_dir, state="failed", error="RewardError: no")
    assert main(["status", str(run_dir), "--watch"]) == DEAD
    assert main(["status", str(tmp_path / "absent")]) == 2
    assert "no run here (no status.json)" in capsys.readouterr().err
