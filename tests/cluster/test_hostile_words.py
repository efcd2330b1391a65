"""Values that no user should write, on the command line: one line, exit code 2, at once, and nothing left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.cli import main

FILES = {
    "deep.yaml": "a: " + "[" * 3000 + "]" * 3000,
    "digits.yaml": "num_steps: " + "9" * 5000,
    "dollar.yaml": "name: '${'",
    "missing.yaml": "name: ${oc.env:NOT_THERE_AT_ALL}",
    "itself.yaml": "name: ${name}",
    "nul.yaml": 'name: "a\\0b"',
    "half.yaml": 'output_dir: "a\\ud800b"',
    "tag.yaml": "name: !!python/object/apply:os.system ['x']",
    "anchor.yaml": "a: &a [*a]",
    "null.yaml": "chain: null",
    "binary.yaml": "\x01\x02",
    "list.yaml": "? [a, b]\n: 1",
    "listed/config.json": "[1, 2]",
    "cut/config.json": "{",
    "nested/config.json": "[" * 100_000,
    "number/config.json": '{"model_type": 3}',
    "start/coldstart.json": "[]",
    "start2/coldstart.json": '{"digest": 3}',
    "start3/coldstart.json": "",
    "file": "",
    "mine/exits.py": "import sys\nsys.exit(0)",
    "mine/odd.py": """
import sys
from rewards.base import Reward

class Base(Reward):
    def score(self, chains): return [0.0 for _ in chains]
class Exits(Base):
    def __init__(self): sys.exit(0)
class Empty(Base):
    low, high = 1.0, 0.0
class NoNumber(Base):
    low = float("nan")
class Wants(Base):
    needs = "text"
class Judges(Base):
    def judged_blocks(self, chain): return 5
