"""DeepSpeed learners in real processes against a few lines of plain torch.

One world of one rank and one of two live through every ZeRO stage and micro-batch size; the tests look at
what they recorded.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference.learner_jobs import LIFE, STEPS, all_stages, plain_training
from tests.reference.policy_configs import policy_config
from tests.reference.ranks import run_ranks
from tests.reference.tiny_policy import write_start

pytestmark = pytest.mark.engine

LIVES = [
    (world, stage, micro) for world, stage in ((1, 1), (1, 3), (2, 1), (2, 2), (2, 3)) for micro in (1, 4)
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("learner")
    write_start(path / "start")
    return path


@pytest.fixture(scope="module")
def lives(root):
    """What each rank recorded: ``[(world size, stage, micro-batch size)][rank]``."""
    found = {}
    for world in (1, 2):
        todo = [(stage, micro) for w, stage, micro in LIVES if w == world]
        ranks = run_ranks(all_stages, world, root, todo)
        for stage, micro in todo:
            found[world, stage, micro] = [rank[f"{stage}/{micro}"] for rank in ranks]
    return found


@pytest.fixture(scope="module")
def plain(root):
    return plain_training(root / "start", policy_config(**LIFE), STEPS)


def summed(ranks, step, name):
    pairs = [rank["stats"][step]["sums"][name] for rank in ranks]
    return sum(total for total, _ in pairs) / sum(count for _, count in pairs)


def bits(weights):
    return {name: array.tobytes() for name, array in weights.items()}


@pytest.mark.parametrize("life", LIVES)
def test_losses_and_weights_are_those_of_plain_torch(lives, plain, life):
    losses, weights = plain
    ranks = lives[life]
    got = [summed(ranks, step, "loss/tiny/total") for step in range(len(STEPS))]
    np.testing.assert_allclose(got, losses, atol=1e-5)
    assert ranks[0]["after"].keys() == weights.keys()
    for name, want in weights.items():
        np.testing.assert_allclose(ranks[0]["after"][name], want.numpy(), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("life", LIVES)
def test_publication_is_whole_and_comes_from_the_first_rank_only(lives, life):
    first, *others = lives[life]
    assert bits(first["before"]) == bits(lives[LIVES[0]][0]["before"])
    assert all(rank["before"] == {} for rank in others)
    assert first["version"] == 1


@pytest.mark.parametrize("life", LIVES)
def test_ratio_before_the_update_is_that_of_the_first_step_only(lives, life):
    name = "policy/tiny/ratio_before_update/max_dev"
    for rank in lives[life]:
        assert rank["stats"][0]["maxima"][name] < 1e-6
        assert all(name not in step["maxima"] for step in rank["stats"][1:])


@pytest.mark.parametrize("life", LIVES)
def test_step_metrics(lives, life):
    for step in range(len(STEPS)):
        seen = lives[life][0]["stats"][step]["sums"]
        assert 0.05 < seen["learner/tiny/grad_norm"][0] < 1
        assert seen["learner/tiny/lr"][0] == pytest.approx(LIFE["learning_rate"] * min(1, (step + 1) / 2))
        assert 1 < summed(lives[life], step, "policy/tiny/entropy_nats/mean") < np.log(13) + 1e-6
        actions = sum(rank["stats"][step]["sums"]["loss/tiny/total"][1] for rank in lives[life])
        assert actions == seen["policy/tiny/num_actions"][0]


@pytest.mark.parametrize("life", LIVES)
def test_score_is_the_policys_own_log_prob(lives, life):
    for rank in lives[life]:
        for got, (want, mask) in zip(rank["scores"], rank["behaviour"], strict=True):
            np.testing.assert_allclose(got[mask], want[mask], atol=1e-6)


WHOLE = [life for life in LIVES if life[2] == 4]


@pytest.mark.parametrize("life", WHOLE)
def test_resumed_update_is_the_same_to_the_last_bit(lives, life):
    for rank in lives[life]:
        version, weights = rank["loaded"]
        assert version == 1
        assert bits(weights) == bits(rank["after"])
        stats, after = rank["uninterrupted"]
        again, resumed = rank["resumed"]
        assert again == stats
        assert bits(resumed) == bits(after)


@pytest.mark.parametrize("life", WHOLE)
def test_without_a_decay_there_is_no_average_to_show(lives, life):
    for rank in lives[life]:
        assert rank["no average"] == "policies.tiny.learner.ema_decay is 0: no average is kept"


@pytest.mark.parametrize("life", WHOLE)
def test_export_is_what_was_trained(lives, life):
    for rank in lives[life]:
        assert bits(rank["exported"]) == bits(lives[life][0]["after"])


@pytest.mark.parametrize("life", WHOLE)
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_every_rank_diverges_together_and_no_weight_changes(lives, life, what):
    for rank in lives[life]:
        error, before, after = rank[what]
        assert error.startswith(f"policy tiny: the {what} is not finite in optimizer step")
        assert bits(after) == bits(before)
