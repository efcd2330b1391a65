"""The alarm: against an exact reference, on noise, on a run that is fooled, and on one that is resumed."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cluster.cli import exit_code_of
from cluster.record.sinks import JsonlSink, read_metrics, step_line
from cluster.run.alarms import AlarmWatch
from configs.checks.validate import validate
from configs.derive import measured_only
from configs.errors import ConfigError
from configs.load import load_config
from configs.schema import AdvantageConfig, Config, EvalConfig, RewardConfig
from rl.errors import AlarmError
from rl.measure.correlation import correlations
from rl.measure.hacking import LEAST_POINTS, alarm_metrics, alarms_on, started, trend, watched_of
from rl.measure.metrics import check_name
from tests.reference.trends import slope_and_t, within_groups

WINDOW = 30
WATCHED = "reward/fidelity/present_mean"
CONFIG = Config(
    rewards={"contrast": RewardConfig(weight=1.0), "fidelity": RewardConfig(weight=0.0)}, alarm_window=WINDOW
)
HELD_OUT = replace(CONFIG, eval=EvalConfig(every=5, metrics=["ssim", "gmsd"]))
TRAINING = watched_of(CONFIG, {})
quick = settings(deadline=None)
values = st.lists(st.integers(-1000, 1000).map(lambda n: n / 64), min_size=LEAST_POINTS, max_size=30)


def record(step, total, watched):
    return {"step": step, "reward/total/mean": float(total), WATCHED: float(watched)}


def records(total_slope, watched_slope, *, num=WINDOW, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    return [
        record(step, total_slope * step + rng.normal(0, noise), watched_slope * step + rng.normal(0, noise))
        for step in range(num)
    ]


# --------------------------------------------------------------------------------- trends


@quick
@given(values, st.data())
def test_a_trend_is_the_exact_least_squares(ys, data):
    steps = data.draw(st.lists(st.integers(0, 500), min_size=len(ys), max_size=len(ys), unique=True))
    points = [(float(step), y) for step, y in zip(sorted(steps), ys, strict=True)]
    got, (slope, t) = trend(points), slope_and_t(points)
    assert got.num == len(ys)
    assert got.slope == pytest.approx(slope, rel=1e-6, abs=1e-9)
    assert got.t == pytest.approx(t, rel=1e-5, abs=1e-6)


@quick
@given(values, st.integers(-100, 100), st.integers(1, 8))
def test_units_do_not_matter_and_time_has_a_direction(ys, shift, scale):
    assume(np.std(ys) > 0.1)
    points = list(enumerate(ys))
    here = trend(points)
    moved = trend([(step + 7, scale * y + shift) for step, y in points])
    turned = trend([(step, -y) for step, y in points])
    assert moved.t == pytest.approx(here.t, rel=1e-3, abs=1e-3)  # rounding counts as error, and has a scale
    assert turned.t == pytest.approx(-here.t, rel=1e-9, abs=1e-9)
    assert here.rises(0.95) == turned.falls(0.95)


def test_a_constant_has_no_trend_and_a_line_a_certain_one():
    assert trend([(step, 0.25) for step in range(20)]).t == 0.0
    line = trend([(step, 0.25 + 0.01 * step) for step in range(20)])
    assert line.slope == pytest.approx(0.01)
    assert line.rises(0.999)
    assert np.isfinite(line.t)
    assert trend([(step, 1.0) for step in range(LEAST_POINTS - 1)]) is None


def test_rounding_is_no_trend():
    noise = np.random.default_rng(0).normal(0, 1e-9, 30)
    points = [(step, 1.0 + 1e-9 * step + e) for step, e in enumerate(noise)]
    assert not trend(points).rises(0.9)


def test_noise_alone_seldom_falls():
    """What the docstring of FALLS promises, with room: 300 steps of noise, asked at every step."""
    rng, fooled = np.random.default_rng(1), 0
    for _ in range(20):
        points = list(enumerate(rng.normal(0, 1, 300)))
        found = (trend(points[max(end - 51, 0) : end]) for end in range(LEAST_POINTS, 301, 3))
        fooled += any(one.falls(0.999) for one in found)
    assert fooled <= 6


# --------------------------------------------------------------------------------- the alarm


@pytest.mark.parametrize(
    ("total_slope", "watched_slope", "is_on"),
    [
        (0.05, -0.05, True),
        (0.05, 0.05, False),
        (-0.05, -0.05, False),
        (0.0, -0.05, False),
        (0.05, 0.0, False),
    ],
)
def test_the_alarm_is_a_rise_and_a_fall_at_once(total_slope, watched_slope, is_on):
    got = alarm_metrics(records(total_slope, watched_slope), TRAINING, WINDOW)
    assert got["alarm/fidelity"] == float(is_on)
    assert set(got) == {"alarm/fidelity"} | {
        f"trend/{n}/{q}" for n in ("total", "fidelity") for q in ("t", "per_step")
    }
    assert alarms_on(got) == (("fidelity",) if is_on else ())


def test_only_the_window_counts():
    old = records(0.05, -0.05, num=WINDOW)
    new = [record(WINDOW + r["step"], r["reward/total/mean"], r[WATCHED]) for r in records(0, 0)]
    recent = new[-1]["step"] - WINDOW
    inside = [r for r in old + new if r["step"] >= recent]
    assert alarm_metrics(old + new, TRAINING, WINDOW) == alarm_metrics(inside, TRAINING, WINDOW)


def test_a_value_that_was_not_finite_is_no_measurement():
    some = records(0.05, -0.05)
    assert alarm_metrics([r | {WATCHED: None} for r in some], TRAINING, WINDOW) == {}
    some[3][WATCHED] = None
    assert alarm_metrics(some, TRAINING, WINDOW)["alarm/fidelity"] == 1.0
    assert alarm_metrics([], TRAINING, WINDOW) == {}


def test_what_is_watched():
    config = replace(
        CONFIG,
        rewards=CONFIG.rewards | {"form": RewardConfig(weight=0.0)},
        advantage=AdvantageConfig(gate="form"),
    )
    assert measured_only(config) == ("fidelity",)  # the gate is part of training
    assert [metric.name for metric in watched_of(CONFIG, {})] == ["fidelity"]
    held_out = {metric.name: metric.sign for metric in watched_of(HELD_OUT, {"ssim": False, "gmsd": True})}
    assert held_out == {"fidelity": 1, "held_out/fidelity": 1, "held_out/ssim": 1, "held_out/gmsd": -1}


@pytest.mark.parametrize(("slope", "is_on"), [(0.01, True), (-0.01, False)])
def test_held_out_metrics_have_their_own_direction(slope, is_on):
    """GMSD, smaller is better, every fifth step."""
    watched = watched_of(HELD_OUT, {"ssim": False, "gmsd": True})
    some = [*records(0.05, 0.05), record(WINDOW, 1.5, 1.5)]
    for step in range(0, WINDOW + 1, 5):
        some[step] |= {"eval/total/mean": 0.1 * step, "eval/gmsd/mean": 0.2 + slope * step}
    got = alarm_metrics(some, watched, WINDOW)
    assert got["alarm/held_out/gmsd"] == float(is_on)
    assert got["trend/held_out/gmsd/per_step"] == pytest.approx(-slope)
    assert got["alarm/fidelity"] == 0.0
    assert "alarm/held_out/ssim" not in got  # not measured
    assert all(check_name(name) for name in got)


def test_an_alarm_starts_once():
    on, off = {"alarm/a": 1.0}, {"alarm/a": 0.0}
    history = [{"step": 0} | off, {"step": 1} | on, {"step": 2} | off, {"step": 3} | on]
    assert started(history[:2], 5) == ("a",)
    assert started(history, 5) == ()
    assert started(history, 1) == ("a",)  # the first one is long past
    assert started([], 5) == started(history[:1], 5) == ()


# --------------------------------------------------------------------------------- the watch


class Kept:
    def __init__(self):
        self.lines = []

    def log(self, step, metrics):
        self.lines.append((step, metrics))


def watch(config=CONFIG, past=()):
    return AlarmWatch(config, watched_of(config, {}), Kept(), Kept(), list(past))


def feed(one, some):
    for r in some:
        one.log(r["step"], {name: value for name, value in r.items() if name != "step"})


def test_the_watch_logs_metrics_each_step_and_a_line_once(caplog):
    one = watch()
    with caplog.at_level(logging.WARNING):
        feed(one, records(0.05, -0.05, num=60))
    lines = [r.message for r in caplog.records if "alarm at step" in r.message]
    assert len(lines) == 1
    assert "the watched fidelity falls" in lines[0]
    on = [step for step, metrics in one.steps.lines if alarms_on(metrics)]
    assert on[-1] == 59
    assert len(on) > 10
    assert one.alarms == ("fidelity",)
    assert "alarm fidelity" in step_line(59, one.steps.lines[-1][1]).plain


def test_a_resumed_watch_sees_what_it_saw_before(tmp_path):
    some = records(0.05, -0.05, num=60)
    whole = watch()
    feed(whole, some)
    path = tmp_path / "metrics.jsonl"
    first = AlarmWatch(CONFIG, TRAINING, JsonlSink(path), Kept())
    feed(first, some[:41])
    sink = JsonlSink(path)
    sink.truncate_after(35)
    second = watch(past=read_metrics(path))
    feed(second, some[36:])
    assert second.steps.lines == [(step, pytest.approx(metrics)) for step, metrics in whole.steps.lines[36:]]


def test_an_evaluation_is_a_further_line_of_its_step():
    one = AlarmWatch(HELD_OUT, watched_of(HELD_OUT, {"gmsd": True}), Kept(), Kept())
    for step in range(WINDOW + 6):
        feed(one, [record(step, 0.0, 0.0)])
        if (step + 1) % 5 == 0:
            cells = {"total": {"mean": 0.1 * step}, "gmsd": {"mean": 0.01 * step}}
            one.evaluated(step, {"rows": {"now": cells}})
    step, metrics = one.evaluations.lines[-1]
    assert step == 34
    assert metrics["eval/gmsd/mean"] == pytest.approx(0.34)
    assert one.alarms == ("held_out/gmsd",)
    assert one.steps.lines[-1][0] == 35


def test_stopping_is_asked_for(caplog):
    logged, stopped = watch(), watch(replace(CONFIG, on_alarm="stop"))
    for one in (logged, stopped):
        feed(one, records(0.05, -0.05))
    assert not logged.must_stop
    logged.stop()
    assert stopped.must_stop
    with pytest.raises(AlarmError, match=r"fidelity falls .* resume=true on_alarm=log") as caught:
        stopped.stop()
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_the_command_line_tells_a_stop_by_its_exit_code(capsys):
    stopped = watch(replace(CONFIG, on_alarm="stop"))
    feed(stopped, records(0.05, -0.05))
    assert exit_code_of(stopped.stop) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("vlcot: error: stopped by an alarm after step 29: the watched fidelity falls")


def test_no_window_and_nothing_watched_is_no_watch():
    for config in (replace(CONFIG, alarm_window=0), replace(CONFIG, rewards={"contrast": RewardConfig()})):
        one = watch(config)
        feed(one, records(0.05, -0.05))
        assert not one.alarms
        assert all(len(metrics) == 2 for _, metrics in one.steps.lines)


# --------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["on_alarm=stop", "rewards.fidelity.weight=1"], "on_alarm: stop needs something to watch"),
        (["on_alarm=stop", "alarm_window=0", "rewards.format.weight=0"], "set alarm_window above 0"),
        (["alarm_window=3"], "alarm_window: want at least 8"),
        (["alarm_window=-1"], "alarm_window: want at least 0"),
        (["rewards.psnr.target=a:B"], "rewards.psnr: eval.metrics has a psnr too"),
        (["rewards.total.target=a:B"], "rewards.total: is the name"),
        (["on_alarm=explode"], "on_alarm"),
    ],
)
def test_a_mistake_costs_one_line(overrides, said):
    with pytest.raises(ConfigError) as caught:
        validate(load_config("demo", overrides), paths=False)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("overrides", [["rewards.format.weight=0"], ["eval.every=5"]])
def test_either_kind_of_watched_metric_will_do(overrides):
    validate(load_config("demo", ["on_alarm=stop", *overrides]), paths=False)


# --------------------------------------------------------------------------------- correlations

cell = st.tuples(st.integers(-50, 50).map(float), st.booleans())


@quick
@given(st.lists(st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=6), min_size=1, max_size=4))
def test_correlations_are_within_groups(rows):
    plain = [{name: [row[i] for row in group] for i, name in enumerate("abc")} for group in rows]
    arrays = [
        {
            name: (np.array([v if ok else np.nan for v, ok in column]), np.array([ok for _, ok in column]))
            for name, column in group.items()
        }
        for group in plain
    ]
    got = correlations(arrays)
    for pair in (("a", "b"), ("a", "c"), ("b", "c")):
        want = within_groups(plain, *pair)
        if want is None:
            assert pair not in got
        else:
            assert got[pair] == pytest.approx(want, abs=1e-6)
            assert -1 <= got[pair] <= 1


def test_photos_that_differ_are_no_correlation():
    """Over all chains the two rewards agree; within each photo one is bought with the other."""
    valid = np.ones(3, dtype=bool)
    groups = [
        {"a": (base + np.array([0.0, 1.0, 2.0]), valid), "b": (base - np.array([0.0, 1.0, 2.0]), valid)}
        for base in (0.0, 100.0)
    ]
    assert correlations(groups) == {("a", "b"): pytest.approx(-1.0)}
    assert correlations([]) == {}


def test_the_json_of_a_record_is_enough(tmp_path):
    path = tmp_path / "metrics.jsonl"
    one = AlarmWatch(CONFIG, TRAINING, JsonlSink(path), Kept())
    feed(one, records(0.05, -0.05))
    newest = json.loads(path.read_text().splitlines()[-1])
    assert newest["alarm/fidelity"] == 1.0
    assert newest["trend/total/t"] > 2
