"""What a judge model is asked and how its answer counts, without a model."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import BlockConfig
from rewards.base import Failure, Missing, Need
from rewards.examples import example_chains
from rewards.rubric import Rubric, Scale, without
from rewards.vlm_judge import VlmJudgeReward
from rl.errors import ConfigError
from tests.reference.command import ROOT

BOTH = ("degraded", "final")
CHAIN = {
    "degradation": BlockConfig(kind="text", policy="text", max_tokens=8),
    "say": BlockConfig(kind="text", policy="text", max_tokens=8),
    "final_image": BlockConfig(kind="image", policy="image", size_px=32, num_steps=2),
}
TEXTS = ["degradation", "say"]
nats = st.floats(-80.0, 0.0)


@given(st.lists(st.tuples(nats, st.floats(0.0, 1.0)), min_size=2, max_size=12))
def test_the_score_is_the_mean_over_the_answers_probabilities(rows: list[tuple[float, float]]) -> None:
    scale = Scale({f"answer {i}": value for i, (_, value) in enumerate(rows)})
    score, mass = scale.expectation([logprob for logprob, _ in rows])
    odds = [math.exp(logprob) for logprob, _ in rows]
    expected = math.fsum(p * value for p, (_, value) in zip(odds, rows, strict=True)) / math.fsum(odds)
    assert score == pytest.approx(expected, abs=1e-9)
    assert mass == pytest.approx(math.fsum(odds), rel=1e-9)


@given(st.floats(-1e4, 0.0), st.integers(0, 9))
def test_a_certain_answer_has_its_own_value_however_unlikely_all_are(highest: float, which: int) -> None:
    logprobs = [highest if i == which else highest - 1e3 for i in range(10)]
    assert Scale(range(10)).expectation(logprobs)[0] == pytest.approx(which / 9, abs=1e-12)


def test_an_answer_without_a_number_gives_none() -> None:
    assert math.isnan(Scale(["a", "b"]).expectation([math.nan, 0.0])[0])


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        ("0123", "want a list"),
        ([1], "want 2 to 128 answers, got 1"),
        (range(129), "want 2 to 128 answers, got 129"),
        ([False, True], "put yes and no in quotes"),
        ([0.5, 1.0], "want words or whole numbers"),
        (["", "a"], "want words"),
        ([1, "1"], "two answers are alike"),
        ({"bad": 0, "good": 5}, "from 0 to 1"),
        ({"bad": 0, "good": None}, "from 0 to 1"),
    ],
)
def test_a_wrong_scale_costs_one_line(scale: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^scale: .*{said}[^\n]*$"):
        Scale(scale)


class Letters:
    """A tokenizer of single letters that merges some pairs."""

    def __init__(self, *merged: str) -> None:
        self.merged = merged

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        for place, pair in enumerate(self.merged):
            text = text.replace(pair, chr(0x1000 + place))
        return [ord(letter) for letter in text]


def test_answers_are_looked_up_where_they_will_stand() -> None:
    assert Scale(["a", "b"]).ids(Letters(), ":") == (ord("a"), ord("b"))
    assert Scale(["ab", "cd"]).ids(Letters("ab", "cd"), ":") == (0x1000, 0x1001)
    with pytest.raises(ConfigError, match="'ab' is not one token"):
        Scale(["a", "ab"]).ids(Letters(), ":")
    with pytest.raises(ConfigError, match="'a' is not one token"):  # it would melt into the prompt
        Scale(["a", "b"]).ids(Letters(":a"), ":")


@pytest.mark.parametrize(
    ("question", "pictures", "said"),
    [
        ("", BOTH, "rubric: want the question"),
        (3, BOTH, "rubric: want the question"),
        ("{", BOTH, "rubric: .*braces"),
        ("{text.real}", BOTH, "rubric: want plain names"),
        ("{text!r}", BOTH, "rubric: want plain names"),
        ("{}", BOTH, "rubric: want plain names"),
        ("Good?", ["degraded"], "pictures: the judge would see nothing"),
        ("Good?", "final", "pictures: want a list"),
        ("Good?", ["final", "final"], "pictures: want a list"),
    ],
)
def test_a_wrong_question_costs_one_line(question: Any, pictures: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{said}[^\n]*$"):
        Rubric(question, pictures)


def test_a_picture_that_prompts_do_not_have_costs_one_line() -> None:
    known = ("degraded", "truth", "labels", "tags")
    Rubric("Good?", ["final", "truth"]).check_prompt(known)
    with pytest.raises(ConfigError, match=r"^pictures: no picture 'finale'; did you mean final\?$"):
        Rubric("Good?", ["finale", "final"]).check_prompt(known)


def test_needs_and_judged_blocks_follow_from_what_is_shown() -> None:
    seen = Rubric("Good? {tags}", BOTH)
    assert seen.needs == {"degraded", Need.FINAL_PICTURE, "tags"}
    assert seen.judged_blocks(tuple(CHAIN), TEXTS) == tuple(CHAIN)
    assert Rubric("True? {text}", ["truth"]).needs == {"truth", Need.TEXT}
    assert Rubric("True? {text}", ["truth"]).judged_blocks(tuple(CHAIN), TEXTS) == ("degradation", "say")
    assert Rubric("True? {say}", ["degraded"]).judged_blocks(tuple(CHAIN), TEXTS) == ("say",)
    with pytest.raises(ConfigError, match=r"^rubric: {sya} is not a text block of the chain.*say"):
        Rubric("True? {sya}", ["degraded"]).judged_blocks(tuple(CHAIN), TEXTS)
    with pytest.raises(ConfigError, match=r"{final_image} is not a text block"):
        Rubric("True? {final_image}", ["degraded"]).judged_blocks(tuple(CHAIN), TEXTS)


def test_the_message_has_pictures_in_order_then_question_and_answers() -> None:
    chain = example_chains()[0]
    rubric = Rubric("{{1}} {tags}; {labels}; {degradation}", ["final", "degraded", "truth"])
    *shown, ask = rubric.message(chain, ["0", "1"], [])
    assert [part["text"] for part in shown[::2]] == ["Restored photo:", "Degraded photo:", "True photo:"]
    pictures = [chain.final_picture, chain.prompt.pictures["degraded"], chain.prompt.pictures["truth"]]
    for part, picture in zip(shown[1::2], pictures, strict=True):
        np.testing.assert_array_equal(np.asarray(part["image_pil"]), picture)
    labels = ", ".join(chain.prompt.reference["labels"])
    said = chain.block_text["degradation"]
    assert ask["text"] == f"{{1}} rock, sky, polar bear; {labels}; {said}\nAnswer with one of: 0, 1."


def test_a_block_that_was_not_written_is_missing() -> None:
    chain, rubric = example_chains()[0], Rubric("{degradation} {text}", BOTH)
    assert rubric.lacks(chain) is None
    assert rubric.lacks(replace(chain, block_text={})) == Missing("no degradation")


@given(st.lists(st.sampled_from(["<|a|>", "<|", "|>", "a", "<s>", "s", "<", ">"]), max_size=12))
def test_no_reserved_token_is_left_in_what_a_policy_wrote(pieces: list[str]) -> None:
    reserved = ["<|a|>", "<s>", " "]
    cleaned = without("".join(pieces), reserved)
    assert "<|a|>" not in cleaned
    assert "<s>" not in cleaned
    assert set(cleaned) - {" "} <= set("".join(pieces))


def test_a_clean_text_is_left_alone() -> None:
    assert without("light blur < 3 > 2", ["<|a|>", "<s>"]) == "light blur < 3 > 2"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_model_len": 1}, "max_model_len"),
        ({"dtype": "int8"}, "dtype: want one of"),
        ({"gpu_memory_frac": 0}, "gpu_memory_frac"),
        ({"gpu_memory_frac": 1.5}, "gpu_memory_frac"),
        ({"pictures": ["degraded"]}, "pictures"),
    ],
)
def test_wrong_options_cost_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{said}[^\n]*$"):
        VlmJudgeReward("owner/model", "Good?", **options)


def test_a_model_that_cannot_be_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    VlmJudgeReward("owner/model", "Good?").check()
    with pytest.raises(ConfigError, match=r"^model: .* has no config.json; want a Hugging Face checkpoint$"):
        VlmJudgeReward(str(tmp_path), "Good?").check()
    with pytest.raises(ConfigError, match=r"^model: no directory .*/absent, and not a name on the hub"):
        VlmJudgeReward(str(tmp_path / "absent"), "Good?").setup()


def test_declarations_follow_from_the_options() -> None:
    judge = VlmJudgeReward("owner/model", "Good?", dtype="float32")
    assert pickle.loads(pickle.dumps(judge)).needs == {"degraded", Need.FINAL_PICTURE}
    assert judge.judged_blocks(CHAIN) == tuple(CHAIN)
    assert judge.deterministic
    assert not VlmJudgeReward("owner/model", "Good?").deterministic


def test_a_judge_is_declared_without_any_framework() -> None:
    heavy = {"torch", "vllm", "transformers", "torchvision", "PIL"}
    code = f"import sys, rewards.vlm_judge; print(*sorted({heavy!r} & set(sys.modules)))"
    root = ROOT
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def answered(token: int, logprobs: dict[int, float]) -> Any:
    """An output as vLLM makes it."""
    row = {i: SimpleNamespace(logprob=value) for i, value in logprobs.items()}
    return SimpleNamespace(outputs=[SimpleNamespace(token_ids=[token], logprobs=[row])])


def test_an_answer_without_a_number_or_outside_the_scale_is_a_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    judge = VlmJudgeReward("owner/model", "Good?", scale=["bad", "good"])
    judge._ids = (7, 8)
    assert judge._read(answered(8, {7: math.log(0.2), 8: math.log(0.6)})) == pytest.approx(0.75)
    assert isinstance(judge._read(answered(9, {9: -1.0, 7: -1.0, 8: -1.0})), Failure)
    assert isinstance(judge._read(answered(7, {7: -1.0})), Failure)
    assert isinstance(judge._read(answered(7, {7: math.nan, 8: -1.0})), Failure)
    assert isinstance(judge._read(answered(7, {7: -math.inf, 8: -math.inf})), Failure)
    assert not caplog.messages
    for _ in range(2):  # it says so once
        assert judge._read(answered(7, {7: -20.0, 8: -20.0})) == pytest.approx(0.5)
    assert [message.split(":")[0] for message in caplog.messages] == [
        "judge owner/model gives its answers 4.1e-09 of its probability"
    ]
