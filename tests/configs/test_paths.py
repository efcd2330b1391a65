"""Paths that users write: ``~`` in every one of them, and what no file can be called."""

from __future__ import annotations

import subprocess
import typing
from pathlib import Path

import pytest

from cluster.cli import build_parser
from configs.errors import ConfigError
from configs.load import load_config
from configs.paths import expand
from tests.reference.command import ROOT


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_what_is_no_path_stays_as_it_is(home):
    for text in ("runs", "./a~b", "s3://bucket/~x", "owner/name", "/a/b", "", "a b", "é"):
        assert expand(text) == text
    assert expand("~/runs") == f"{home}/runs"
    assert expand("~") == str(home)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("~nobody-of-this-name/x", "there is no home folder of ~nobody-of-this-name"),
        ("a\0b", "has a NUL character"),
        ("x" * 256, "a name in the path has 256 bytes, want at most 255"),
        ("é" * 128, "a name in the path has 256 bytes, want at most 255"),
        ("/abc" * 1000, "the path has 4000 bytes"),
    ],
)
def test_what_no_file_can_be_called_costs_one_line(path, message):
    with pytest.raises(ConfigError, match=message):
        expand(path)
    with pytest.raises(ConfigError, match=f"^output_dir: .*{message}"):
        load_config("tiny", [f"output_dir={path!r}" if "\0" not in path else 'output_dir="a\\0b"'])


KEYS = {
    "output_dir": [],
    "storage_path": [],
    "coldstart.directory": [],
    "data.images": [],
    "data.pairs": [],
    "policies.text.source": [],
    "data.prompts": ["data.prompts=x"],
    "data.held_out": ["data.prompts=x"],
    "data.image_dir": ["data.prompts=x"],
}


@pytest.mark.parametrize("key", KEYS)
def test_a_tilde_is_the_home_folder_in_every_path_of_a_configuration(key, home):
    value: typing.Any = load_config("tiny", [*KEYS[key], f"{key}=~/there"])
    for name in key.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    assert value == f"{home}/there"


def test_a_tilde_is_the_home_folder_in_every_path_of_the_command_line(home):
    parser = build_parser()
    for words in (
        ["restore", "~/run", "~/a.png", "--out=~/out"],
        ["status", "~/run"],
        ["report", "~/run"],
        ["train", "~/my.yaml"],
        ["rewards", "score", "ssim", "--images=~/a", "--truth=~/b", "--degraded=~/c", "--out=~/d"],
    ):
        arguments = vars(parser.parse_args(words))
        given = [
            str(value)
            for found in arguments.values()
            for value in (found if isinstance(found, list) else [found])
        ]
        assert not [text for text in given if "~" in text], words
        assert sum(text.startswith(str(home)) for text in given) == sum("~" in word for word in words)


def test_one_place_knows_what_a_tilde_is():
    listed = subprocess.run(
        ["grep", "-rl", "expanduser", "--include=*.py", *("cluster", "actors", "rewards", "rl", "configs")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert listed.stdout.split() == ["configs/paths.py"]