class Abstract(Reward): pass
""",
}
URL = "rewards.h.options={{url: '{}', max_tries: {}}}"
DIGITS = "9" * 30
OVERRIDES = {
    "name=" + "x" * 300: "name: ",
    "name=dangling": "output_dir: runs/dangling cannot be written",
    "output_dir=/proc/x": "output_dir: ",
    "output_dir=file": "output_dir: ",
    "storage_path=/proc/x": "storage_path: ",
    "storage_path=/dev/null/x": "storage_path: ",
    "num_steps=" + DIGITS: "num_steps: want at least 1 and at most 1e+09",
    "num_steps=" + "9" * 5000: "the value is not valid YAML",
    "seed=" + DIGITS: "seed: ",
    "seed=-" + DIGITS: "seed: ",
    "eval.num_prompts=" + DIGITS: "eval.num_prompts: ",
    "eval.num_prompts=999999999": "eval.num_prompts: want at least 1 and at most 100000",
    "prompts_per_step=" + DIGITS: "prompts_per_step: ",
    "coldstart.num_examples=" + DIGITS: "coldstart.num_examples: ",
    "rewards.format.num_workers=9999999": "rewards.format.num_workers: ",
    "policies.text.rollout.num_workers=9999999": "policies.text.rollout.num_workers: ",
    "num_runners=9999999": "num_runners: ",
    "deadline_s=1e308": "deadline_s: ",
    "data.zoom=[1e308,1e308]": "data.zoom: ",
    "name=${": "the value is not valid YAML",
    "name=a${": "the value is not valid YAML",
    "[=1": "the value is not valid YAML",
    "rewards.format.options=" + "[" * 3000 + "]" * 3000: "",
    "rewards.genration=null": "did you mean rewards.generation?",
    "chain.degradation=null": "chain.degradation: want keys and values below it, got nothing",
    "rewards." + "m" * 300 + ".target=rewards.format:FormatReward": "no usable name",
    "rewards.mine.target=" + "a." * 2000 + "a:b": "rewards.mine.target: want package.module:Class",
    "policies.text.source=listed": "listed: ",
    "policies.text.source=cut": "cut: ",
    "policies.text.source=nested": "nested: ",
    "policies.text.source=number": "number: ",
    "policies.text.source=file": "policies.text.source: ",
    "coldstart.directory=start": "start/coldstart.json: damaged",
    "coldstart.directory=start2": "start2/coldstart.json: damaged",
    "coldstart.directory=start3": "start3/coldstart.json: damaged: it is empty",
    "ray_address=http://[::1": "ray_address: want host:port",
    "ray_address=nope": "ray_address: want host:port",
    "ray_address=a:99999": "ray_address: want host:port",
    "ray_address=" + "a" * 64 + ".com:6379": "ray_address: want host:port",
    "eval.metrics=[psnr,psnr]": "eval.metrics: psnr is there twice",
    URL.format("http://[::1", 1): "url: want http://host:port",
    URL.format("http://127.0.0.1:99999", 1): "url: want http://host:port",
    URL.format("http://" + "a" * 64 + ".com", 1): "url: want http://host:port",
    URL.format("http://127.0.0.1:1", 0.5): "max_tries: want a whole number from 1",
    URL.format("http://127.0.0.1:1", "true"): "max_tries: want a whole number from 1",
    URL.format("http://127.0.0.1:1", "9" * 400): "max_tries: want a whole number from 1",
    "rewards.mine.target=exits:f": "rewards.mine.target: the module exits calls sys.exit(0)",
    "trackers=[exits:F]": "trackers: the module exits calls sys.exit(0)",
    "advantage.baseline=exits:f": "advantage.baseline: the module exits calls sys.exit(0)",
    "rewards.mine.target=odd:Exits": "odd.py:8 calls sys.exit(0)",
    "rewards.mine.target=odd:Empty": "declares the range 1 to 0, which is empty",
    "rewards.mine.target=odd:NoNumber": "declares low=nan; want a number",
    "rewards.mine.target=odd:Wants": "declares needs='text'; want a set of words",
    "rewards.mine.target=odd:Judges": "judged_blocks() returned 5",
    "rewards.mine.target=odd:Abstract": "odd:Abstract lacks score()",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    (folder / "runs").mkdir()
    (folder / "runs" / "dangling").symlink_to(folder / "nowhere")
    return folder


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    assert main(words) == code, words
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vlcot: error: ")
    assert len(line) < 2100
    return line


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda override: override[:50])
def test_a_value(override, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    words = ["rewards.h.target=rewards.http:HttpReward"] if override.startswith("rewards.h.") else []
    line = said(
        capsys, "check", "tiny", "plugins=[mine]", *words, override, code=1 if "Exits" in override else 2
    )
    assert OVERRIDES[override] in line
    assert [path for path in sorted(place.rglob("*")) if "__pycache__" not in str(path)] == before


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".yaml")])
@pytest.mark.parametrize("command", ["check", "search"])
def test_a_file(command, name, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    said(capsys, command, name)


@pytest.mark.parametrize(
    "word", ["x" * 300, "a\0b", "~nobody-of-this-name", "/dev/null", "runs/dangling", "file", "start"]
)
@pytest.mark.parametrize("command", ["check", "status", "report", "search"])
def test_a_place(command, word, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    try:
        code = main([command, word])
    except SystemExit as error:  # argparse ends the process
        code = error.code
    (line,) = capsys.readouterr().err.splitlines()
    assert (code, line[:14]) == (2, "vlcot: error: ")


def test_what_the_machine_does_not_have_is_refused_before_a_run_directory(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    # Other files' tests may have left a Ray in this process, in which a command would start at once.
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    cores = len(os.sched_getaffinity(0))
    for override, message in {
        f"policies.text.num_threads={cores + 1}": f"this machine has {cores} cores",
        "policies.text.num_gpus=8": "GPUs, this machine has",
        "ray_address=127.0.0.1:1": "ray_address: no Ray cluster at 127.0.0.1:1",
        "ray_address=auto": "ray_address: auto finds no Ray cluster",
        f"storage_path=file://{place}/file": "storage_path: ",
    }.items():
        assert message in said(capsys, "train", "tiny", "output_dir=out", override)
        assert not (place / "out").exists(), override
