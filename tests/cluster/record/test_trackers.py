"""Trackers with their real libraries: everything arrives, a failing one costs only itself, resumed runs go on."""

from __future__ import annotations

import json
import logging
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cluster.record.trackers.base
from cluster.record.run_files import read_notes
from cluster.record.rundir import RunDir
from cluster.record.trackers.base import Tracker, load_tracker, tracking
from cluster.report.page import write_report
from configs.checks.resources import check_trackers
from configs.errors import ConfigError
from configs.load import load_config
from configs.schema import Config
from tests.reference.fake_run import make_run

# 2026-11: MLflow 3.17 on SQLAlchemy 2.1, at its import.
pytestmark = pytest.mark.filterwarnings("ignore:.*loader strategy is deprecated")

STEPS = 6


class Recording(Tracker):
    """Keeps what it is told, in order."""

    told: list = []  # noqa: RUF012 - one a process: trackers are made by name

    def begin(self, run, kept):
        self.told.append(("begin", run.first_step, dict(kept)))
        return {"id": kept.get("id", "first")}

    def log(self, step, metrics):
        self.told.append(("log", step, metrics["reward/total/mean"]))

    def chains(self, step, chains):
        self.told.append(("chains", step, [chain.record["chain_id"] for chain in chains]))

    def end(self, outcome):
        self.told.append(("end", outcome))


class FailsAtThree(Recording):
    def log(self, step, metrics):
        if step == 3:
            raise ConnectionError("no route to the dashboard")


class Hangs(Recording):
    def log(self, step, metrics):
        time.sleep(30)


class KeepsConfig(Recording):
    def begin(self, run, kept):
        self.told.append(run.config)
        return {}


class NoTracker:
    pass


HERE = __name__


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    Recording.told.clear()
    return make_run(tmp_path / "demo", done=2, evaluated=False)


def track(run_dir: Path, *trackers: str, first: int = 0, last: int = STEPS) -> None:
    config = Config(name="demo", output_dir=str(run_dir.parent), trackers=list(trackers), num_steps=last)
    folders = sorted(path.parent for path in run_dir.glob("chains/step_000000/*/chain.json"))[:3]
    assert folders
    with tracking(config, RunDir(run_dir)) as all_of_them:
        all_of_them.begin(first)
        for step in range(first, last):
            all_of_them.chains(step, folders if step == first else [])
            all_of_them.log(step, {"reward/total/mean": step / 10, "loss/text/total": float("nan")})
        all_of_them.log(last - 1, {"reward/total/mean": 9.0})


def test_no_tracker_gets_a_secret_of_a_rewards_environment(run_dir, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "hunter2")
    overrides = [
        "rewards.format.env={env_vars: {KEY: '${oc.env:MY_SECRET}'}}",
        f"trackers=['{HERE}:KeepsConfig']",
    ]
    with tracking(load_config("tiny", overrides), RunDir(run_dir)) as trackers:
        trackers.begin(0)
    (config,) = [said for said in Recording.told if isinstance(said, dict)]
    assert config["rewards"]["format"]["env"] == {"env_vars": {"KEY": "${oc.env:MY_SECRET}"}}
    assert "hunter2" not in str(config)


def test_a_tracker_that_fails_is_reported_once_and_the_others_miss_nothing(run_dir, caplog):
    with caplog.at_level(logging.ERROR):
        track(run_dir, "tensorboard", "mlflow", f"{HERE}:FailsAtThree", f"{HERE}:Recording")
    assert [record.message for record in caplog.records] == [
        f"tracker {HERE}:FailsAtThree failed at step 3 and is left out from here on"
    ]
    notes = read_notes(run_dir / "tracking.json")
    assert {name: note["state"] for name, note in notes.items()} == {
        "tensorboard": "on", "mlflow": "on", f"{HERE}:FailsAtThree": "failed", f"{HERE}:Recording": "on",
    }  # fmt: skip
    page = write_report(run_dir).read_text()
    assert f"Tracker {HERE}:FailsAtThree failed at step 3" in page
    assert "no route to the dashboard" in page
    logged = [told for told in Recording.told if told[0] == "log"]
    assert [value for _, _, value in logged] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 9.0]
    assert [value for _, value in tensorboard_scalars(run_dir)] == pytest.approx([v for *_, v in logged])
    assert [value for _, value in mlflow_history(run_dir)] == pytest.approx([v for *_, v in logged])


