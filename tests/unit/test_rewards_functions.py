"""Plain functions with TRL's signature plug in unchanged."""

import math

import pytest

from configs.schema import RewardConfig
from rewards.base import Need, evaluate
from rewards.contract import check_reward
from rewards.functions import COLUMNS, FunctionReward
from rewards.load import load_reward
from rl.errors import ConfigError
from tests.reference.rewards import WHOLE, make_view, narrow, picture, trl_length, trl_tags

HERE = "tests.reference.rewards"


def test_a_function_is_loaded_by_name_and_scores_what_was_written():
    reward = load_reward("length", RewardConfig(target=f"{HERE}:trl_length"))
    scores = evaluate(reward, "length", [make_view("ab"), make_view(WHOLE)])
    assert scores.values.tolist() == [2.0, float(len(WHOLE))]
    assert scores.valid.all()


def test_columns_constants_range_and_none():
    config = RewardConfig(target=f"{HERE}:trl_tags", options={"factor": 2, "low": 0, "high": 4, "missing": 1})
    reward = load_reward("tags", config)
    views = [make_view("sky rock", tags=("sky", "rock")), make_view(tags=()), make_view("a", tags=("a",) * 9)]
    scores = evaluate(reward, "tags", views)
    assert scores.values[:2].tolist() == [4.0, 1.0]
    assert scores.missing.tolist() == [False, True, False]
    assert scores.reasons[1:] == (
        "the function returned None",
        "score 18 is outside the declared range 0 to 4",
    )


def test_every_column_has_one_entry_a_chain():
    seen = {}

    def spy(**columns):
        seen.update(columns)
        return [0.0] * len(columns["completions"])

    final = picture()
    evaluate(FunctionReward(spy), "spy", [make_view(chain_id="p#3/1"), make_view(final=final)])
    assert seen.keys() == COLUMNS.keys()
    assert {len(column) for column in seen.values()} == {2}
    assert seen["prompts"] == ["p#3", "p#0"]
    assert seen["finish"] == ["stop", "stop"]
    assert seen["final_picture"][0] is None
    assert seen["final_picture"][1] is final
    assert seen["block_text"][0]["final_understand"] == "fur"


def test_it_is_not_asked_about_chains_that_lack_what_it_needs():
    reward = FunctionReward(trl_length, needs=["final_picture"], missing=-1.0)
    assert reward.needs == {Need.FINAL_PICTURE}
    scores = evaluate(reward, "length", [make_view("a"), make_view("a", final=picture())])
    assert scores.values.tolist() == [-1.0, 1.0]
    assert scores.missing.tolist() == [True, False]


def test_it_keeps_the_contract():
    check_reward(FunctionReward(trl_length))
    check_reward(FunctionReward(trl_tags, low=0.0, high=3.0))
    assert FunctionReward(trl_length).low == -math.inf


@pytest.mark.parametrize(
    ("thing", "options", "message"),
    [
        (narrow, {}, r"narrow\(\) cannot be called with prompts, .*'prompts'; add \*\*kwargs"),
        (trl_tags, {"lwo": 1}, r"'lwo' is no parameter of trl_tags\(\); did you mean low"),
        (trl_tags, {"tags": ["a"]}, "'tags' is a column of every call"),
        (trl_length, {"needs": ["truht"]}, "needs: no input 'truht'; did you mean truth"),
        (trl_length, {"low": "x"}, "low: want a number, got 'x'"),
    ],
)
def test_a_function_or_option_that_does_not_fit_is_named(thing, options, message):
    config = RewardConfig(target=f"{HERE}:{thing.__name__}", options=options)
    with pytest.raises(ConfigError, match=rf"^rewards\.mine\.options: {message}"):
        load_reward("mine", config)
