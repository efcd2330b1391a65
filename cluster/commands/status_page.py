"""Status page, what a run does now: read from its directory by anybody who sees the file system.

Reads ``status.json``, which the driver refreshes each second, and the metrics file. It asks no process anything, so
it works from another machine, and for a run that hangs, was killed, or has ended.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname

import psutil
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.record.run_files import Status, read_as
from cluster.record.rundir import RunDir
from cluster.record.sinks import read_metrics, step_line
from cluster.runtime.console import CONSOLE, duration
from rl.errors import ConfigError
from rl.types import JsonDict

STALE_S = 10.0
"""A driver that has not refreshed the file for longer does not live, or cannot."""
SILENT_S = 10.0
"""A worker without a sign of life for longer hangs as a whole, is stopped, or has lost the network."""
LOOK_AGAIN_S = 2.5
"""How long a stale file is watched before the run is called dead: clocks of two machines may differ."""
RUNS, DEAD, ALARM, SILENT = 0, 1, 3, 4
"""Exit codes; 2 is a usage mistake, as everywhere."""
_ENDS = {
    "finished": ("finished", RUNS),
    "failed": ("failed", DEAD),
    "interrupted": ("interrupted", DEAD),
    "alarm": ("stopped by an alarm", ALARM),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a run is."""

    text: str
    code: int
    lives: bool = False


def status(run_dir: Path, *, watch: bool = False) -> int:
    """Print what a run does; with ``watch`` again each second until it ends.

    Returns:
        0 it runs or has finished, 1 it failed or its driver is dead, 3 an alarm stopped it, 4 it runs and a worker is
        silent.

    Raises:
        ConfigError: If there is no run, or one that wrote no status.
    """
    if not watch:
        read = read_status(run_dir)
        verdict = verdict_on(run_dir, read)
        CONSOLE.print(page(run_dir, read, verdict), soft_wrap=False)
        return verdict.code
    with Live(console=CONSOLE, auto_refresh=False) as live:
        while True:
            read = read_status(run_dir)
            verdict = verdict_on(run_dir, read)
            live.update(page(run_dir, read, verdict), refresh=True)
            if not verdict.lives:
                return verdict.code
            time.sleep(1.0)


def read_status(run_dir: Path) -> JsonDict:
    """Return the content of ``status.json``.

    Raises:
        ConfigError: If there is none.
        DamagedFileError: If it is damaged.
    """
    path = RunDir(run_dir).status
    if not path.is_file():
        raise ConfigError(f"{run_dir}: no run here (no status.json); give a run directory")
    return {**read_as(path, Status)}


def verdict_on(run_dir: Path, read: JsonDict) -> Verdict:
    """Say how the run is: ended, dead, silent in part, or well."""
    if read["state"] in _ENDS:
        ending, code = _ENDS[read["state"]]
        return Verdict(f"{ending}: {read['error']}" if read["error"] else ending, code)
    age = time.time() - read["updated_s"]
    if read["host"] == gethostname() and not _is_alive(read["pid"], read["pid_begin_s"]):
        return Verdict(f"dead: its driver (process {read['pid']}) is gone since {duration(age)}", DEAD)
    if age > STALE_S:
        time.sleep(LOOK_AGAIN_S)
        if read_status(run_dir)["num_updates"] == read["num_updates"]:
            where = f"process {read['pid']} on {read['host']}"
            return Verdict(f"dead or stopped: its driver ({where}) says nothing since {duration(age)}", DEAD)
    silent = [_name_silent(worker) for worker in read["workers"] if is_silent(worker)]
    if silent:
        return Verdict(f"running, but no sign of life from {', '.join(silent)}", SILENT, lives=True)
    return Verdict("running", RUNS, lives=True)


def is_silent(worker: JsonDict) -> bool:
    """Whether a worker that gave signs of life gives none now."""
    return worker["silent_s"] is not None and worker["silent_s"] > SILENT_S


