"""Chains on disk: whole, bounded, and named so that any group id is safe."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cluster.record.recorder import FORMAT, ChainRecorder, block_texts, file_name, read_record
from cluster.record.run_data import RecordedChain
from rl.errors import DamagedFileError
from rl.restoration.names import restoration_prompt
from rl.types import Chain, Finish, Prompt

TEXT = (
    "<degradation>light blur</degradation><rough_understand>a cup</rough_understand>"
    "<rough_image><|image|></rough_image><middle_understand>cut off"
)


def pixels(value, edge=4):
    return np.full((edge, edge, 3), value, np.uint8)


def make_chain(index=0, group_id="coffee/train/17#0"):
    return Chain(
        chain_id=f"{group_id}/{index}",
        group_id=group_id,
        index=index,
        finish=Finish.LENGTH,
        error="middle_understand ran out of tokens",
        text=TEXT,
        segments=(),
        pictures={"rough_image": object()},
        versions={"text": (3, 3)},
        block_text={"degradation": "light blur", "rough_understand": "a cup"},
    )


@pytest.fixture
def prompt():
    known = {"labels": ["light blur"], "tags": ["cup", "spoon"], "captions": ["a cup"]}
    return restoration_prompt("coffee/train/17", pixels(5), pixels(9, 16), **known)


def test_a_chain_is_written_with_pictures_and_scores(tmp_path, prompt):
    recorder = ChainRecorder(tmp_path, weights={"format": 1.0, "generation": 2.0})
    scores = {"format": 0.0, "generation": 0.25, "watched": None}
    folder = recorder.record(12, "train", "train", make_chain(), {"rough_image": pixels(7)}, prompt, scores)
    assert folder == tmp_path / "chains/step_000012/coffee+train+17%230__0"
    record = json.loads((folder / "chain.json").read_text())
    assert record["block_text"] == {"degradation": "light blur", "rough_understand": "a cup"}
    assert record["finish"] == "length"
    known = {"labels": ["light blur"], "tags": ["cup", "spoon"], "captions": ["a cup"]}
    assert record["prompt"]["reference"] == known
    assert record["prompt"]["pictures"] == {"degraded": "degraded.png", "truth": "truth.png"}
    assert record["prompt"]["shown"] == ["degraded"]
    assert record["format"] == FORMAT
    assert record["rewards"] == scores
    assert record["total"] == 0.5
    assert record["pictures"] == {"rough_image": "rough_image.png"}
    assert np.asarray(Image.open(folder / "rough_image.png"))[0, 0, 0] == 7
    assert sorted(path.name for path in folder.iterdir()) == [
        "chain.json",
        "degraded.png",
        "rough_image.png",
        "truth.png",
    ]


def test_records_of_before_are_read_and_those_of_later_refused(tmp_path):
    old = {
        "chain_id": "a#0/0",
        "group_id": "a#0",
        "prompt_id": "a",
        "text": "x",
        "labels": ["keep"],
        "tags": [],
        "index": 0,
        "step": 0,
        "kind": "train",
        "model": "train",
        "finish": "stop",
        "error": "",
        "rewards": {"format": 1.0},
        "total": None,
    }
    (tmp_path / "chain.json").write_text(json.dumps(old | {"pictures": ["degraded", "rough_image", "truth"]}))
    record = read_record(tmp_path)
    assert record["prompt"]["prompt_id"] == "a"
    assert record["prompt"]["reference"] == {"labels": ["keep"], "tags": []}
    assert record["prompt"]["pictures"] == {"degraded": "degraded.png", "truth": "truth.png"}
    assert record["pictures"] == {"rough_image": "rough_image.png"}
    (tmp_path / "chain.json").write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(DamagedFileError, match=r"chain\.json: is of format 3, this version reads 2"):
        read_record(tmp_path)


def test_a_prompt_without_pictures_is_recorded_and_names_need_not_be_file_names(tmp_path):
    question = Prompt(prompt_id="sum/1", reference={"ground_truth": "4"})
    folder = ChainRecorder(tmp_path).record(0, "train", "train", make_chain(), {}, question, {})
    assert [path.name for path in folder.iterdir()] == ["chain.json"]
    assert read_record(folder)["prompt"]["reference"] == {"ground_truth": "4"}
    odd = Prompt(prompt_id="odd", pictures={"images/0": pixels(3)}, shown=("images/0",))
    folder = ChainRecorder(tmp_path).record(1, "train", "train", make_chain(), {}, odd, {})
    assert RecordedChain(folder, read_record(folder)).open("images/0").getpixel((0, 0)) == (3, 3, 3)


def test_a_missing_score_that_counts_leaves_the_total_undefined(tmp_path, prompt):
    folder = ChainRecorder(tmp_path).record(0, "train", "train", make_chain(), {}, prompt, {"format": None})
    assert json.loads((folder / "chain.json").read_text())["total"] is None


def test_no_more_than_a_steps_share(tmp_path, prompt):
    recorder = ChainRecorder(tmp_path, max_chains_per_step=2, max_eval_chains=1)
    kept = [recorder.record(0, "train", "train", make_chain(i), {}, prompt, {}) for i in range(4)]
    assert [folder is not None for folder in kept] == [True, True, False, False]
    assert recorder.record(1, "train", "train", make_chain(), {}, prompt, {}) is not None
    before = recorder.record(1, "eval", "coldstart", make_chain(), {}, prompt, {})
    after = recorder.record(1, "eval", "now", make_chain(), {}, prompt, {})
    assert before is not None
    assert after not in (None, before)


def test_a_resumed_run_replaces_and_sweeps_what_a_killed_one_left(tmp_path, prompt):
    old = ChainRecorder(tmp_path).record(
        3, "train", "train", make_chain(), {"rough_image": pixels(1)}, prompt, {}
    )
    leftover = tmp_path / "chains/.new-1-x"
    leftover.mkdir()
    (leftover / "half.png").write_bytes(b"x")
    new = ChainRecorder(tmp_path).record(3, "train", "train", make_chain(), {}, prompt, {"format": 1.0})
    assert new == old
    assert not (new / "rough_image.png").exists()
    assert [path.name for path in (tmp_path / "chains").iterdir()] == ["step_000003"]


@given(st.text(max_size=400), st.text(max_size=400))
def test_file_names_are_safe_and_distinct(left, right):
    safe = file_name(left)
    assert "/" not in safe
    assert "\0" not in safe
    assert len(safe.encode()) <= 120
    assert (safe == file_name(right)) == (left == right)


def test_only_closed_text_blocks_have_a_body():
    assert block_texts("<a>x<b>y</b>") == {"b": "y"}
    assert block_texts("") == {}
