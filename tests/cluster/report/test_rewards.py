"""The report of rewards: alarms, components, correlations, extremes; and a planted reward that is found out."""

import dataclasses
import re

import numpy as np
import pytest

from benchmarks.hackable import SETTINGS, WATCHED, LocalContrast, local_contrast, verdict
from cluster.record.recorder import chains_to_record, most_recorded
from cluster.record.run_data import load_run
from cluster.record.sinks import read_metrics
from cluster.report.page import write_report
from cluster.report.rewards import (
    alarms,
    component_rows,
    components,
    correlation_rows,
    extremes,
    held_out_charts,
    is_measured_only,
    reward_charts,
    share_charts,
)
from configs.checks.validate import validate
from configs.derive import measured_only
from configs.load import load_config
from rewards.contract import check_reward
from tests.reference.fake_run import make_run
from tests.reference.fooled_run import make_fooled_run
from tests.reference.groups import make_group, make_scores


@pytest.fixture(scope="module")
def fooled(tmp_path_factory):
    return make_fooled_run(tmp_path_factory.mktemp("runs") / "fooled")


@pytest.fixture(scope="module")
def run(fooled):
    return load_run(fooled)


# --------------------------------------------------------------------------------- the planted reward


def test_a_planted_reward_sets_off_the_alarm_and_the_report_shows_it(fooled):
    html = write_report(fooled).read_text()
    said, is_noticed = verdict(read_metrics(fooled / "metrics.jsonl"), html)
    assert is_noticed, said
    assert "first at step" in said
    assert re.search(r'<td class="plus" style="--share: 1.0">\+1.00</td>', html)
    assert '<td class="minus"' in html
    for words in (
        "a watched metric fell while the trained total rose",
        "watched: fidelity",
        'class="marked"',
    ):
        assert words in html
    addresses = re.findall(r'(?:src|href)\s*=\s*"([^"]+)', html)
    assert all(address.startswith(("data:image/", "#")) for address in addresses)


def test_an_honest_painter_sets_off_none(tmp_path):
    path = make_fooled_run(tmp_path / "honest", gain=0.0, num_steps=12, window=10)
    html = write_report(path).read_text()
    said, is_noticed = verdict(read_metrics(path / "metrics.jsonl"), html)
    assert not is_noticed, said
    assert 'id="alarms"' not in html


def test_noise_buys_local_contrast_and_costs_fidelity():
    rng = np.random.default_rng(0)
    truth = np.full((16, 16, 3), 128, np.uint8)
    noisy = np.clip(truth + rng.normal(0, 30, truth.shape), 0, 255).astype(np.uint8)
    assert local_contrast(truth) == 0.0
    assert local_contrast(noisy) > 0.1
    extreme = np.indices((8, 8)).sum(0) % 2 * 255
    assert local_contrast(np.repeat(extreme[..., None], 3, 2).astype(np.uint8)) == pytest.approx(1.0)


def test_the_planted_reward_is_a_reward_like_any_other():
    check_reward(LocalContrast())


def test_the_benchmark_is_a_valid_configuration():
    config = load_config("learning", list(SETTINGS))
    validate(config, paths=False)
    assert WATCHED in measured_only(config)
    assert [name for name, reward in config.rewards.items() if reward.weight] == ["format", "contrast"]


# --------------------------------------------------------------------------------- the report


def test_an_alarm_has_its_step_and_both_curves(run):
    (alarm,) = alarms(run)
    first = min(r["step"] for r in run.metrics if r.get("alarm/fidelity") == 1.0)
    assert alarm.name == "fidelity"
    assert f"started at step {first}" in alarm.when
    assert "over 20 steps" in alarm.why
    assert [chart.title for chart in alarm.charts] == ["trained total", "watched: fidelity"]


def test_components_have_their_numbers_and_correlations(run):
    assert components(run) == ["contrast", "fidelity"]
    assert (is_measured_only(run, "contrast"), is_measured_only(run, "fidelity")) == (False, True)
    rows = {row.name: row for row in component_rows(run)}
    assert rows["fidelity"].role == "measured only"
    assert rows["contrast"].cells[3:] == ("0%", "0%", "0%")
    across, below = correlation_rows(run)
    assert across == ["total", "contrast"]
    assert [name for name, _ in below] == ["contrast", "fidelity"]
    assert below[0][1][0] == pytest.approx(1.0, abs=0.005)
    assert all(value < 0 for value in below[1][1])
    assert [chart.title for chart in reward_charts(run)] == ["total", "contrast", "fidelity"]
    assert all('class="band"' in chart.svg for chart in reward_charts(run))
    assert {chart.title for chart in share_charts(run)} == {"Groups without spread", "Invalid scores"}


def test_held_out_curves_are_shown_where_there_are_any(tmp_path, run):
    assert held_out_charts(run) == []
    copy = dataclasses.replace(run, metrics=[{"step": s, "eval/psnr/mean": 20.0 + s} for s in (4, 9)])
    (chart,) = held_out_charts(copy)
    assert (chart.title, chart.note) == ("PSNR", "24.00 → 29.00")


def test_extremes_are_those_that_were_recorded(run):
    found = {one.name: one for one in extremes(run)}
    assert set(found) == {"contrast", "fidelity"}
    newest = [c.score("contrast") for c in run.training if c.step == 23]
    columns = found["contrast"].columns
    assert [column.title for column in columns[4:]] == ["best, step 23", "truth", "worst, step 23", "truth"]
    assert columns[4].picture.notes[0] == f"{max(newest):.3f}"
    assert columns[6].picture.notes[0] == f"{min(newest):.3f}"
    assert found["fidelity"].is_measured_only
    assert len(found["fidelity"].texts) == 4


def test_a_run_without_any_of_it_has_a_report(tmp_path):
    run = load_run(make_run(tmp_path / "bare", done=1, evaluated=False))
    assert alarms(run) == []
    assert share_charts(run) == []
    assert correlation_rows(run) == ([], [])
    assert {one.name for one in extremes(run)} == {"format", "degradation", "understanding", "generation"}


# --------------------------------------------------------------------------------- which chains are kept


def test_the_first_group_and_every_extreme_are_recorded():
    groups = [
        make_group("g", {"a": make_scores("a", [1.0, 2.0]), "b": make_scores("b", [0.0, 0.0])}),
        make_group(
            "h", {"a": make_scores("a", [9.0, 1.5]), "b": make_scores("b", [7.0, 1.0], valid=[False, True])}
        ),
        make_group("i", {"a": make_scores("a", [9.0, 0.5]), "b": make_scores("b", [0.5, -1.0])}),
    ]
    assert chains_to_record(groups, ("a", "b")) == [(0, 0), (0, 1), (1, 0), (2, 1), (1, 1)]
    assert chains_to_record([], ("a",)) == []
    assert len(chains_to_record(groups, ("a", "b"))) <= most_recorded(load_config("demo", ["group_size=2"]))