def test_a_run_that_fails_before_its_trackers_have_begun_ends_none(run_dir, caplog):
    config = Config(
        name="demo", output_dir=str(run_dir.parent), trackers=["tensorboard", f"{HERE}:Recording"]
    )
    with (
        pytest.raises(ConfigError, match="the true cause"),
        caplog.at_level(logging.ERROR),
        tracking(config, RunDir(run_dir)),
    ):
        raise ConfigError("the true cause")
    assert caplog.records == []
    assert Recording.told == []
    assert read_notes(run_dir / "tracking.json") == {}


def test_tensorboard_has_the_config_and_chains_with_pictures(run_dir):
    track(run_dir, "tensorboard")
    events = accumulator(run_dir)
    assert {"config/text_summary", "code/text_summary", "chains/text_summary"} <= set(
        events.Tags()["tensors"]
    )
    assert events.Tags()["images"] == ["chains/00", "chains/01", "chains/02"]
    table = events.Tensors("chains/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "&lt;degradation&gt;" in table
    (picture,) = events.Images("chains/00")
    assert picture.height == 64


def test_a_resumed_run_hides_the_steps_that_tensorboard_has_already(run_dir):
    track(run_dir, "tensorboard", last=5)
    track(run_dir, "tensorboard", first=3)
    assert [step for step, _ in tensorboard_scalars(run_dir)] == [0, 1, 2, 3, 4, 5, 5]


def test_mlflow_has_parameters_chains_and_goes_on_with_the_same_run(run_dir):
    track(run_dir, "mlflow", last=3)
    track(run_dir, "mlflow", first=3)
    client, run = mlflow_run(run_dir)
    assert (run.data.params["name"], run.data.params["eval.num_prompts"]) == ("demo", "48")
    assert run.info.status == "FINISHED"
    assert [step for step, _ in mlflow_history(run_dir)] == [0, 1, 2, 2, 3, 4, 5, 5]
    assert run.data.metrics["reward/total/mean"] == 9.0
    assert "loss/text/total" not in run.data.metrics
    assert [entry.path for entry in client.list_artifacts(run.info.run_id)] == ["chains", "config.yaml"]
    table = next(run_dir.glob("mlflow/artifacts/*/artifacts/chains/step_000000/chains.json"))
    rows = json.loads(table.read_text())["chains"]
    assert len(rows) == 3
    assert (table.parents[1] / "step_000000" / Path(rows[0]["pictures"]).name / "degraded.png").is_file()


def test_wandb_offline_keeps_scalars_chains_and_its_run(run_dir, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    # In a process of its own: the library starts a service that lives as long as its process.
    code = (
        "import sys; from pathlib import Path; import tests.cluster.record.test_trackers as t;"
        "run = Path(sys.argv[1]);"
        "t.track(run, 'wandb', last=3); t.track(run, 'wandb', first=3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run_dir)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    note = read_notes(run_dir / "tracking.json")["wandb"]
    assert note["state"] == "on", done.stderr
    files = sorted(run_dir.glob(f"wandb/offline-run-*/run-{note['kept']['id']}.wandb"))
    assert files, "both attempts wrote the same run id"
    scalars = [value for file in files for value in wandb_scalars(file)]
    assert scalars == pytest.approx([0.0, 0.1, 0.2, 9.0, 0.3, 0.4, 0.5, 9.0])
    assert list(run_dir.glob("wandb/offline-run-*/files/media/table/chains_*.table.json"))
    staged = [path.read_bytes()[:4] for path in run_dir.glob("wandb/artifacts/staging/*")]
    assert staged.count(b"\x89PNG") >= 3 * 3


def test_a_resumed_tracker_is_given_what_it_kept(run_dir):
    track(run_dir, f"{HERE}:Recording", last=2)
    track(run_dir, f"{HERE}:Recording", first=2, last=3)
    begins = [told[1:] for told in Recording.told if told[0] == "begin"]
    assert begins == [(0, {}), (2, {"id": "first"})]
    assert Recording.told[-1] == ("end", "finished")
    assert [told[1] for told in Recording.told if told[0] == "chains"] == [0, 2]


def test_a_failed_run_is_told_so(run_dir):
    config = Config(name="demo", output_dir=str(run_dir.parent), trackers=[f"{HERE}:Recording"])

    def fail() -> None:
        with tracking(config, RunDir(run_dir)) as all_of_them:
            all_of_them.begin(0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert Recording.told[-1] == ("end", "failed")


def test_a_tracker_that_hangs_costs_no_step_and_is_left_at_the_end(run_dir, caplog, monkeypatch):
    monkeypatch.setattr(cluster.record.trackers.base, "CLOSE_S", 0.5)
    begin = time.perf_counter()
    track(run_dir, f"{HERE}:Hangs", f"{HERE}:Recording")
    assert time.perf_counter() - begin < 10
    assert "did not finish within 0.5 s" in caplog.text
    assert read_notes(run_dir / "tracking.json")[f"{HERE}:Hangs"]["state"] == "failed"
    assert sum(told[0] == "log" for told in Recording.told) == STEPS + 1


@pytest.mark.parametrize(
    ("trackers", "said"),
    [
        (["tensorbord"], "did you mean tensorboard?"),
        (["mlflow", "mlflow"], "'mlflow' is there twice"),
        (["shiny:Tracker:x"], "want package.module:Class"),
    ],
)
def test_a_mistake_costs_one_line(trackers, said):
    with pytest.raises(ConfigError, match=r"^trackers: ") as error:
        check_trackers(trackers)
    assert said in str(error.value)


def test_a_missing_package_is_named_with_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="which is not installed; pip install wandb"):
        check_trackers(["wandb"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_package:Tracker", "trackers: no module 'no_such_package'"),
        (f"{HERE}:NoSuch", "trackers: .* has no 'NoSuch'"),
        (f"{HERE}:NoTracker", "is no subclass"),
    ],
)
def test_a_class_that_is_no_tracker_is_refused(name, said):
    with pytest.raises(ConfigError, match=said):
        load_tracker(name)


# --------------------------------------------------------------------------------- reading back


def accumulator(run_dir: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return events


def tensorboard_scalars(run_dir: Path) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in accumulator(run_dir).Scalars("reward/total/mean")]


def mlflow_run(run_dir: Path):
    from mlflow.tracking import MlflowClient

    kept = read_notes(run_dir / "tracking.json")["mlflow"]["kept"]
    client = MlflowClient(tracking_uri=kept["uri"])
    return client, client.get_run(kept["run_id"])


def mlflow_history(run_dir: Path) -> list[tuple[int, float]]:
    client, run = mlflow_run(run_dir)
    found = client.get_metric_history(run.info.run_id, "reward/total/mean")
    return [(one.step, one.value) for one in found]


def wandb_scalars(file: Path) -> list[float]:
    from wandb.proto import wandb_internal_pb2

    found = []
    for data in log_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        found += [
            float(item.value_json)
            for item in record.history.item
            if (item.key or "/".join(item.nested_key)) == "reward/total/mean"
        ]
    return found


def log_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a file in LevelDB's log format: blocks of 32 KiB, records cut into pieces."""
    at, record = 7, b""  # past the file's own header
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in {1, 4}:  # whole, or the last piece
            yield record
            record = b""
