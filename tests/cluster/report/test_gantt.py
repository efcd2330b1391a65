"""The report's picture of a step: the right steps, every lane, and shares that are those of the spans."""

from pathlib import Path

import pytest

from cluster.record.run_data import load_run
from cluster.record.timeline import DRIVER, TimelineWriter, read_timeline, spans_of
from cluster.report.gantt import rows_of, step_charts
from cluster.report.page import write_report
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
            Span(name="update", begin_s=begin + half, seconds=0.4 * seconds),
            Span(name="step", begin_s=begin, seconds=seconds, details={"step": step}),
        ])  # fmt: skip
        writer.write(
            "rollout-text-0", [Span(name="write", begin_s=begin, seconds=half, details={"version": step})]
        )
        groups = [Span(name="group", lane="group", overlaps=True, begin_s=begin, seconds=half)] * 2
        writer.write("runner-0", groups)
        begin += seconds
    writer.close()
    return path


def test_a_typical_and_a_slow_step_are_drawn(run_dir):
    typical, slowest = step_charts(load_run(run_dir))
    assert typical.title in {"A typical step: 0", "A typical step: 1", "A typical step: 2"}
    assert slowest.title == "The slowest step: 3"
    assert slowest.note.startswith(
        "40.00 s; spans account for 90.0% of it, those of the workers alone for 50.0%"
    )
    assert slowest.svg.count("<rect") == 5
    assert "write: 20.000 s from 0.000 s; version 3" in slowest.svg


def test_every_lane_has_a_row_with_its_share(run_dir):
    by_worker = spans_of(read_timeline(run_dir / "timeline.json"))
    step = next(one for one in by_worker[DRIVER] if one.name == "step")
    rows = {row.label: row.busy_frac for row in rows_of(step, by_worker)}
    assert rows == {
        "driver": pytest.approx(0.9), "rollout-text-0": 0.5, "runner-0 · group 0": 0.5, "runner-0 · group 1": 0.5,
    }  # fmt: skip


def test_the_report_has_it_where_there_is_a_timeline(run_dir, tmp_path):
    assert "Who did what in a step" in write_report(run_dir).read_text()
    assert "Who did what" not in write_report(make_run(tmp_path / "old", done=2, evaluated=False)).read_text()
