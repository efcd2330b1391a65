"""The trace file is valid while it grows, when it is cut off, and when a run goes on; and its coverage is right."""

import itertools
import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cluster.record.timeline
from cluster.record.timeline import DRIVER, TimelineWriter, covered_frac, read_timeline, spans_of
from rl.spans import Span, SpanLog

T0 = 1_700_000_000.0


def span(name, begin, seconds, **more):
    return Span(name=name, begin_s=T0 + begin, seconds=seconds, **more)


def write(path, *, close=True):
    writer = TimelineWriter(path)
    writer.write(DRIVER, [span("collect", 0.0, 1.0), span("step", 0.0, 2.0, details={"step": 0})])
    writer.write("rollout-text-0", [span("write", 0.1, 0.5, details={"version": 3})])
    writer.write("runner-0", [span("group", 0.0, 1.0, lane="group", overlaps=True)] * 2)
    if close:
        writer.close()


def test_a_whole_file_is_an_array_of_trace_events(tmp_path):
    write(path := tmp_path / "timeline.json")
    events = json.loads(path.read_text())
    assert {event["ph"] for event in events} == {"M", "X"}
    names = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {DRIVER, "rollout-text-0", "runner-0"}
    for event in events:
        assert {"name", "ph", "pid", "tid", "args"} <= event.keys()
        if event["ph"] == "X":
            assert isinstance(event["ts"], int)
            assert event["dur"] >= 0
    text = next(event for event in events if event["name"] == "write")
    assert (text["ts"], text["dur"], text["args"]) == (round((T0 + 0.1) * 1e6), 500_000, {"version": 3})


def test_spans_that_overlap_lie_on_rows_of_their_own(tmp_path):
    write(path := tmp_path / "timeline.json")
    groups = spans_of(read_timeline(path))["runner-0"]
    assert [one.lane for one in groups] == ["group 0", "group 1"]


def test_a_cut_off_file_keeps_what_is_whole_and_a_resumed_run_goes_on_in_it(tmp_path):
    path = tmp_path / "timeline.json"
    write(path, close=False)
    path.write_bytes(path.read_bytes() + b',\n{"ph":"X","na')
    assert len(spans_of(read_timeline(path))[DRIVER]) == 2
    writer = TimelineWriter(path)
    writer.write("rollout-text-0", [span("write", 9.0, 0.5)])
    writer.write("learner-text-0", [span("update", 9.0, 0.5)])
    writer.close()
    found = spans_of(json.loads(path.read_text()))
    assert [one.begin_s - T0 for one in found["rollout-text-0"]] == pytest.approx([0.1, 9.0])
    assert list(found) == [DRIVER, "rollout-text-0", "runner-0", "learner-text-0"]
    write(path)  # a third attempt, after one that ended
    assert len(spans_of(json.loads(path.read_text()))[DRIVER]) == 4


def test_a_file_that_grows_too_large_is_set_aside_and_both_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.record.timeline, "MOST_BYTES", 4000)
    writer = TimelineWriter(path := tmp_path / "timeline.json")
    for index in range(100):
        writer.write("rollout-text-0", [span("write", float(index), 0.5)])
    writer.close()
    before, now = (spans_of(json.loads(p.read_text())) for p in (tmp_path / "timeline_before.json", path))
    begins = [round(one.begin_s - T0) for found in (before, now) for one in found.get("rollout-text-0", ())]
    assert begins == list(range(begins[0], 100))
    assert len(before["rollout-text-0"]) > 20
    assert len(list(tmp_path.iterdir())) == 2


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1e-3)), max_size=40), st.integers(0, 2**32))
def test_rows_hold_no_half_overlapping_events(moves, seed):
    """Perfetto drops an event that begins in another of its row and ends after it."""
    chance, clock = random.Random(seed), [float(seed % 10**6)]

    def tick():
        """The process is held up before, after and between any two readings."""
        clock[0] += chance.choice([0, 1e-7, 1e-5])
        return clock[0]

    times = SimpleNamespace(perf_counter=tick, time=lambda: T0 + tick())
    log, open_spans = SpanLog(), []
    with patch("rl.spans.time", times):
        for begins, pause in moves:
            clock[0] += pause
            if begins:
                open_spans.append(log.span("x"))
                open_spans[-1].__enter__()
            elif open_spans:
                open_spans.pop().__exit__(None, None, None)
        while open_spans:
            open_spans.pop().__exit__(None, None, None)
    with TemporaryDirectory() as folder:
        writer = TimelineWriter(path := Path(folder) / "timeline.json")
        writer.write(DRIVER, log.take())
        rows = [(e["ts"], e["ts"] + e["dur"]) for e in read_timeline(path) if e["ph"] == "X"]
    assert len(rows) == sum(begins for begins, _ in moves)
    for (begin, end), (other_begin, other_end) in itertools.combinations(rows, 2):
        assert not begin < other_begin < end < other_end
        assert not other_begin < begin < other_end < end


def test_no_file_has_no_events(tmp_path):
    assert read_timeline(tmp_path / "absent.json") == []


pieces = st.lists(st.tuples(st.integers(-5, 25), st.integers(0, 10)), max_size=8)


@given(pieces)
def test_coverage_is_that_of_the_union(found):
    step = span("step", 0.0, 20.0)
    others = [span("x", float(begin), float(seconds)) for begin, seconds in found]
    cells = {cell for b, s in found for cell in range(b, b + s) if 0 <= cell < 20}
    assert covered_frac(step, others) == pytest.approx(len(cells) / 20)
