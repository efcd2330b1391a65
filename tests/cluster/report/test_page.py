"""The report of whole, killed and empty runs: self-contained, escaped, and true to what was recorded."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cluster.record.recorder import ChainRecorder
from cluster.record.run_data import data_uri, load_run
from cluster.report.chains import chain_cards, group_strip, held_out_strips, split_blocks, take_turns
from cluster.report.page import write_report
from cluster.report.restoration import pair_slots
from cluster.report.spans import mark_words
from rl.measure.statistics import summarise_eval
from rl.types import Chain, Finish, Message, Prompt, TextPart
from tests.reference.fake_run import make_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def html(run_dir):
    return write_report(run_dir).read_text(encoding="utf-8")


def test_one_file_without_any_outside_address(run_dir, html):
    addresses = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\'\s>)]+)', html)
    assert addresses
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    assert "default-src 'none'" in html
    assert len(html) < 10_000_000
    assert not list(run_dir.glob("*.partial"))


def test_every_section_of_a_whole_run_is_there(html):
    for part in ("photos", "rewards", "chains", "health", "time", "config", "headline"):
        assert f'id="{part}"' in html
    for words in (
        "finished, 30 steps",
        "now - start",
        "Held-out PSNR",
        "One group, best first",
        "measured only",
    ):
        assert words in html
    assert html.count('class="panel card"') in {4, 5, 6}


def test_text_of_a_policy_is_escaped(html):
    assert "fine edges and &lt;b&gt; &amp; texture" in html
    assert "and <b> &" not in html


@pytest.mark.parametrize(
    ("done", "status"),
    [(0, "no step finished yet"), (1, "1 of 30 steps so far"), (3, "3 of 30 steps so far")],
)
def test_a_partial_run_is_reported_as_far_as_it_got(tmp_path, done, status):
    html = write_report(make_run(tmp_path / "killed", done=done, evaluated=False)).read_text()
    assert status in html
    assert "Not evaluated yet" in html
    assert ('id="time"' in html) == (done > 0)


def test_an_empty_directory_has_a_report_and_an_absent_one_has_not(tmp_path):
    assert "no step finished yet" in write_report(tmp_path).read_text()
    with pytest.raises(FileNotFoundError, match="no run directory"):
        write_report(tmp_path / "absent")


def test_cards_are_the_best_and_the_worst(run_dir, html):
    run = load_run(run_dir)
    cards = {card.heading: card for card in chain_cards(run)}
    newest = [chain.total for chain in run.training if chain.step == 29]
    assert cards["Best of the newest step (29)"].chain.total == max(newest)
    assert cards["Worst of the newest step (29)"].chain.total == min(newest)
    assert all(f"total {total:.3f}</span>" in html for total in (max(newest), min(newest)))
    assert [column.title for column in cards["Best of the newest step (29)"].columns] == [
        "degraded",
        "rough image",
        "middle image",
        "final image",
        "truth",
    ]
    totals = [float(column.title) for column in group_strip(run).columns]
    assert len(totals) == 8
    assert totals == sorted(totals, reverse=True)


def test_marks_agree_with_the_recorded_scores(run_dir):
    run = load_run(run_dir)
    for chain in run.training:
        blocks = dict(split_blocks(chain.record["text"]))
        slots = pair_slots(blocks["degradation"], chain.words("labels"))
        assert sum(slot.is_right for slot in slots) / 5 == chain.record["rewards"]["degradation"]
        named = {s.text for s in mark_words(blocks["rough_understand"], chain.words("tags")) if s.mark}
        assert len(named) / 4 == chain.record["rewards"]["understanding"]


def test_the_same_photo_is_shown_for_every_model(run_dir):
    strips = held_out_strips(load_run(run_dir))
    assert len(strips) == 8
    for strip in strips:
        assert [column.title for column in strip.columns] == [
            "degraded",
            "bicubic",
            "start",
            "now",
            "truth",
        ]
        assert strip.columns[1].picture.width == strip.columns[4].picture.width == 64


def test_photographs_take_turns():
    assert take_turns(["a/0", "a/1", "a/2", "b/0", "c"]) == ["a/0", "b/0", "c", "a/1", "a/2"]


def test_a_chain_that_ended_early_keeps_its_text(tmp_path, run_dir):
    run = load_run(Path(shutil.copytree(run_dir, tmp_path / "copy")))
    record = run.training[0].record | {"text": "<degradation>light", "finish": "length", "total": -1.0}
    (run.training[0].folder / "chain.json").write_text(json.dumps(record))
    card = next(
        card
        for card in chain_cards(load_run(run.path))
        if card.chain.record["finish"] == "length" and card.chain.total == -1.0
    )
    assert [slot.written for slot in card.columns[0].notes[0].slots][:2] == ["light", ""]


@given(st.text(alphabet="<>/ab| ", max_size=60))
def test_any_text_can_be_cut_into_blocks(text):
    written = "".join(body or "" for _, body in split_blocks(text))
    assert len(written) <= len(text)


@given(st.text(max_size=40), st.lists(st.text(max_size=5), max_size=4))
def test_marking_keeps_the_text(text, tags):
    assert "".join(span.text for span in mark_words(text, tags)) == text


def test_whole_words_only():
    assert [s.text for s in mark_words("a rocket, Rock and rock", ["rock"]) if s.mark] == ["Rock", "rock"]


def test_large_pictures_are_made_smaller():
    noise = np.random.default_rng(0).integers(0, 256, (1000, 600, 3)).astype(np.uint8)
    assert data_uri(Image.fromarray(noise)).startswith("data:image/jpeg")
    assert len(data_uri(Image.fromarray(noise))) < 200_000
    assert data_uri(Image.fromarray(noise[:64, :64])).startswith("data:image/png")


# --------------------------------------------------------------------------------- other than photographs


@pytest.fixture
def text_run(tmp_path):
    """A run of sums: one text block, no picture, no truth but a number."""
    recorder = ChainRecorder(tmp_path)
    sums = [
        Prompt(
            prompt_id=f"sum/{n}",
            messages=(Message(role="user", parts=(TextPart(f"what is {n} + {n}?"),)),),
            reference={"answer": 2 * n, "steps": ["add"]},
        )
        for n in (3, 4)
    ]
    values = {row: {"exact": [float(row == "now"), 1.0]} for row in ("start", "now")}
    for prompt in sums:
        for kind, model in (("eval", "start"), ("eval", "now"), ("train", "train")):
            for index in range(2 if kind == "train" else 1):
                group = f"{prompt.prompt_id}#0"
                chain = Chain(
                    chain_id=f"{group}/{index}", group_id=group, index=index, text=f"It is <b>{index}</b> & so on",
                    segments=(), pictures={}, finish=Finish.STOP, error="", versions={},
                )  # fmt: skip
                recorder.record(0, kind, model, chain, {}, prompt, {"exact": float(index)})
    summary = summarise_eval([prompt.prompt_id for prompt in sums], values) | {"rewards": ["exact"]}
    (tmp_path / "eval.json").write_text(json.dumps(summary))
    return tmp_path


def test_a_run_of_text_shows_question_answer_and_what_is_known(text_run):
    html = write_report(text_run).read_text()
    assert "no picture" not in html
    assert "bicubic" not in html
    assert "PSNR" not in html
    assert "<img" not in html
    for words in ("what is 3 + 3?", "It is <mark", "&amp; so on", "<h5>answer</h5>", "<h5>steps</h5>"):
        assert words in html
    run = load_run(text_run)
    assert run.damaged == []
    first, second = held_out_strips(run)
    assert [column.title for column in first.columns] == ["prompt", "start", "now", "known"]
    assert [column.title for column in chain_cards(run)[0].columns] == ["prompt", "answer", "known"]
    assert [column.title for column in group_strip(run).columns] == ["1.000", "0.000"]
    assert not any(column.has_frame for strip in (first, second) for column in strip.columns)


def test_photographs_without_a_truth_have_no_columns_of_it(tmp_path, run_dir):
    run = load_run(Path(shutil.copytree(run_dir, tmp_path / "copy")))
    for chain in run.chains:
        del chain.record["prompt"]["pictures"]["truth"]
        (chain.folder / "chain.json").write_text(json.dumps(chain.record))
        (chain.folder / "truth.png").unlink()
    strips = held_out_strips(load_run(run.path))
    assert {tuple(column.title for column in strip.columns) for strip in strips} == {
        ("degraded", "start", "now")
    }
