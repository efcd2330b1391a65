"""Blocks that run out of tokens: DAPO's penalty in plain Python, where it lands, and what a mask leaves."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import AdvantageConfig, BlockConfig, Config, RewardConfig
from rl.advantage.assign import assign_advantages
from rl.advantage.batching import build_train_batches, items_of
from rl.advantage.filters import FilterResult, filter_group
from rl.advantage.overlong import masked_blocks, overlong_terms, soft_penalty, with_overlong
from rl.types import Finish
from tests.reference import advantage as reference
from tests.reference.groups import image_segment, make_chain, make_group, make_scores, text_segment
from tests.reference.policy_configs import policy_config

quick = settings(deadline=None)
PUNISH = Config(
    overlong="punish",
    group_size=2,
    rewards={"a": RewardConfig()},
    chain={
        "words": BlockConfig(max_tokens=20),
        "picture": BlockConfig(kind="image", policy="image", size_px=16, num_steps=4),
        "end": BlockConfig(max_tokens=10),
    },
    policies={"text": policy_config(), "image": policy_config(kind="denoising")},
)
MASK = replace(PUNISH, overlong="mask")
TRAIN = replace(PUNISH, overlong="train")


def group_of(*lengths, values=None):
    """Chains whose two text blocks have these lengths."""
    scores = {"a": make_scores("a", values or [0.0] * len(lengths))}
    segments = [
        [text_segment({"words": a, "end": b}), image_segment("picture", num_actions=3)] for a, b in lengths
    ]
    return make_group("g", scores, segments=segments)


@quick
@given(st.integers(1, 400).map(lambda n: 5 * n), st.integers(0, 2500))
def test_the_penalty_is_dapos_three_cases(max_tokens, length):
    want = reference.soft_overlong(length, max_tokens, max_tokens / 5)
    assert soft_penalty(length, max_tokens) == pytest.approx(want, abs=1e-9)


@quick
@given(st.integers(8, 3000))
def test_the_penalty_falls_from_0_to_minus_1(max_tokens):
    penalties = [soft_penalty(length, max_tokens) for length in range(max_tokens + 1)]
    assert penalties == sorted(penalties, reverse=True)
    assert penalties[int(0.8 * max_tokens)] == 0.0
    assert penalties[-1] == -1.0


def test_each_block_has_its_own_penalty_and_their_sum_is_measured():
    group = with_overlong(group_of((16, 8), (18, 9), (20, 10)), PUNISH)
    assert group.scores["overlong.words"].values.tolist() == pytest.approx([0.0, -0.5, -1.0])
    assert group.scores["overlong.end"].values.tolist() == pytest.approx([0.0, -0.5, -1.0])
    assert group.scores["overlong"].values.tolist() == pytest.approx([0.0, -1.0, -2.0])
    assert group.scores["a"].values.tolist() == [0.0] * 3
    assert all(scores.valid.all() for scores in group.scores.values())
    assert {name: (term.weight, term.blocks) for name, term in overlong_terms(PUNISH).items()} == {
        "overlong.words": (1.0, ("words",)),
        "overlong.end": (1.0, ("end",)),
    }


@pytest.mark.parametrize("config", [MASK, TRAIN])
def test_without_punishment_nothing_is_added(config):
    group = group_of((20, 10), (5, 5))
    assert with_overlong(group, config) is group
    assert overlong_terms(config) == {}


def test_the_block_concerned_is_punished_even_where_a_gate_takes_all_else():
    config = replace(PUNISH, advantage=AdvantageConfig(gate="form", combine="sum", scale="none"))
    group = with_overlong(group_of((20, 3), (5, 3)), config)
    scores = {**group.scores, "form": make_scores("form", [0.0, 0.0])}
    terms = overlong_terms(config) | {
        "form": replace(overlong_terms(config)["overlong.end"], weight=0.0, best=1.0)
    }
    got = assign_advantages([replace(group, scores=scores)], terms, tuple(config.chain), config.advantage)
    assert list(got["g/0"].values()) == pytest.approx([-0.5, 0.0, 0.0])
    assert list(got["g/1"].values()) == pytest.approx([0.5, 0.0, 0.0])


def test_a_group_that_differs_in_length_only_can_be_trained_on():
    group = with_overlong(group_of((20, 3), (5, 3)), PUNISH)
    terms = overlong_terms(PUNISH)
    assert filter_group(group, PUNISH, terms).result is FilterResult.KEPT
    assert (
        filter_group(with_overlong(group_of((6, 3), (5, 3)), PUNISH), PUNISH, terms).result
        is FilterResult.ZERO_SPREAD
    )


@pytest.mark.parametrize(
    ("lengths", "finish", "masked"),
    [
        ({"words": 20}, Finish.LENGTH, {"words"}),
        ({"words": 20, "end": 10}, Finish.LENGTH, {"end"}),
        ({"words": 5, "end": 10}, Finish.STOP, set()),
        ({"words": 20}, Finish.MALFORMED, set()),
    ],
)
def test_the_block_that_ran_out_is_masked(lengths, finish, masked):
    chain = make_chain("g", 0, [text_segment(lengths), image_segment("picture", num_actions=3)], finish)
    assert masked_blocks(chain, MASK) == masked
    assert masked_blocks(chain, TRAIN) == masked_blocks(chain, PUNISH) == set()


def test_masked_actions_are_neither_trained_nor_counted():
    segments = [text_segment({"words": 7, "end": 10}), image_segment("picture", num_actions=3)]
    advantages = {0: 1.0, 1: 2.0, 2: 3.0}
    cut = make_chain("g", 0, segments, Finish.LENGTH)
    (item,) = items_of(cut, "text", advantages, MASK)
    assert (dict(item.advantages), item.num_actions, item.num_scored) == ({0: 1.0}, 7, 17)
    (item,) = items_of(cut, "text", advantages, TRAIN)
    assert (dict(item.advantages), item.num_actions) == ({0: 1.0, 2: 3.0}, 17)
    (item,) = items_of(cut, "image", advantages, MASK)
    assert (dict(item.advantages), item.num_actions) == ({1: 2.0}, 3)
    early = make_chain("g", 1, [text_segment({"words": 20})], Finish.LENGTH)
    assert items_of(early, "text", advantages, MASK) == []


def test_a_batch_counts_the_trained_actions_only():
    group = group_of((7, 10), (7, 4), values=[0.0, 1.0])
    cut = replace(group, chains=(replace(group.chains[0], finish=Finish.LENGTH), group.chains[1]))
    advantages = {chain.chain_id: {0: 1.0, 1: 1.0, 2: 1.0} for chain in cut.chains}
    (text,) = build_train_batches([cut], advantages, MASK)["text"]
    assert text.num_actions == 7 + 11
    (text,) = build_train_batches([cut], advantages, TRAIN)["text"]
    assert text.num_actions == 17 + 11


def test_chains_without_any_text_have_no_penalty():
    group = make_group("g", {"a": make_scores("a", [0.0, 1.0])})
    assert not np.any(with_overlong(group, PUNISH).scores["overlong"].values)
