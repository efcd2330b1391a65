"""The report's account of time: stages, the slowest step, and who waited by the timeline."""

from pathlib import Path

import pytest

from cluster.record.run_data import load_run
from cluster.record.timeline import DRIVER, TimelineWriter
from cluster.report.page import write_report
from cluster.report.times import times
from rl.spans import Span
from tests.reference.fake_run import make_run

LENGTHS = [10.0, 10.0, 11.0, 40.0]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = make_run(tmp_path / "demo", done=4, evaluated=False)
    writer, begin = TimelineWriter(path / "timeline.json"), 1_700_000_000.0
    for step, seconds in enumerate(LENGTHS):
        half = seconds / 2
        writer.write(DRIVER, [
            Span(name="collect", begin_s=begin, seconds=half),
            Span(name="step", begin_s=begin, seconds=seconds, details={"step": step}),
        ])  # fmt: skip
        for worker in (0, 1):
            busy = half if worker or step < 3 else 0.1 * seconds
            writer.write(f"rollout-text-{worker}", [Span(name="write", begin_s=begin, seconds=busy)])
        groups = [Span(name="group", lane="group", overlaps=True, begin_s=begin, seconds=0.9 * seconds)] * 2
        writer.write("runner-0", groups)
        begin += seconds
    writer.close()
    return path


def test_stages_add_up_to_a_step(run_dir):
    run = load_run(run_dir)
    account = times(run)
    seconds = dict(run.curve("time/step_s"))
    slowest = max(seconds, key=seconds.get)
    assert account.slowest == f"{slowest:g}"
    *stages, step = account.stages
    assert [stage for stage, *_ in stages] == ["rollout", "reward", "update", "publish", "other"]
    assert sum(float(row[3]) for row in stages) == pytest.approx(seconds[slowest], abs=0.03)
    assert step[3] == f"{seconds[slowest]:.2f}"
    assert sum(float(row[1].rstrip("%")) for row in stages) == pytest.approx(100, abs=3)


def test_who_waited_longest_comes_first(run_dir):
    rows = times(load_run(run_dir)).waits
    assert [row[:2] for row in rows] == [("rollout-text", 2), ("runner", 1)]
    whole = sum(LENGTHS)
    assert rows[0][2] == pytest.approx((0.5 * whole + (whole - 15.5 - 4.0)) / 2 / whole)
    assert rows[1][2] == pytest.approx(0.1)


def test_the_slowest_step_has_waits_of_its_own(run_dir):
    metrics = run_dir / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 3, "time/step_s": 40.0}\n')
    account = times(load_run(run_dir))
    assert account.slowest == "3"
    assert [row[3] for row in account.waits] == [pytest.approx(0.7), pytest.approx(0.1)]


def test_a_run_without_a_timeline_has_its_stages_alone(run_dir, tmp_path):
    assert "open it in ui.perfetto.dev" in write_report(run_dir).read_text()
    bare = write_report(make_run(tmp_path / "old", done=2, evaluated=False)).read_text()
    assert "share of the run" in bare
    assert "perfetto" not in bare
    assert times(load_run(make_run(tmp_path / "none", done=0, evaluated=False))) is None
