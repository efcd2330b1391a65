"""Every command and snippet of the README and ``docs/``, from a folder outside the checkout.

Commands that only read are run. Those that train, evaluate, restore or search for minutes have their words parsed, and
their configuration and settings checked; other tests here run each of them on ``tiny``.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from PIL import Image
from skimage import data as photographs

from cluster.cli import build_parser, main, parse
from configs.build import merge
from configs.checks.validate import validate
from configs.load import load_config
from configs.schema import Config
from tests.reference import own_package
from tests.reference.command import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LONG = {"train", "coldstart", "eval", "restore", "search"}
"""Commands that start workers."""
SEARCH = "runs/hunt"
"""A folder of trials that the pages go on with; tests/e2e/test_scale.py makes one."""
MODULE = re.compile(r"# (\w+)\.py")
"""First line of a snippet that is a module of the reader's own."""


class Snippet(NamedTuple):
    page: str
    line: int
    language: str
    text: str


def snippets() -> Iterator[Snippet]:
    for page in PAGES:
        lines = page.read_text().splitlines()
        fences = [index for index, line in enumerate(lines) if line.startswith("```")]
        for begin, end in zip(fences[::2], fences[1::2], strict=True):
            text = "\n".join(lines[begin + 1 : end]) + "\n"
            yield Snippet(page.name, begin + 1, lines[begin].removeprefix("```"), text)


SNIPPETS = list(snippets())
COMMANDS = sorted(
    {
        " ".join(words)
        for snippet in SNIPPETS
        if snippet.language in {"sh", ""}
        for line in snippet.text.splitlines()
        if line.startswith("vlcot ")
        and (words := [shlex.quote(w) for w in shlex.split(line, comments=True)])
        and words[1] != "error:"
    }
)
ERRORS = [
    (lines[0].removeprefix("$ "), lines[1])
    for snippet in SNIPPETS
    if (lines := snippet.text.splitlines()) and lines[0].startswith("$ vlcot ")
]


def written(language: str) -> list[Snippet]:
    return [snippet for snippet in SNIPPETS if snippet.language == language]


@pytest.fixture(scope="module")
def place(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: what the pages name is there, small."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "runs" / "hunt").mkdir(parents=True)
    for name in ("demo", "hunt/best"):
        (folder / "runs" / name).symlink_to(runs / "whole")
    for name in ("photos", "small", "restored"):
        (folder / name).mkdir()
        edge = 16 if name == "small" else 64
        Image.fromarray(photographs.coffee()).resize((edge, edge)).save(folder / name / "cup.png")
    Image.fromarray(photographs.coffee()[:40, :40]).save(folder / "photo.jpg")
    sums = [{"prompt": f"{i} + {i} =", "answer": 2 * i} for i in range(20)]
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, sums)))
    own_package.write_recipe(folder, base="tiny")
    for snippet in written("python"):
        if module := MODULE.match(snippet.text):
            (folder / f"{module[1]}.py").write_text(snippet.text)
    tuned = next(snippet.text for snippet in written("yaml") if snippet.text.startswith("# tuned.yaml"))
    demo = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    (folder / "tuned.yaml").write_text(yaml.safe_dump(demo | yaml.safe_load(tuned), sort_keys=False))
    return folder


@pytest.fixture
def reader(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the reader's folder, where their modules are importable."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.syspath_prepend(str(place / "shiny"))
    return place


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_what_it_says(command: str, reader: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, *words = shlex.split(command)
    arguments = parse(build_parser(), words)
    if words[0] in LONG:
        config = str(getattr(arguments, "config", "") or arguments.run_dir)
        overrides = [word for word in getattr(arguments, "overrides", []) if not word.startswith("search.")]
        if config != SEARCH:
            validate(load_config(config, overrides))
    elif words[:2] == ["rewards", "serve"] or "--watch" in words:
        pass  # both go on until Ctrl-C; tests/cluster/commands runs them
    else:
        assert main(words) == 0, capfd.readouterr()
    assert (reader / "runs" / "demo" / "resolved.yaml").exists()


@pytest.mark.parametrize(("command", "error"), ERRORS)
def test_a_mistake_costs_the_line_that_is_shown(
    command: str, error: str, reader: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(command)[1:]) == 2
    assert capfd.readouterr().err.strip() == error


@pytest.mark.parametrize("snippet", written("sh"), ids=lambda s: f"{s.page}:{s.line}")
def test_other_commands_are_there(snippet: Snippet) -> None:
    for line in snippet.text.splitlines():
        program, *words = shlex.split(line, comments=True) or [""]
        if program == "make":
            subprocess.run(["make", "-n", *words], cwd=ROOT, check=True, capture_output=True)
        else:
            assert program in {"", "vlcot", "pip", "python"}, line


@pytest.mark.parametrize("snippet", written("yaml"), ids=lambda s: f"{s.page}:{s.line}")
def test_a_piece_of_configuration_loads(snippet: Snippet, reader: Path) -> None:
    config = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    (reader / "piece.yaml").write_text(
        yaml.safe_dump(merge(config, yaml.safe_load(snippet.text), Config), sort_keys=False)
    )
    load_config("piece.yaml")


@pytest.mark.parametrize("snippet", written("json"), ids=lambda s: f"{s.page}:{s.line}")
def test_json_is_json(snippet: Snippet) -> None:
    assert json.loads(snippet.text)


@pytest.mark.parametrize("snippet", written("python"), ids=lambda s: f"{s.page}:{s.line}")
def test_python_runs(snippet: Snippet, reader: Path) -> None:
    from rl.compat.torchvision import ensure_torchvision

    ensure_torchvision()
    newest = sorted((reader / "runs" / "demo" / "checkpoints").iterdir())[-1]
    text = re.sub(r"runs/demo/checkpoints/step_\d+", str(newest), snippet.text)
    exec(compile(text, f"{snippet.page}:{snippet.line}", "exec"), {"__name__": "snippet"})
