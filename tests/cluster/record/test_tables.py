"""The headline table says what was measured, and which way is better."""

import pytest
from rich.console import Console

from cluster.record.tables import eval_markdown, eval_tables, terminal_tables
from rl.measure.statistics import summarise_eval

PROMPTS = ["a", "b", "c", "d"]


@pytest.fixture
def evaluation():
    cold = {"psnr": [20.0, 21.0, 22.0, 23.0], "gmsd": [0.2, 0.2, 0.3, 0.3], "ssim": [0.5, 0.6, 0.5, 0.6]}
    grpo = {"psnr": [20.5, 21.5, 22.6, 23.4], "gmsd": [0.1, 0.12, 0.2, 0.21], "ssim": [0.4, 0.7, 0.6, 0.5]}
    rewards = {"generation": [0.5, 0.5, 0.6, 0.6], "format": [1.0, 0.0, 1.0, 1.0]}
    worse = {"generation": [0.4, 0.39, 0.5, 0.5], "format": [1.0, 1.0, 1.0, 1.0]}
    rows = {"now": grpo | worse, "start": cold | rewards, "bicubic": cold}
    return summarise_eval(PROMPTS, rows)


def rows_of(evaluation):
    (table,) = eval_tables(evaluation)
    return table.rows


def test_rewards_come_first_and_metrics_say_which_way_is_better(evaluation):
    rows = rows_of(evaluation)
    assert [row.metric for row in rows] == ["format", "generation", "psnr", "ssim", "gmsd"]
    by_name = {row.metric: row for row in rows}
    assert by_name["gmsd"].label == "GMSD ↓"
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
    rows = {"start": {"psnr": [20.0, None, 22.0]}, "now": {"psnr": [21.0, 22.0, 23.5]}}
    (row,) = rows_of(summarise_eval(["a", "b", "c"], rows))
    assert row.interval.endswith(" n=2")


def test_markdown(evaluation):
    lines = eval_markdown(evaluation).splitlines()
    assert lines[0] == "| metric | bicubic | start | now | now - start | 95 % interval |"
    assert lines[1] == "|---|---:|---:|---:|---:|---:|"
    assert lines[4].startswith("| PSNR ↑ | 21.50 | 21.50 | 22.00 | **+0.50** | [")
    assert "4 held-out prompts" in lines[-1]


def test_terminal(evaluation, capsys):
    Console(width=120).print(terminal_tables(evaluation))
    printed = capsys.readouterr().out
    for words in ("start", "now - start", "GMSD ↓", "+0.50", "paired by prompt"):
        assert words in printed


def test_a_partial_evaluation_is_shown_as_far_as_it_goes():
    only = summarise_eval(["a"], {"bicubic": {"psnr": [20.0]}})
    assert [(row.values, row.difference) for row in rows_of(only)] == [(("20.00",), "-")]
    (table,) = eval_tables(only)
    assert table.headings == ("metric", "bicubic")
    one = summarise_eval(["a"], {"start": {"psnr": [20.0]}, "now": {"psnr": [20.5]}})
    assert [(row.difference, row.interval, row.verdict) for row in rows_of(one)] == [("+0.50", "", "open")]
    assert eval_tables({}) == []
    assert eval_markdown({}) == ""


def test_a_run_of_text_has_no_columns_of_pictures():
    rows = {"start": {"exact": [0.0, 1.0, 0.0]}, "now": {"exact": [1.0, 1.0, 0.0]}}
    evaluation = summarise_eval(["a", "b", "c"], rows) | {"rewards": ["exact"]}
    (table,) = eval_tables(evaluation)
    assert table.headings == ("metric", "start", "now", "now - start", "95 % interval")
    assert [(row.label, row.values, row.is_reward) for row in table.rows] == [
        ("exact ↑", ("0.333", "0.667"), True)
    ]
    assert eval_markdown(evaluation).splitlines()[2].startswith("| exact ↑ | 0.333 | 0.667 | +0.333 | [")


def test_drawn_answers_have_a_table_of_their_own(capsys):
    greedy = {"start": {"exact": [0.0, 1.0]}, "now": {"exact": [1.0, 1.0]}}
    drawn = {"start": {"exact": [0.25, 0.5]}, "now": {"exact": [0.75, 0.75]}}
    evaluation = summarise_eval(["a", "b"], greedy) | {"rewards": ["exact"]}
    evaluation["drawn"] = summarise_eval(["a", "b"], drawn) | {"num_samples": 4}
    first, second = eval_tables(evaluation)
    assert first.caption == "Means over 2 held-out prompts"
    assert (
        second.caption == "Means over 2 held-out prompts, 4 answers each, drawn at the policies' temperature"
    )
    assert second.rows[0].values == ("0.375", "0.750")
    assert second.rows[0].difference == "+0.375"
    assert second.rows[0].is_reward
    Console(width=120).print(terminal_tables(evaluation))
    assert "4 answers each" in capsys.readouterr().out
    assert eval_markdown(evaluation).count("| metric |") == 2
