"""A run over two worker hosts and a head: the numbers of one machine, and what a cut cable does.

Not part of ``make test``: it wants rights to make network namespaces, and minutes. ``make test-hosts`` runs it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.record.sinks import read_metrics
from tests.reference.command import INTERRUPTIBLE, interrupt, numbers, vlcot
from tests.reference.hosts import ROOT, ForbiddenError, Hosts, check_allowed, environment

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]

TINY = [
    "tiny",
    "num_steps=2",
    "eval.num_prompts=2",
    "deadline_s=900",
    *[f"policies.{name}.learner.num_ranks=2" for name in ("text", "image")],
    *[f"policies.{name}.rollout.num_workers=2" for name in ("text", "image")],
]
"""The small system with two of everything that can be spread."""
DEADLINE_S = 900
VICTIM = 2
"""The host that is cut off."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for runs, with a cold start."""
    try:
        check_allowed()
    except ForbiddenError as reason:
        pytest.skip(f"no network namespaces here: {reason}")
    folder = tmp_path_factory.mktemp("runs")
    vlcot("coldstart", "tiny", f"output_dir={folder}")
    return folder


@pytest.fixture(scope="module")
def pictures(runs: Path) -> list[str]:
    """The smallest system, and a folder ``one`` with its run on one machine."""
    (start,) = runs.glob("coldstart-*")
    words = [str(ROOT / "tests" / "reference" / "pictures.yaml"), f"policies.image.source={start}/image"]
    words += ["policies.image.learner.num_ranks=2", "policies.image.rollout.num_workers=2"]
    words.append("num_steps=20")  # a step takes half a second: the cable is pulled before the last
    vlcot("train", *words, f"output_dir={runs}", "name=one")
    return words


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """A head and two workers."""
    with Hosts(3) as made:
        yield made


def start(hosts: Hosts, runs: Path, name: str, *words: str) -> subprocess.Popen[str]:
    """Start a run whose driver is on the head."""
    command = [*INTERRUPTIBLE, sys.executable, "-P", "-m", "cluster.cli", "train", *words]
    return subprocess.Popen(
        hosts.inside(0, *command, f"ray_address={hosts.ray_address}", f"output_dir={runs}", f"name={name}"),
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], *, expect: int) -> str:
    """Wait for a run and return what it printed."""
    try:
        said, _ = process.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        said, _ = interrupt(process, within_s=120)
    assert process.returncode == expect, said
    return said


def wait_for_steps(path: Path, num: int, process: subprocess.Popen[str]) -> None:
    """Wait until some steps are recorded."""
    end = time.monotonic() + DEADLINE_S
    while len(read_metrics(path)) < num:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.2)


def cut_off(hosts: Hosts, runs: Path, name: str, *words: str) -> subprocess.Popen[str]:
    """Start a run, and pull a host's cable in the middle of its second step."""
    process = start(hosts, runs, name, *words)
    wait_for_steps(runs / name / "metrics.jsonl", 1, process)
    time.sleep(1.0)
    hosts.cut(VICTIM)
    return process


def all_numbers(runs: Path, name: str) -> list[dict[str, object]]:
    return [numbers(record) for record in read_metrics(runs / name / "metrics.jsonl")]


def test_several_hosts_give_the_numbers_of_one(hosts: Hosts, runs: Path) -> None:
    """To the last digit: two ranks add up the same two numbers wherever they are."""
    finish(start(hosts, runs, "several", *TINY), expect=0)
    vlcot("train", *TINY, f"output_dir={runs}", "name=whole")
    assert all_numbers(runs, "several") == all_numbers(runs, "whole")


def test_a_cut_off_host_is_named_where_the_run_must_stop(
    hosts: Hosts, runs: Path, pictures: list[str]
) -> None:
    said = finish(cut_off(hosts, runs, "stopped", *pictures, "on_lost_worker=stop"), expect=1)
    last = said.strip().splitlines()[-1]
    assert last.startswith(f"vlcot: error: host {hosts.address(VICTIM)} was lost, with ")
    for worker in ("learner-image-", "rollout-image-"):
        assert last.count(worker) == 1, "one of two is on each host"
    assert "resume=true" in last
    assert "Traceback" not in said
    vlcot("train", str(runs / "stopped"), "ray_address=")
    assert all_numbers(runs, "stopped") == all_numbers(runs, "one")


def test_a_run_goes_on_without_the_host_to_the_same_numbers(
    hosts: Hosts, runs: Path, pictures: list[str]
) -> None:
    said = finish(cut_off(hosts, runs, "replaced", *pictures, "on_lost_worker=replace"), expect=0)
    assert f"host {hosts.address(VICTIM)} was lost, with " in said
    assert all_numbers(runs, "replaced") == all_numbers(runs, "one")
