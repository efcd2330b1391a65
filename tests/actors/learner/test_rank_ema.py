"""The moving average of DeepSpeed learners in real processes, against its reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.reference.ema import moving_average, moving_averages
from tests.reference.ema_jobs import DECAY, averaged_lives
from tests.reference.learner_jobs import start_examples
from tests.reference.policy_configs import policy_config
from tests.reference.ranks import run_ranks
from tests.reference.tiny_policy import BLOCKS, TinyPolicy, write_start

pytestmark = pytest.mark.engine

WHOLE = 1_000_000
LIVES = [
    (1, 2, "float32", 0),
    (1, 3, "float32", 0),
    (1, 2, "bfloat16", 0),
    (1, 3, "bfloat16", 0),
    (2, 1, "float32", 0),
    (2, 2, "float32", 0),
    (2, 3, "float32", 0),
    (2, 3, "float32", WHOLE),
    (2, 3, "bfloat16", WHOLE),
]
"""Ranks, ZeRO stage, number type, elements below which ZeRO-3 keeps a parameter whole."""
FULL = [life for life in LIVES if life[2] == "float32"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("ema")
    write_start(path / "start")
    return path


@pytest.fixture(scope="module")
def lives(root):
    """What each rank recorded: ``[life][rank]``."""
    found = {}
    for world in (1, 2):
        todo = [life[1:] for life in LIVES if life[0] == world]
        ranks = run_ranks(averaged_lives, world, root, todo)
        for index, life in enumerate(todo):
            found[(world, *life)] = [rank[index] for rank in ranks]
    return found


def bits(weights):
    return {name: array.tobytes() for name, array in weights.items()}


@pytest.mark.parametrize("life", FULL)
def test_published_average_is_that_of_what_was_published(lives, life):
    first, *others = lives[life]
    wanted = moving_averages(first["history"], DECAY)
    assert first["average"].keys() == wanted.keys()
    for name, want in wanted.items():
        np.testing.assert_allclose(first["average"][name], want, rtol=0, atol=1e-6, err_msg=name)
        assert np.abs(first["after"][name] - want).max() > 1e-3
    assert all(rank["average"] == {} for rank in others)


@pytest.mark.parametrize("life", FULL)
def test_any_number_of_ranks_and_any_stage_have_the_same(lives, life):
    for name, want in lives[LIVES[0]][0]["average"].items():
        np.testing.assert_allclose(lives[life][0]["average"][name], want, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("life", LIVES)
def test_it_is_the_float32_masters_that_are_averaged(lives, life):
    for rank in lives[life]:
        for index, shard in enumerate(rank["average_shards"]):
            assert shard.dtype == np.float32
            want = moving_average([masters[index] for masters in rank["masters"]], DECAY)
            np.testing.assert_allclose(shard, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("life", LIVES)
def test_shown_and_hidden_again_the_training_weights_are_the_same_to_the_last_bit(lives, life):
    for rank in lives[life]:
        assert bits(rank["after"]) == bits(rank["history"][-1])


@pytest.mark.parametrize("life", FULL)
def test_the_average_is_scored_under_itself(lives, life, root):
    examples = start_examples(root / "start", policy_config())[:2]
    policy = TinyPolicy.load(root / "start", policy_config(), block_names=BLOCKS)
    for which, scores in (("average", "scores"), ("after", "plain_scores")):
        weights = lives[life][0][which]
        policy.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
        for index, example in enumerate(examples):
            with torch.no_grad():
                want = policy(policy.collate([example]).inputs).logprobs[0].numpy()
            for rank in lives[life]:
                np.testing.assert_allclose(rank[scores][index], want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("life", LIVES)
def test_a_resumed_run_has_the_same_weights_and_average_to_the_last_bit(lives, life):
    for rank in lives[life]:
        assert bits(rank["loaded"]) == bits(rank["average"])
        for got, want in zip(rank["resumed"], rank["uninterrupted"], strict=True):
            assert bits(got) == bits(want)


@pytest.mark.parametrize("life", LIVES)
def test_the_average_is_what_is_exported(lives, life):
    for rank in lives[life]:
        assert bits(rank["exported"]) == bits(lives[life][0]["average"])
