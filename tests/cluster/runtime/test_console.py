"""What takes long says so in a log, and what users write is printed as it is."""

from __future__ import annotations

import re
import time

import pytest

from cluster.runtime import console
from cluster.runtime.console import CONSOLE, bar, bars, make_table, stage, tracked

HOSTILE = (
    "[/models/aesthetic]",
    "set [old]",
    "[bold] c",
    "a[/d] e",
    "[",
    "[/]",
    r"\[dim]",
    ":smile:",
    "[link=x]y",
)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LINE_S", 0.05)


@pytest.mark.parametrize("text", HOSTILE)
def test_brackets_and_colons_of_users_are_theirs(text, capsys, soon):
    table = make_table(text, text)
    table.add_row(text)
    CONSOLE.print(text)
    CONSOLE.print(table)
    with stage(text), bar(text, 2) as show:
        show(1)
        said = until(capsys, f"{text}: 1/2")
    assert list(tracked(text, [1], 1)) == [1]
    said += capsys.readouterr().out
    assert said.count(text) >= 7


def until(capsys: pytest.CaptureFixture[str], words: str) -> str:
    """Wait for a line that has the words, and return all that was said."""
    said, end = "", time.monotonic() + 60
    while words not in said:
        assert time.monotonic() < end, said
        time.sleep(0.02)
        said += capsys.readouterr().out
    return said


def test_a_log_is_told_how_far_each_of_several_is(capsys, soon):
    with bars() as shown:
        show_text, show_image = shown.add("text", 800), shown.add("image", 4)
        for done in range(1, 6):
            show_text(done * 100)
            until(capsys, f"text: {done * 100}/800")
        assert shown.under_way()["text"].startswith("500/800, ")
        assert shown.under_way()["image"] == "0/4"
        assert "; image: 0/4" in until(capsys, " left; image")
        show_image(0, "pictures 2/5")
        until(capsys, "; image (pictures 2/5): 0/4")
        show_image(4)
        assert list(shown.under_way()) == ["text"]
        assert "image" not in until(capsys, " left\n").splitlines()[-1]


def test_a_stage_says_how_long_it_takes_so_far(capsys, soon):
    with stage("start the workers"):
        until(capsys, " so far")
    assert re.fullmatch(
        r"(start the workers: \d+ s so far\n)*start the workers: \d+ s\n", capsys.readouterr().out
    )


def test_a_line_comes_at_least_every_15_seconds():
    assert console.LINE_S <= 15