def _name_silent(worker: JsonDict) -> str:
    """Return a worker's name, with what the system says of its process where it is one of this machine."""
    if worker["host"] != gethostname():
        return f"{worker['name']} on {worker['host']}"
    try:
        state: str = psutil.Process(worker["pid"]).status()
    except psutil.NoSuchProcess:
        state = "gone"
    return f"{worker['name']} (process {worker['pid']}: {state})"


def page(run_dir: Path, read: JsonDict, verdict: Verdict) -> Group:
    """Return everything that is shown."""
    lines: list[Text | Table] = [_head(read, verdict)]
    records = read_metrics(RunDir(run_dir).metrics)
    if records:
        numbers = {k: v for k, v in records[-1].items() if isinstance(v, int | float)}
        lines.append(step_line(int(records[-1]["step"]), numbers, read["num_steps"]))
    if seconds := [r["time/step_s"] for r in records[-10:] if isinstance(r.get("time/step_s"), float)]:
        median = statistics.median(seconds)
        left = (read["num_steps"] - read["num_done"]) * median
        text = f"{median:.1f} s a step (median of the last {len(seconds)})"
        lines.append(Text(f"{text}, about {duration(left)} left" if verdict.lives and left else text))
    if verdict.lives:
        lines.append(Text("driver: ").append(_doing(read["doing"]) or "between two phases", "bold"))
        if read["workers"]:
            lines.append(workers_table(read["workers"]))
    return Group(*lines)


def workers_table(workers: Sequence[JsonDict]) -> Table:
    """Return a row a worker: what it says it does, what others wait for, and how fresh that is."""
    table = Table(box=None, pad_edge=False)
    table.add_column("worker", min_width=max((len(worker["name"]) for worker in workers), default=0))
    table.add_column("last sign", justify="right", no_wrap=True)
    for heading in ("does", "was asked for", "pool"):
        table.add_column(heading)
    for worker in workers:
        does = _doing(worker["doing"])
        silent = is_silent(worker)
        table.add_row(
            worker["name"],
            "none yet" if worker["silent_s"] is None else f"{worker['silent_s']:.1f} s",
            f"(last said: {does or 'idle'})" if silent else does or ("idle" if worker["pid"] else ""),
            "; ".join(_asked(call) for call in worker["asked"]),
            _pooled(worker["pools"]),
            style="bold red" if silent else "",
        )
    return table


def _head(read: JsonDict, verdict: Verdict) -> Text:
    style = {RUNS: "bold green", SILENT: "bold yellow"}.get(verdict.code, "bold red")
    so_far = duration(read["updated_s"] - read["begin_s"])
    steps = f"{read['num_done']} of {read['num_steps']} steps, {so_far} in this attempt"
    return Text.assemble((read["name"], "bold"), "  ", (verdict.text, style), "  ", steps)


def _doing(spans: Sequence[JsonDict]) -> str:
    """Return open spans from the outside in, with their short details, and the innermost's seconds."""
    parts = []
    for name, equal in itertools.groupby(spans, key=lambda span: span["name"]):
        first, *others = equal
        details = " ".join(f"{k}={v}" for k, v in first["details"].items() if len(str(v)) <= 32)
        # Groups that are guided at once: how many says more than which.
        note = f"x{len(others) + 1}" if others else f"({details})" if details else ""
        parts.append(f"{name} {note}".rstrip())
    return f"{' > '.join(parts)}, {spans[-1]['seconds']:.1f} s" if parts else ""


def _asked(call: JsonDict) -> str:
    many = f" x{call['num']}" if call["num"] > 1 else ""
    return f"{call['method']}{many} by {call['by']}, {call['seconds']:.1f} s"


def _pooled(pools: Sequence[JsonDict]) -> str:
    """Return what a worker has in hand and answers a second, over all its pools, and its weight version."""
    if not pools:
        return ""
    num, rate = (sum(pool[key] for pool in pools) for key in ("num_in_hand", "done_per_s"))
    versions = "".join(f", v{pool['version']}" for pool in pools if pool["version"] is not None)
    return f"{num} in hand, {rate:.1f}/s{versions}"


def _is_alive(pid: int, begin_s: float) -> bool:
    """Whether the process that began then is still there; its number may have gone to another one."""
    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - begin_s) < 2.0
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
