"""Plain functions with TRL's or verl's signature plug in unchanged."""

import asyncio
import math
from dataclasses import replace

import pytest

from configs.schema import BlockConfig, RewardConfig
from rewards.base import Need, evaluate
from rewards.contract import check_reward
from rewards.examples import example_chains
from rewards.load import load_reward
from rewards.plain.functions import COLUMNS, FunctionReward
from rl.errors import ConfigError
from rl.restoration.names import INSTRUCTION
from rl.types import Prompt
from tests.reference.rewards import (
    WHOLE,
    make_view,
    narrow,
    needy,
    needy_of_level,
    picture,
    trl_length,
    trl_tags,
    verl_tags,
)

HERE = "tests.reference.rewards"
WELL = {"ground_truth": "4"}


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
    assert seen.keys() == {*COLUMNS, "degraded", "labels", "tags", "captions"}
    assert {len(column) for column in seen.values()} == {2}
    assert seen["group_id"] == ["p#3", "p#0"]
    assert seen["prompts"] == [INSTRUCTION] * 2
    assert seen["completion_ids"] == [None, None]
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
        (verl_tags, {"scale": 2}, r"'scale' is no parameter of verl_tags\(\)"),
        (verl_tags, {"low": 1, "high": 1}, r"low: want less than high \(1\), got 1"),
        (trl_length, {"needs": "truth"}, r"needs: want a list, as in \[truth\]"),
        (trl_tags, {"lwo": 1}, r"'lwo' is no parameter of trl_tags\(\); did you mean low"),
        (trl_tags, {"finish": "stop"}, "'finish' is told in every call, it cannot be set"),
        (trl_length, {"low": "x"}, "low: want a number, got 'x'"),
    ],
)
def test_a_function_or_option_that_does_not_fit_is_named(thing, options, message):
    config = RewardConfig(target=f"{HERE}:{thing.__name__}", options=options)
    with pytest.raises(ConfigError, match=rf"^rewards\.mine\.options: {message}"):
        load_reward("mine", config)


@pytest.mark.parametrize(
    ("thing", "options", "message"),
    [
        (
            needy,
            {},
            r"needy\(\) wants 'answer', which the run's prompts do not have; options can be its constants",
        ),
        (verl_tags, {"ground_truth": "tag"}, "ground_truth: no column 'tag'; did you mean tags"),
        (trl_tags, {"tags": ["a"]}, "'tags' is told in every call, it cannot be set"),
        (
            trl_length,
            {"needs": ["truht"]},
            "needs truht, which the run's prompts do not have; did you mean truth",
        ),
    ],
)
def test_what_the_prompts_do_not_have_is_named(thing, options, message):
    reward = load_reward("mine", RewardConfig(target=f"{HERE}:{thing.__name__}", options=options))
    prompt = make_view(truth=picture()).prompt
    with pytest.raises(ConfigError, match=rf"^{message}"):
        reward.check_prompt({*prompt.pictures, *prompt.reference})


def test_every_column_of_the_prompts_reaches_a_function_by_name():
    chains = example_chains(3, blocks={"say": BlockConfig(kind="text", policy="text", max_tokens=9)})
    known = chains[0].prompt.reference | {"answer": "42", "level": 3}
    views = [replace(chain, prompt=replace(chain.prompt, reference=known)) for chain in chains]
    assert FunctionReward(needy_of_level).score(views) == [3.0, 3.0, 3.0]
    assert scores_of("verl_equal", views).values.tolist() == [0.0, 0.0, 0.0]
    told = [replace(view, text="42") for view in views]
    assert scores_of("verl_equal", told).values.tolist() == [1.0, 1.0, 1.0]
    FunctionReward(needy_of_level).check_prompt(known)


def scores_of(function: str, views, **options):
    reward = load_reward("mine", RewardConfig(target=f"{HERE}:{function}", options=options))
    return evaluate(reward, "mine", views)


def test_a_function_is_told_only_what_it_names():
    assert FunctionReward(narrow).score([make_view("ab"), make_view("")]) == [2.0, 0.0]


