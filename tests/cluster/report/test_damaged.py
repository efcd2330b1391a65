"""A damaged file costs its part of the report and one line, never the report and never a run."""

import json
import re
import shutil
from dataclasses import asdict

import pytest
import yaml

from cluster.cli import main
from cluster.record.run_data import load_run
from cluster.record.run_files import read_notes
from cluster.record.rundir import RunDir
from cluster.record.timeline import DRIVER, TimelineWriter
from cluster.record.trackers.base import Trackers
from cluster.report.page import report_line, write_report
from cluster.runtime.files import warn_once
from cluster.search.trials import Trial, TrialBook
from configs.load import load_config
from rl.errors import DamagedFileError
from rl.spans import Span
from tests.reference.damage import DAMAGES, damage
from tests.reference.fake_run import make_run

FILES = ("eval.json", "tracking.json", "resolved.yaml", "chain.json", "chain of an evaluation")
NOTES = {"mlflow": {"state": "failed", "kept": {"id": "1"}, "at": "step 3", "reason": "no network"}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = make_run(tmp_path_factory.mktemp("runs") / "demo", done=5)
    for chain in path.glob("chains/*/*"):  # one photograph and two chains a step are enough
        if not re.search(r"eval-\w+__coffee\+eval\+0%230|__[01]$", chain.name) or "eval+1" in chain.name:
            shutil.rmtree(chain)
    (path / "tracking.json").write_text(json.dumps(NOTES))
    writer = TimelineWriter(path / "timeline.json")
    for step in range(3):
        for worker, name in ((DRIVER, "step"), ("runner-0", "group")):
            writer.write(worker, [Span(name=name, begin_s=100.0 + step, seconds=0.9, details={"step": step})])
    return path


@pytest.fixture
def run_dir(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "demo")


def path_of(run_dir, file):
    chains = sorted(run_dir.glob("chains/*/*/chain.json"))
    match file:
        case "chain.json":
            return next(path for path in chains if not path.parent.name.startswith("eval"))
        case "chain of an evaluation":
            return next(path for path in chains if path.parent.name.startswith("eval"))
    return run_dir / file


def one_warning(caplog):
    (record,) = (record for record in caplog.records if record.levelname == "WARNING")
    line = record.getMessage()
    assert "\n" not in line
    return line


def test_a_whole_run_has_nothing_to_name(run_dir, caplog):
    assert load_run(run_dir).damaged == []
    assert "could not be read" not in write_report(run_dir).read_text()
    assert not caplog.records


FITS = {
    # An object of other keys is a configuration of some version; without trackers there are no notes.
    ("resolved.yaml", "empty object"), ("resolved.yaml", "missing key"), ("resolved.yaml", "wrong type inside"),
    ("resolved.yaml", "wrong types everywhere"), ("tracking.json", "empty object"), ("tracking.json", "missing key"),
}  # fmt: skip


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_the_rest_is_shown_and_the_file_is_named(run_dir, caplog, file, how):
    path = path_of(run_dir, file)
    if file == "resolved.yaml":
        path.write_text(json.dumps(yaml.safe_load(path.read_text())))
    damage(path, how)
    html = write_report(run_dir).read_text()
    if (file, how) in FITS:
        assert not caplog.records
    else:
        assert str(path) in one_warning(caplog)
        assert 'id="damaged"' in html
        assert str(path) in html
    for part in ("rewards", "chains", "health", "time"):
        assert f'id="{part}"' in html
    assert ('id="headline"' in html) == (file != "eval.json")


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("file", ["metrics.jsonl", "timeline.json"])
def test_a_damaged_line_costs_itself_alone(run_dir, caplog, file, how):
    path = run_dir / file
    lines = path.read_bytes().splitlines()
    before = load_run(run_dir)
    content = lines[3].strip(b",")
    lines[3] = DAMAGES[how](content).replace(b"\n", b" ")
    path.write_bytes(b"\n".join(lines))
    html = write_report(run_dir).read_text()
    after = load_run(run_dir)
    assert len(before.metrics) - 1 <= len(after.metrics) <= len(before.metrics)
    assert len(before.events) - 1 <= len(after.events) <= len(before.events)
    for part in ("headline", "rewards", "chains", "health", "time"):
        assert f'id="{part}"' in html
    is_object = how in {"empty", "empty object", "wrong type inside", "wrong types everywhere", "missing key"}
    if not is_object:
        assert f"{path}: 1 of its lines cannot be read" in one_warning(caplog)


@pytest.mark.parametrize("file", ["metrics.jsonl", "timeline.json"])
def test_the_half_line_of_a_killed_run_is_no_damage(run_dir, caplog, file):
    path = run_dir / file
    path.write_bytes(path.read_bytes() + b'\n{"step": 7, "rew')
    assert 'id="time"' in write_report(run_dir).read_text()
    assert not caplog.records


@pytest.mark.parametrize("size", [0, 8, 40, 200])
def test_a_cut_picture_is_named_and_its_chain_shown(run_dir, caplog, size):
    pictures = sorted(run_dir.glob("chains/*/*/*.png"))
    for path in pictures:
        path.write_bytes(path.read_bytes()[:size])
    html = write_report(run_dir).read_text()
    assert "more, named in the report" in one_warning(caplog)
    assert html.count('class="panel card"') >= 4
    assert "fine edges" in html


@pytest.mark.parametrize("how", DAMAGES)
def test_trackers_of_a_run_that_goes_on_begin_anew(run_dir, caplog, how):
    damage(run_dir / "tracking.json", how)
    config = load_config("tiny", [f"output_dir={run_dir.parent}", f"name={run_dir.name}"])
    run = load_run(run_dir)
    assert run.trackers == {}
    Trackers(config, RunDir(run_dir))
    if ("tracking.json", how) in FITS:
        assert read_notes(run_dir / "tracking.json") == {}
    else:
        assert "every tracker begins a new run" in one_warning(caplog)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_status_is_one_line(tmp_path, capsys, how):
    status = {
        "name": "demo", "state": "finished", "error": "", "pid": 1, "pid_begin_s": 0.5, "host": "a", "begin_s": 0.5,
        "updated_s": 0.75, "num_updates": 3, "num_done": 2, "num_steps": 4, "metrics": {}, "doing": [], "workers": [],
    }  # fmt: skip
    path = tmp_path / "status.json"
    path.write_text(json.dumps(status))
    assert main(["status", str(tmp_path)]) == 0
    damage(path, how)
    capsys.readouterr()
    assert main(["status", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert "damaged" in line


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_trial_is_one_line_and_left_out_and_its_number_is_not_given_again(tmp_path, how, caplog):
    book = TrialBook(tmp_path)
    trial = Trial(number=3, values={"a": 0.5}, metric={10: 0.25, 20: None})
    book.write(trial)
    assert book.all() == [trial]
    damage(book.path(3) / "trial.json", how)
    with pytest.raises(DamagedFileError) as caught:
        book.read(3)
    warn_once.cache_clear()
    assert (book.all(), book.num_known) == ([], 4)
    assert [r.getMessage() for r in caplog.records] == [f"{caught.value}; this trial is left out"]
    assert "\n" not in str(caught.value)
    assert str(book.path(3) / "trial.json") in str(caught.value)
    assert asdict(trial)["metric"] == {10: 0.25, 20: None}


def test_a_report_never_fails_a_run(run_dir, caplog):
    assert report_line(run_dir) == f"report: {run_dir / 'report.html'}"
    (run_dir / "report.html").unlink()
    (run_dir / "report.html").mkdir()
    line = report_line(run_dir)
    assert line.startswith("no report: ")
    assert "report.html" in line
    (record,) = caplog.records
    assert record.exc_info
