"""The cold start of a run: its own once it has begun, shared before, never another one for a run with weights."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.record.rundir import RunDir
from cluster.run.coldstart import ensure_start, keep_start
from cluster.run.remote_copy import RemoteCopy, open_storage
from cluster.runtime.ownership import OWNER
from configs.derive import (
    COLDSTART_DONE,
    START,
    coldstart_directory,
    derived,
    run_directory,
    shared_coldstart,
)
from configs.load import DIGEST_FORMAT, digest, load_config, to_yaml
from configs.schema import Config
from rl.ahead import DataPosition
from rl.errors import ConfigError, DamagedFileError

ASKED = {"as it was": [], "photographs": ["data.images=/elsewhere"], "seed": ["seed=7"],
         "degradation": ["data.degradation=light"]}  # fmt: skip


def make_shared(config: Config) -> Path:
    """What a cold start leaves, without the minutes."""
    folder = shared_coldstart(config)
    for name in ("text/tokenizer.json", "image/model.safetensors", "expert/expert.pth", "work/scratch"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(f"{name} of {config.seed}")
    (folder / COLDSTART_DONE).write_text(json.dumps({"format": DIGEST_FORMAT, "digest": digest(config)}))
    return folder


def save(config: Config) -> None:
    run = RunDir(run_directory(config))
    run.begin_checkpoint(4).mkdir(parents=True)
    run.finish_checkpoint(4, DataPosition(position=8), {"text": 4, "image": 4}, keep=1)


@pytest.fixture
def config(tmp_path):
    """Of a run that has made a checkpoint, beside its cold start."""
    config = load_config("tiny", [f"output_dir={tmp_path / 'runs'}", "name=x"])
    make_shared(config)
    RunDir(run_directory(config)).create(resolved_yaml=to_yaml(config))
    return config


def asked_again(config: Config, changes: list[str], run: Path | None = None) -> Config:
    """As the command line reads a run directory."""
    run = run or run_directory(config)
    return replace(load_config(str(run), changes), output_dir=str(run.parent), name=run.name)


@pytest.mark.parametrize("changes", ASKED.values(), ids=ASKED.keys())
def test_a_run_keeps_its_start_whatever_is_asked_of_it(config, tmp_path, changes):
    keep_start(config)
    save(config)
    (tmp_path / "moved").mkdir()
    (tmp_path / "runs" / "x").rename(tmp_path / "moved" / "y")
    shutil.rmtree(shared_coldstart(config))
    again = asked_again(config, changes, tmp_path / "moved" / "y")
    start = ensure_start(again)
    own = tmp_path / "moved" / "y" / START
    assert start.directory == own
    assert start.sources["text"] == own / "text"
    assert start.with_experts(again).rewards["generation"].options["experts"]["cnniqa"]["weights"] == str(
        own / "expert" / "expert.pth"
    )
    assert derived(again)["cold start"] == f"{own} (the run's own)"
    assert [path.name for path in (tmp_path / "moved").iterdir()] == ["y"], "another cold start was begun"


@pytest.mark.parametrize("changes", ASKED.values(), ids=ASKED.keys())
def test_a_run_whose_own_start_is_gone_takes_the_one_it_began_with_or_refuses(config, tmp_path, changes):
    save(config)
    again = asked_again(config, changes)
    assert coldstart_directory(again) == shared_coldstart(config)
    assert ensure_start(again).directory == shared_coldstart(config)
    shutil.rmtree(shared_coldstart(config))
    with pytest.raises(
        ConfigError, match=r"has weights, and the cold start that they were made from is not in"
    ):
        ensure_start(again)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["x"]


def test_another_cold_start_is_not_taken_for_that_of_a_run_with_weights(config, tmp_path):
    save(config)
    other = replace(config, seed=7)
    with pytest.raises(ConfigError, match="holds the cold start of another configuration"):
        ensure_start(asked_again(config, [f"coldstart.directory={make_shared(other)}", "seed=7"]))
    named = tmp_path / "named"
    shared_coldstart(config).rename(named)
    start = ensure_start(asked_again(config, [f"coldstart.directory={named}", "seed=7"]))
    assert start.directory == named


def test_a_cold_start_of_an_older_version_is_taken_where_it_is_named_and_said_so(config, tmp_path, caplog):
    old = shared_coldstart(config).rename(tmp_path / "old")
    (old / COLDSTART_DONE).write_text('{"digest": "made in another way"}')
    named = replace(config, name="new", coldstart=replace(config.coldstart, directory=str(old)))
    assert ensure_start(named).directory == old
    assert "was made by an older vlcot, whose settings cannot be compared" in caplog.text
    save(config)
    with pytest.raises(ConfigError, match="holds the cold start of another configuration"):
        ensure_start(asked_again(config, [f"coldstart.directory={old}"]))


def test_keeping_links_what_it_can_and_leaves_scratch_out(config):
    (shared_coldstart(config) / OWNER).write_text("{}")
    for _ in range(2):
        keep_start(config)
    own, shared = run_directory(config) / START, shared_coldstart(config)
    kept = sorted(path.relative_to(own).as_posix() for path in own.rglob("*") if path.is_file())
    assert kept == [COLDSTART_DONE, "expert/expert.pth", "image/model.safetensors", "text/tokenizer.json"]
    assert all((own / name).samefile(shared / name) for name in kept)
    assert not list(run_directory(config).glob("*.partial"))


def test_where_links_do_not_work_it_is_a_copy(config, tmp_path):
    place = Path("/dev/shm") / f"vlcot-{tmp_path.name}-{tmp_path.parent.name}"
    if not place.parent.is_dir() or place.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no other file system here")
    try:
        shutil.move(shared_coldstart(config), place)
        there = replace(config, coldstart=replace(config.coldstart, directory=str(place)))
        keep_start(there)
        own = run_directory(config) / START / "text" / "tokenizer.json"
        assert own.read_text() == f"text/tokenizer.json of {config.seed}"
        assert not own.samefile(place / "text" / "tokenizer.json")
    finally:
        shutil.rmtree(place)


def test_a_new_run_shares_its_cold_start(config):
    other = replace(config, name="new")
    assert coldstart_directory(other) == shared_coldstart(config)
    assert derived(other)["cold start"].endswith(" (made)")


def test_a_damaged_record_costs_a_line(config):
    (shared_coldstart(config) / COLDSTART_DONE).write_text("")
    with pytest.raises(DamagedFileError, match=r"coldstart\.json: damaged: it is empty"):
        ensure_start(replace(config, name="new"))


def test_a_fresh_machine_gets_the_runs_own_start_with_it(config, tmp_path):
    config = replace(config, storage_path=str(tmp_path / "storage"))
    keep_start(config)
    save(config)
    (run_directory(config) / OWNER).write_text("{}")
    RemoteCopy(config, RunDir(run_directory(config)), open_storage(config.storage_path)).push()
    shutil.rmtree(tmp_path / "runs")
    fresh = replace(config, resume=True, seed=7)
    RemoteCopy(fresh, RunDir(run_directory(fresh)), open_storage(fresh.storage_path)).fetch()
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["x"]
    assert not (run_directory(fresh) / OWNER).exists()
    start = ensure_start(fresh)
    assert (start.directory / "expert" / "expert.pth").read_text() == f"expert/expert.pth of {config.seed}"