def test_coroutines_are_waited_for_on_one_loop_from_any_thread():
    views = [make_view("ab"), make_view("")]
    scores = scores_of("trl_async", views)
    assert scores.values.tolist() == [2.0, 0.0]
    assert scores.missing.tolist() == [False, True]

    async def inside() -> None:
        assert scores_of("trl_async", views).values.tolist() == [2.0, 0.0]

    asyncio.run(inside())
    loops = []

    async def where(completions, **kwargs):
        loops.append(asyncio.get_running_loop())
        return [0.0 for _ in completions]

    reward = FunctionReward(where)
    reward.score(views)
    reward.score(views)
    assert loops[0] is loops[1]


def test_chat_functions_get_messages():
    assert scores_of("trl_chat", [make_view("abc")], conversational=True).values.tolist() == [3.0]


def test_token_ids_are_told_where_they_are_known():
    written = replace(make_view("abc"), completion_ids=(5, 6, 7, 8))
    assert scores_of("trl_ids", [written]).values.tolist() == [4.0]
    assert scores_of("easyr1_length", [written]).values.tolist() == [4.0]


def test_token_ids_that_are_not_known_fail_instead_of_counting_wrong():
    scores = scores_of("trl_ids", [make_view("abc")])
    assert not scores.valid[0]
    assert "NoneType" in scores.reasons[0]


def test_easyr1_functions_take_all_chains_or_one_and_what_counts_is_overall():
    known = [replace(make_view(text), prompt=Prompt(prompt_id="q", reference=WELL)) for text in ("4", "5")]
    assert scores_of("easyr1_batch", known, right=2.0).values.tolist() == [2.0, 0.0]
    assert scores_of("easyr1_one", known).values.tolist() == [1.0, 0.0]
    scores = scores_of("easyr1_one", [replace(known[0], text="shrug"), replace(known[0], text="nothing")])
    assert (scores.missing.tolist(), scores.valid.tolist()) == ([True, False], [True, False])
    assert scores.reasons[1] == "the function returned ['accuracy'], want 'overall' among them"
    load_reward("mine", RewardConfig(target=f"{HERE}:easyr1_batch")).check_prompt(WELL)


def test_easyr1_functions_want_a_ground_truth_that_is_there():
    reward = load_reward(
        "mine", RewardConfig(target=f"{HERE}:easyr1_batch", options={"ground_truth": "anser"})
    )
    with pytest.raises(ConfigError, match=r"^ground_truth: no column 'anser'; did you mean answer\?$"):
        reward.check_prompt({"answer"})
    with pytest.raises(
        ConfigError, match=r"^rewards\.mine\.options: 'rihgt' is no parameter .*did you mean right\?$"
    ):
        load_reward("mine", RewardConfig(target=f"{HERE}:easyr1_batch", options={"rihgt": 1}))


def test_verl_functions_are_called_once_a_chain_and_fail_one_by_one():
    views = [make_view("sky rock", tags=("sky", "rock")), make_view("poison"), make_view("x", tags=("x",))]
    scores = scores_of("verl_tags", views, ground_truth="tags", high=2)
    assert scores.valid.tolist() == [True, False, True]
    assert scores.values[[0, 2]].tolist() == [2.0, 1.0]
    assert "ValueError: poison" in scores.reasons[1]


def test_verl_functions_may_wait_and_answer_with_a_mapping():
    assert scores_of("verl_async", [make_view("abc")], scale=2.0).values.tolist() == [6.0]
    scores = scores_of("verl_nothing", [make_view("a"), make_view("a", final=picture())], missing=0.5)
    assert scores.reasons == (
        "the function returned ['acc'], want a 'score' among them",
        "the function returned None",
    )
    assert scores.values[1] == 0.5


def test_the_two_signatures_keep_the_contract():
    check_reward(load_reward("mine", RewardConfig(target=f"{HERE}:trl_async")))
    check_reward(load_reward("mine", RewardConfig(target=f"{HERE}:verl_async")))


def test_another_signature_is_named():
    with pytest.raises(ConfigError) as caught:
        load_reward("mine", RewardConfig(target=f"{HERE}:neither"))
    said = str(caught.value)
    assert said.startswith(
        f"rewards.mine.target: {HERE}:neither takes (text, picture); want f(prompts, completions"
    )
    assert "compute_score(data_source, solution_str, ground_truth, extra_info) as in verl" in said
    assert said.endswith("or compute_score(reward_inputs) as in EasyR1")
