"""Format, degradation and understanding on real small chains, and what ``evaluate`` makes of any answer."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import Photographs
from rewards.base import Failure, Missing, Need, Reward, evaluate
from rewards.degradation import DegradationReward
from rewards.examples import example_blocks
from rewards.format import REALSR_R1_BLOCKS, FormatReward
from rewards.understanding import UnderstandingReward
from rl.errors import ConfigError
from rl.restoration.labels import degradation_text
from rl.restoration.prompts import PhotographSource
from rl.types import Finish, Scores
from tests.reference.rewards import (
    BLOCKS,
    LABELS,
    WHOLE,
    AnswerReward,
    FailureReward,
    LengthReward,
    LossReward,
    make_view,
    matches_grammar,
    picture,
    slot_share,
    tag_share,
)

FAST = settings(deadline=None, max_examples=60)


def score_one(reward: Reward, view) -> float:
    scores = evaluate(reward, "r", [view])
    assert scores.valid.all(), scores.reasons
    return float(scores.values[0])


# --------------------------------------------------------------------------------- format


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (WHOLE, 1.0),
        (WHOLE.replace("><", ">\n \t<"), 1.0),  # whitespace between blocks
        (WHOLE.replace("fur", ""), 1.0),  # an empty body is a body
        (WHOLE + "\n", 0.0),  # fullmatch: nothing behind the last tag
        (" " + WHOLE, 0.0),
        (WHOLE.replace("</final_image>", ""), 0.0),
        (WHOLE.replace("rough_understand", "coarse_understand"), 0.0),
        (WHOLE.replace("</rough_image><", "</rough_image>then<"), 0.0),
        (WHOLE.replace("middle_", "M_").replace("rough_", "middle_").replace("M_", "rough_"), 0.0),
        (WHOLE + WHOLE, 1.0),  # the paper's expression is lax; such a chain does not end in STOP here
        ("", 0.0),
    ],
)
def test_format_is_the_whole_grammar_or_nothing(text, expected):
    assert score_one(FormatReward(), make_view(text)) == expected


@pytest.mark.parametrize("finish", [Finish.LENGTH, Finish.MALFORMED])
def test_format_wants_a_chain_that_stopped_by_itself(finish):
    assert score_one(FormatReward(), make_view(finish=finish)) == 0.0


PIECES = st.sampled_from([f"<{n}>" for n in "ab"] + [f"</{n}>" for n in "ab"] + [" ", "\n", "x", ","])


@FAST
@given(st.lists(PIECES, max_size=9))
def test_format_agrees_with_trying_every_split(pieces):
    loose = "".join(pieces)
    for text in (loose, f"<a>{loose}</b>", f"<a>{loose}</a> <b>{loose}</b>"):
        expected = float(matches_grammar(text, ("a", "b")))
        assert score_one(FormatReward(["a", "b"]), make_view(text)) == expected


def test_format_judges_all_text_and_wants_the_chains_own_blocks():
    blocks = example_blocks()
    assert REALSR_R1_BLOCKS == BLOCKS
    assert FormatReward().judged_blocks(blocks) == tuple(n for n in BLOCKS if not n.endswith("image"))
    del blocks["middle_image"]
    with pytest.raises(ConfigError, match=r"blocks: want the chain's own, \[degradation, rough_und"):
        FormatReward().judged_blocks(blocks)


# --------------------------------------------------------------------------------- degradation


def in_block(body: str) -> str:
    return f"<degradation>{body}</degradation>"


def test_degradation_gives_the_papers_example():
    assert score_one(DegradationReward(), make_view()) == pytest.approx(0.6)  # figure 2: 3 of 5


@pytest.mark.parametrize(
    ("body", "right"),
    [
        (", ".join(LABELS), 5),
        ("  LIGHT   blur ,Downsample,medium\nnoise", 3),
        (", ".join(reversed(LABELS)), 1),  # compared at their places: only the middle one is right
        (", ".join([*LABELS, "heavy rain"]), 5),
        ("downsample", 0),
        ("light blur; downsample", 0),
        ("", 0),
    ],
)
def test_degradation_compares_slot_by_slot(body, right):
    assert score_one(DegradationReward(), make_view(in_block(body))) == pytest.approx(right / 5)


SLOT = st.sampled_from([*LABELS, "heavy blur", " Light  blur", "", "downsample x"])


@FAST
@given(st.lists(SLOT, max_size=7), st.lists(st.sampled_from(LABELS), min_size=1, max_size=5))
def test_degradation_agrees_with_counting(given_slots, labels):
    body = ",".join(given_slots)
    view = make_view(in_block(body), labels=tuple(labels))
    expected = slot_share(body, tuple(labels))
    assert score_one(DegradationReward(), view) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("view", [make_view("<degradation>light blur"), make_view(labels=())])
@pytest.mark.parametrize("reward", [DegradationReward(), UnderstandingReward()])
def test_a_chain_without_the_block_or_a_prompt_without_truth_counts_as_missing(reward, view):
    scores = evaluate(
        reward, "r", [view if view.prompt.reference["labels"] else make_view(labels=(), tags=())]
    )
    assert scores.missing.all()
    assert scores.valid.all()
    assert scores.values[0] == 0.0
    assert scores.reasons[0].startswith("no ")


# --------------------------------------------------------------------------------- understanding


def understanding_text(body: str) -> str:
    return f"<rough_understand>{body}</rough_understand>"


def test_understanding_gives_the_papers_example():
    assert score_one(UnderstandingReward(), make_view()) == pytest.approx(0.75)  # figure 2: 3 of 4 tags


@pytest.mark.parametrize(
    ("body", "tags", "words", "substrings"),
    [
        ("a rocket", ("rock",), 0, 1),
        ("Rock, rock and ROCK", ("rock",), 1, 1),
        ("the polar\n  bear", ("polar bear",), 1, 1),
        ("polar, bear", ("polar bear",), 0, 0),
        ("a lion", ("lions", "lion"), 0.5, 0.5),
        ("sky", ("sky", "Sky ", "SKY"), 1, 1),  # one tag, however often it is listed
        ("rock-solid", ("rock",), 1, 1),
        ("c++ (code)", ("c++", "(code)"), 1, 1),
        ("", ("rock",), 0, 0),
        ("一只狮子在岩石上", ("狮子", "岩石", "天空", "云"), 0.5, 0.5),
        ("ライオンが岩の上にいる", ("ライオン", "岩"), 1, 1),
        ("สิงโตบนหิน", ("สิงโต", "หิน"), 1, 1),
        ("一只lion在rocket上", ("lion", "rock"), 0.5, 1),  # words of a spaced script are whole words here too
    ],
)
def test_understanding_counts_tags_as_words_or_as_substrings(body, tags, words, substrings):
    view = make_view(understanding_text(body), tags=tags)
    assert score_one(UnderstandingReward(), view) == words
    assert score_one(UnderstandingReward(substring=True), view) == substrings


WORDS = st.lists(
    st.sampled_from(["sky", "skyline", "polar bear", "bear", "a", "é", "_", "x1", "-", ",", " "])
)


@FAST
@given(WORDS, st.sets(st.sampled_from(["sky", "polar bear", "bear", "a", "x1", "line"]), min_size=1))
def test_understanding_agrees_with_looking_everywhere(words, tags):
    for body in ("".join(words), " ".join(words)):
        view = make_view(understanding_text(body), tags=tuple(tags))
        assert score_one(UnderstandingReward(), view) == pytest.approx(tag_share(body, tags), abs=1e-7)


HAN = st.text(st.sampled_from("一只狮子在岩石上天空云海"), max_size=8)


@FAST
@given(
    HAN,
    st.text(st.sampled_from("狮子岩石云海"), min_size=1, max_size=3),
    HAN,
    st.sampled_from(["", "x", " ", "。"]),
)
def test_understanding_finds_a_tag_anywhere_in_a_script_without_spaces(before, tag, after, between):
    view = make_view(understanding_text(f"{before}{between}{tag}{between}{after}"), tags=(tag,))
    assert score_one(UnderstandingReward(), view) == 1
    absent = make_view(understanding_text(f"{before}{between}{after}".replace(tag[0], "")), tags=(tag,))
    assert score_one(UnderstandingReward(), absent) == 0


def test_tags_that_are_all_blank_count_as_missing():
    scores = evaluate(UnderstandingReward(), "r", [make_view(tags=(" ", ""))])
    assert scores.missing.all()


def test_each_text_reward_judges_its_own_block():
    blocks = example_blocks()
    assert DegradationReward().judged_blocks(blocks) == ("degradation",)
    assert UnderstandingReward("final_understand").judged_blocks(blocks) == ("final_understand",)
    body = make_view("<final_understand>sky and rock</final_understand>")
    assert score_one(UnderstandingReward("final_understand"), body) == 0.5


# --------------------------------------------------------------------------------- any reward


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda _: 1 / 0, "ZeroDivisionError: division by zero .*test_rewards.py:"),
        (lambda cs: [math.nan for _ in cs], "score is nan"),
        (lambda cs: [-math.inf for _ in cs], "score is -inf"),
        (lambda cs: [np.float64(1e300) for _ in cs], "score is 1e\\+300"),
        (lambda cs: [1.5 for _ in cs], "score 1.5 is outside the declared range 0 to 1"),
        (lambda cs: [-0.01 for _ in cs], "outside the declared range"),
        (lambda cs: ["1" for _ in cs], "score is a str, not a number"),
        (lambda cs: [None for _ in cs], "score is a NoneType, not a number"),
        (lambda cs: [np.ones(2) for _ in cs], "score is a ndarray of more or less than one element"),
        (lambda cs: [1j for _ in cs], "score is a complex, not a number"),
        (lambda cs: [0.5] * (len(cs) + 1), "3 scores for 2 chains"),
        (lambda cs: [], "0 scores for 2 chains"),
        (lambda cs: None, "TypeError: .*NoneType"),
        (lambda cs: [Failure("no idea") for _ in cs], "no idea"),
    ],
)
def test_a_broken_answer_is_invalid_with_a_reason_and_never_a_score(answer, reason):
    scores = evaluate(AnswerReward(answer), "mine", [make_view(), make_view()])
    assert not scores.valid.any()
    assert not scores.missing.any()
    for said in scores.reasons:
        assert "\n" not in said
        assert re.search(reason, said), said


@pytest.mark.parametrize(
    "answer", [1, 1.0, True, np.float32(1), np.int64(1), np.bool_(True), 1 + 1e-9], ids=repr
)
def test_any_real_number_in_range_is_a_score(answer):
    scores = evaluate(AnswerReward(lambda cs: [answer for _ in cs]), "mine", [make_view()])
    assert scores.valid.all()
    assert scores.values.tolist() == [1.0]
    assert scores.values.dtype == np.float32


def test_a_single_bad_score_costs_one_chain():
    answers = [0.2, math.nan, Missing("none"), Failure("no idea")]
    scores = evaluate(AnswerReward(lambda _: answers), "mine", [make_view()] * 4)
    assert scores.valid.tolist() == [True, False, True, False]
    assert scores.missing.tolist() == [False, False, True, False]
    assert scores.reasons == ("", "score is nan, not a finite number", "none", "no idea")
    assert scores.values[[0, 2]] == pytest.approx([0.2, 0.0])


def test_chains_without_a_needed_input_are_not_asked_about_and_get_the_worst_end():
    chains = [make_view(final=picture()), make_view(), make_view("two words", final=picture())]
    scores = evaluate(LossReward(), "loss", chains)  # smaller is better: it leaves evaluate negated
    assert scores.values.tolist() == [-float(len(WHOLE.split())), -100.0, -2.0]
    assert scores.missing.tolist() == [False, True, False]
    assert scores.valid.all()
    assert scores.reasons == ("", "no final_picture", "")


def test_every_absent_input_is_named():
    class Greedy(LengthReward):
        needs = frozenset({*Need, "degraded", "truth", "labels", "tags"})

    scores = evaluate(Greedy(), "greedy", [make_view(labels=(), tags=())])
    assert scores.reasons == ("no final_picture, labels, tags, truth",)


def test_an_infinite_missing_value_is_an_error_of_the_reward():
    class Unbounded(LossReward):
        high = math.inf

    scores = evaluate(Unbounded(), "loss", [make_view()])
    assert not scores.valid.any()
    assert scores.reasons == ("no final_picture, and the reward's missing value is inf",)


@FAST
@given(st.lists(st.sampled_from(["score", "missing", "failure", "absent"]), max_size=6))
def test_scores_come_in_the_order_of_the_chains(kinds):
    class Mixed(LengthReward):
        needs = frozenset({"tags"})

        def score(self, chains):
            known = {"score": 1.0, "missing": Missing("m"), "failure": Failure("f")}
            return [known.get(c.text, Failure("was asked")) for c in chains]

    scores = evaluate(Mixed(), "mixed", [make_view(k, tags=() if k == "absent" else ("a",)) for k in kinds])
    said = {"score": "", "missing": "m", "failure": "f", "absent": "no tags"}
    assert isinstance(scores, Scores)
    assert scores.reasons == tuple(said[k] for k in kinds)
    assert scores.valid.tolist() == [k != "failure" for k in kinds]
    assert scores.missing.tolist() == [k in ("missing", "absent") for k in kinds]


def test_a_reward_may_say_missing_or_failure_itself():
    scores = evaluate(FailureReward(), "f", [make_view()] * 2)
    assert scores.valid.tolist() == [True, False]
    assert scores.reasons == ("nothing there", "no idea")


def test_the_truth_of_every_prompt_earns_everything():
    """Labels, captions and tags as our own photographs have them, not as a test would write them."""
    source = PhotographSource(Photographs(degradation="mild"), output_px=64, scale=4, seed=0)
    prompts = [*source.held_out(20), *(source.train(i) for i in range(20))]
    for prompt in prompts:
        reference = prompt.reference
        text = f"<degradation>{degradation_text(reference['labels'])}</degradation>"
        text += f"<rough_understand>{reference['captions'][0]}</rough_understand>"
        view = make_view(text, labels=reference["labels"], tags=reference["tags"])
        assert score_one(DegradationReward(), view) == 1.0
        assert score_one(UnderstandingReward(), view) == 1.0
        wrong = make_view(
            text.replace(degradation_text(reference["labels"]), "blur"), labels=reference["labels"]
        )
        assert score_one(DegradationReward(), wrong) == 0.0
