"""Signs of life of real actors: who is stopped is named with what it was asked, and what all did is on the timeline."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

import cluster.commands.status_page
from cluster.commands.status_page import SILENT, page, read_status, verdict_on
from cluster.pools.scoring import Scoring
from cluster.record.observer import Observer
from cluster.record.rundir import RunDir
from cluster.record.timeline import DRIVER, read_timeline, spans_of
from cluster.runtime.calls import Call, Worker, gather, put
from cluster.runtime.heartbeats import heartbeat_target
from cluster.runtime.spawn import kill, spawn
from configs.load import load_config
from configs.schema import RewardConfig
from rl.spans import Span, span
from rl.types import JsonDict
from tests.reference.rewards import make_view

pytestmark = pytest.mark.ray

PATIENCE_S = 120.0
STOPPED = "reward-mine-0"


@dataclass
class Scene:
    """A watched run with one reward of one actor, which takes half a second a batch."""

    path: Path
    scoring: Worker

    def ask(self, num: int) -> Call:
        """Send chains to be scored, in one call; nothing is waited for."""
        views = [make_view("fine", chain_id=f"g/{index}") for index in range(num)]
        return self.scoring.call("score", [view.with_pictures(put) for view in views])

    def until(self, is_so: Callable[[JsonDict], bool]) -> JsonDict:
        """Wait for a status of which something is true."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if self.path.joinpath("status.json").exists() and is_so(read := read_status(self.path)):
                return read
            time.sleep(0.2)
        raise AssertionError(f"not in time: {read_status(self.path)}")


def worker_of(read: JsonDict, name: str) -> JsonDict:
    return next((one for one in read["workers"] if one["name"] == name), {"pid": 0, "silent_s": None})


@pytest.fixture
def scene(ray_cluster: None, tmp_path: Path) -> Iterator[Scene]:
    reward = RewardConfig(
        target="tests.reference.faulty:FaultyReward",
        options={"log": str(tmp_path / "scored.txt"), "takes_s": 0.5},
        batch_size=2,
        deadline_s=PATIENCE_S / 3,
    )
    config = replace(
        load_config("tiny"),
        deterministic=False,
        rewards={"mine": reward},
        deadline_s=PATIENCE_S,
        name="watched",
    )
    observer = Observer(config, RunDir(tmp_path / "watched"))
    with observer.watching(), observer.listening():
        kwargs = {"config": config, "envs": {}, "heartbeats": heartbeat_target()}
        scoring = spawn(Scoring, "scoring-0", num_cpus=0.05, max_concurrency=100, kwargs=kwargs)
        try:
            gather([scoring.call("setup")], deadline_s=PATIENCE_S)
            yield Scene(tmp_path / "watched", scoring)
        finally:
            kill(scoring)


def test_a_stopped_reward_worker_is_named_with_what_it_was_asked(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.commands.status_page, "SILENT_S", 4.0)
    pid = worker_of(scene.until(lambda read: worker_of(read, STOPPED)["pid"] > 0), STOPPED)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        with span("collect"):
            call = scene.ask(3)
            read = scene.until(lambda read: (worker_of(read, STOPPED)["silent_s"] or 0) > 4.0)
            verdict = verdict_on(scene.path, read)
            console = Console(width=200, record=True, file=io.StringIO())
            console.print(page(scene.path, read, verdict))
            said = console.export_text()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert verdict.code == SILENT
    assert verdict.text == f"running, but no sign of life from {STOPPED} (process {pid}: stopped)"
    (row,) = [line for line in said.splitlines() if line.startswith(STOPPED)]
    assert "score x2 by scoring-0" in row  # three chains, in calls of two at most
    assert "driver: collect" in said
    assert worker_of(read, "scoring-0")["silent_s"] < 4.0
    (answers,) = gather([call], deadline_s=PATIENCE_S)
    assert all(one["mine"].valid[0] for one in answers)
    read = scene.until(lambda read: (worker_of(read, STOPPED)["silent_s"] or 9) < 4.0)
    assert verdict_on(scene.path, read).code == 0


def test_what_workers_did_is_on_the_timeline_and_their_pools_are_counted(scene: Scene) -> None:
    with span("step", step=0), span("collect"):
        gather([scene.ask(4)], deadline_s=PATIENCE_S)
    pool = scene.until(lambda read: any(p["num_done"] == 4 for p in worker_of(read, "scoring-0")["pools"]))
    found: dict[str, list[Span]] = {}
    scored: list[Span] = []
    end = time.monotonic() + 30
    while time.monotonic() < end and sum(int(one.details["num_chains"]) for one in scored) < 4:
        time.sleep(0.2)
        found = spans_of(read_timeline(scene.path / "timeline.json"))
        scored = [one for one in found.get(STOPPED, ()) if one.name == "score"]
    assert sum(int(one.details["num_chains"]) for one in scored) == 4
    assert {"step", "collect"} <= {one.name for one in found[DRIVER]}
    step = next(one for one in found[DRIVER] if one.name == "step")
    assert all(step.begin_s <= one.begin_s <= one.end_s <= step.end_s for one in scored)
    (said,) = worker_of(pool, "scoring-0")["pools"]
    assert (said["pool"], said["num_in_hand"]) == ("reward-mine", 0)


def test_a_run_that_ended_has_a_closed_timeline_and_says_how(tmp_path: Path) -> None:
    observer = Observer(replace(load_config("tiny"), name="short"), RunDir(tmp_path / "short"))

    def fail() -> None:
        with observer.watching(), span("step", step=0):
            observer.log(0, {"time/step_s": 1.0})
            raise ValueError("no\nmore")

    with pytest.raises(ValueError, match="no"):
        fail()
    read = read_status(tmp_path / "short")
    assert (read["state"], read["error"], read["num_done"]) == ("failed", "ValueError: no", 1)
    assert verdict_on(tmp_path / "short", read).code == 1
    assert json.loads((tmp_path / "short" / "timeline.json").read_text())


def test_what_cannot_be_written_is_said_once_and_costs_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "blind" / "status.json" / "in the way").mkdir(parents=True)
    observer = Observer(replace(load_config("tiny"), name="blind"), RunDir(tmp_path / "blind"))
    with observer.watching():
        time.sleep(2.5)
    assert [r.message for r in caplog.records if "not kept up" in r.message] == [
        "timeline.json and status.json are not kept up from here on; the run goes on"
    ]
