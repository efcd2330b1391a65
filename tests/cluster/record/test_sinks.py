"""The metrics file survives kills and resumes; optional sinks never stop a run."""

import json
import logging

import numpy as np
import pytest
from rich.console import Console

from cluster.record.sinks import ConsoleSink, JsonlSink, MultiSink, read_metrics

METRICS = {
    "reward/total/mean": 2.1234,
    "reward/format/mean": 1.0,
    "reward/format/std": 0.1,
    "reward/generation/mean": 0.4567,
    "policy/text/ratio_before_update/max_dev": 3e-7,
    "weights/image/canary_nats/max": 1.5e-6,
    "time/rollout_s": 6.0,
    "time/update_s": 4.2,
    "time/step_s": 12.34,
}


class ListSink:
    def __init__(self):
        self.steps = []

    def log(self, step, metrics):
        self.steps.append(step)


class BrokenSink:
    def __init__(self):
        self.calls = 0

    def log(self, step, metrics):
        self.calls += 1
        raise ConnectionError("no route to the dashboard")


def test_lines_are_flat_json_with_step_and_time(tmp_path):
    sink = JsonlSink(tmp_path / "run" / "metrics.jsonl")
    sink.log(0, {"a": 1.5, "weights/text/version": 3})
    sink.log(1, {"a": np.float32(0.25)})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    first, second = (json.loads(line) for line in lines)
    assert (first["step"], first["a"], first["weights/text/version"]) == (0, 1.5, 3)
    assert second["a"] == 0.25
    assert second["wall_time_s"] >= first["wall_time_s"] >= 0


def test_not_finite_is_null_and_said_once(tmp_path, caplog):
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    with caplog.at_level(logging.WARNING):
        sink.log(0, {"loss": float("nan")})
        sink.log(1, {"loss": float("inf")})
    assert [record["loss"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [None, None]
    assert len(caplog.records) == 1


def test_only_numbers_are_metrics(tmp_path):
    with pytest.raises(TypeError, match="metric name must be a number, got str"):
        JsonlSink(tmp_path / "metrics.jsonl").log(0, {"name": "x"})


def test_half_a_line_is_skipped_and_the_next_step_starts_a_new_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    JsonlSink(path).log(0, {"a": 1.0})
    with path.open("a") as file:
        file.write('{"step": 1, "a"')
    JsonlSink(path).log(1, {"a": 2.0})
    assert [(record["step"], record["a"]) for record in read_metrics(path)] == [(0, 1.0), (1, 2.0)]


def test_resume_cuts_what_lies_past_the_checkpoint_and_keeps_the_clock(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {s}, "wall_time_s": {100.0 * s}, "a": {s}.0}}\n' for s in range(6)))
    sink = JsonlSink(path)
    sink.truncate_after(3)
    sink.log(4, {"a": 40.0})
    records = read_metrics(path)
    assert [record["a"] for record in records] == [0.0, 1.0, 2.0, 3.0, 40.0]
    assert 300 <= records[-1]["wall_time_s"] < 360
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_lines_of_one_step_are_merged(tmp_path):
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    sink.truncate_after(0)
    sink.log(2, {"a": 1.0})
    sink.log(2, {"eval/psnr/mean": 20.0})
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
    assert read_metrics(tmp_path / "absent.jsonl") == []


def test_the_terminal_gets_one_line_a_step(capsys):
    console = Console(width=40, highlight=False)
    ConsoleSink(console, num_steps=20).log(7, METRICS)
    ConsoleSink(console).log(8, {})
    ConsoleSink(console).log(9, {"time/step_s": 2.0})
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "step   7/20  reward 2.123  format 1.00 generation 0.46  ratio ±3e-07  canary ±2e-06"
        "  12.3 s (rollout 6.0 update 4.2)",
        "step   8",
        "step   9  2.0 s",
    ]


def test_an_optional_sink_that_fails_is_reported_once(caplog):
    good, broken, late = ListSink(), BrokenSink(), ListSink()
    sink = MultiSink([good], [broken, late])
    for step in range(3):
        sink.log(step, {})
    assert good.steps == late.steps == [0, 1, 2]
    assert broken.calls == 1
    assert "BrokenSink failed at step 0" in caplog.text
    with pytest.raises(ConnectionError):
        MultiSink([BrokenSink()]).log(0, {})
