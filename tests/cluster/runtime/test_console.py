"""What takes long says so in a log, and what users write is printed as it is."""

from __future__ import annotations

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
        time.sleep(0.2)
    assert list(tracked(text, [1], 1)) == [1]
    said = capsys.readouterr().out
    assert said.count(text) >= 7
    assert f"{text}: 1/2" in said


def test_a_log_is_told_how_far_each_of_several_is(capsys, soon):
    with bars() as shown:
        show_text, show_image = shown.add("text", 800), shown.add("image", 4)
        for done in range(1, 6):
            show_text(done * 100)
            time.sleep(0.06)
        assert shown.under_way()["text"].startswith("500/800, ")
        assert shown.under_way()["image"] == "0/4"
        show_image(4)
        assert list(shown.under_way()) == ["text"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("text: ")]
    assert len(lines) >= 3
    assert lines[-1].startswith("text: 500/800, ")
    assert " left; image: 0/4" in lines[-1]


def test_a_stage_says_how_long_it_takes_so_far(capsys, soon):
    with stage("start the workers"):
        time.sleep(0.2)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert (first, last) == ("start the workers: 0 s so far", "start the workers: 0 s")


def test_a_line_comes_at_least_every_15_seconds():
    assert console.LINE_S <= 15
