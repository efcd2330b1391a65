"""The headline table says what was measured, and which way is better."""

import pytest
from rich.console import Console

from cluster.record.tables import eval_markdown, eval_table, headline
from rl.measure.statistics import summarise_eval

PROMPTS = ["a", "b", "c", "d"]


@pytest.fixture
def evaluation():
    cold = {"psnr": [20.0, 21.0, 22.0, 23.0], "gmsd": [0.2, 0.2, 0.3, 0.3], "ssim": [0.5, 0.6, 0.5, 0.6]}
    grpo = {"psnr": [20.5, 21.5, 22.6, 23.4], "gmsd": [0.1, 0.12, 0.2, 0.21], "ssim": [0.4, 0.7, 0.6, 0.5]}
    rewards = {"generation": [0.5, 0.5, 0.6, 0.6], "format": [1.0, 0.0, 1.0, 1.0]}
    worse = {"generation": [0.4, 0.39, 0.5, 0.5], "format": [1.0, 1.0, 1.0, 1.0]}
    rows = {"grpo": grpo | worse, "coldstart": cold | rewards, "bicubic": cold}
    return summarise_eval(PROMPTS, rows)


def test_rewards_come_first_and_judges_say_which_way_is_better(evaluation):
    rows = headline(evaluation)
    assert [row.metric for row in rows] == ["format", "generation", "psnr", "ssim", "gmsd"]
    by_name = {row.metric: row for row in rows}
    assert by_name["gmsd"].arrow == "↓"
    assert [by_name[name].verdict for name in ("psnr", "gmsd", "generation", "ssim")] == [
        "better",
        "better",
        "worse",
        "open",
    ]
    assert by_name["psnr"].values == ("21.50", "21.50", "22.00")
    assert by_name["psnr"].difference == "+0.50"
    assert by_name["gmsd"].difference == "-0.092"
    assert by_name["format"].values == ("-", "0.750", "1.000")


def test_a_difference_of_fewer_prompts_says_so():
    rows = {"coldstart": {"psnr": [20.0, None, 22.0]}, "grpo": {"psnr": [21.0, 22.0, 23.5]}}
    (row,) = headline(summarise_eval(["a", "b", "c"], rows))
    assert row.interval.endswith(" n=2")


def test_markdown(evaluation):
    lines = eval_markdown(evaluation).splitlines()
    assert lines[0] == "| metric | bicubic | cold start | GRPO | GRPO - cold start | 95 % interval |"
    assert lines[1] == "|---|---:|---:|---:|---:|---:|"
    assert lines[4].startswith("| PSNR ↑ | 21.50 | 21.50 | 22.00 | **+0.50** | [")
    assert "4 held-out prompts" in lines[-1]


def test_terminal(evaluation, capsys):
    Console(width=120).print(eval_table(evaluation))
    printed = capsys.readouterr().out
    for words in ("cold start", "GRPO - cold start", "GMSD ↓", "+0.50", "paired by prompt"):
        assert words in printed


def test_a_partial_evaluation_is_shown_as_far_as_it_goes():
    only = summarise_eval(["a"], {"bicubic": {"psnr": [20.0]}})
    assert [(row.values, row.difference) for row in headline(only)] == [(("20.00",), "-")]
    one = summarise_eval(["a"], {"coldstart": {"psnr": [20.0]}, "grpo": {"psnr": [20.5]}})
    assert [(row.difference, row.interval, row.verdict) for row in headline(one)] == [("+0.50", "", "open")]
    assert headline({}) == []
    assert "0 held-out prompts" in eval_markdown({})
