"""Which steps are random and trained: counts, bounds, and what each choice depends on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.methods import AllSteps, RandomShare, RandomSteps, SlidingWindow
from configs.schema import DenoisingRollout
from rl.denoising.step_selection import all_steps, picture_draws, sampler_spec, select_steps, window_start
from rl.types import StepPlan

seeds = st.integers(0, 2**62)
lengths = st.integers(2, 30)


@st.composite
def methods(draw, num_steps):
    most = num_steps - 1
    return draw(
        st.sampled_from(
            [
                AllSteps(),
                RandomShare(share=draw(st.floats(0.01, 1.0))),
                SlidingWindow(
                    size=draw(st.integers(1, most)),
                    every=draw(st.integers(1, 5)),
                    stride=draw(st.integers(1, 4)),
                ),
                RandomSteps(count=draw(st.integers(1, most)), start_within=draw(st.floats(0.0, 1.0))),
            ]
        )
    )


def plan(method, num_steps, *, picture=1, group=2, step=0) -> StepPlan:
    return select_steps(method, num_steps, picture_seed=picture, group_seed=group, grpo_step=step)


@given(st.data(), lengths, seeds, seeds, st.integers(0, 10_000))
def test_a_plan_has_as_many_steps_as_said_and_never_the_last(data, num_steps, picture, group, step):
    method = data.draw(methods(num_steps))
    chosen = plan(method, num_steps, picture=picture, group=group, step=step)
    assert len(chosen.trained) == method.num_trained(num_steps - 1) >= 1
    assert list(chosen.trained) == sorted(set(chosen.trained))
    assert set(chosen.trained) <= set(chosen.random) <= set(range(num_steps - 1))
    assert chosen == plan(method, num_steps, picture=picture, group=group, step=step)


@given(lengths)
def test_all_steps(num_steps):
    assert plan(AllSteps(), num_steps) == all_steps(num_steps)
    assert all_steps(num_steps).trained == tuple(range(num_steps - 1))


@given(lengths, seeds)
def test_a_share_leaves_all_steps_random(num_steps, seed):
    chosen = plan(RandomShare(share=0.6), num_steps, picture=seed)
    assert chosen.random == tuple(range(num_steps - 1))
    assert len(chosen.trained) == max(1, 6 * (num_steps - 1) // 10)  # the released code rounds down


def test_a_share_is_drawn_for_each_picture_and_trains_every_step_alike():
    drawn = [plan(RandomShare(share=0.5), 9, picture=seed).trained for seed in range(400)]
    assert len(set(drawn)) > 40
    for step in range(8):
        assert sum(step in trained for trained in drawn) / 400 == pytest.approx(0.5, abs=0.1)
    assert plan(RandomShare(), 9, group=1) == plan(RandomShare(), 9, group=2)


def test_random_steps_are_drawn_for_each_group_and_start_anywhere():
    drawn = {plan(RandomSteps(count=3), 9, group=seed).trained for seed in range(200)}
    assert drawn == {(start, start + 1, start + 2) for start in range(6)}
    assert plan(RandomSteps(), 9, picture=1) == plan(RandomSteps(), 9, picture=2)


def test_random_steps_may_be_held_to_the_first_part():
    fast = RandomSteps(count=2, start_within=0.5)
    assert {plan(fast, 10, group=seed).trained[0] for seed in range(400)} == set(range(6))  # 0 .. K // 2
    assert {plan(fast, 3, group=seed).trained for seed in range(50)} == {(0, 1)}


def test_the_window_moves_with_training_and_starts_again():
    method = SlidingWindow(size=3, every=2, stride=2)
    starts = [window_start(method, 8, step) for step in range(12)]
    assert starts == [0, 0, 2, 2, 4, 4, 5, 5, 0, 0, 2, 2]
    assert plan(method, 9, step=7) == StepPlan(random=(5, 6, 7), trained=(5, 6, 7))


@given(st.data(), lengths)
def test_a_windows_round_trains_every_step(data, num_steps):
    size = data.draw(st.integers(1, num_steps - 1))
    method = SlidingWindow(size=size, every=3, stride=data.draw(st.integers(1, size)))
    trained = {step for at in range(3 * num_steps) for step in plan(method, num_steps, step=at).trained}
    assert trained == set(range(num_steps - 1))


def test_untrained_noise_is_possible_but_not_the_reverse():
    assert StepPlan(random=(0, 1), trained=(1,)).trained == (1,)
    with pytest.raises(ValueError, match="not among the random"):
        StepPlan(random=(0,), trained=(1,))


def test_a_spec_is_the_policys_but_for_its_noise():
    rollout = DenoisingRollout(sampler="cps", noise_level=0.4)
    spec = sampler_spec(rollout)
    assert (spec.kind, spec.noise_level) == ("cps", 0.4)
    assert sampler_spec(rollout, noise_level=0.0).noise_level == 0


@given(seeds, seeds)
def test_a_group_shares_its_source_and_its_random_steps(first, second):
    rollout = DenoisingRollout(shared_noise=True, trained_steps=RandomSteps(count=2))
    draws = [picture_draws(rollout, 20, picture_seed=p, group_seed=7, grpo_step=3) for p in (first, second)]
    assert draws[0] == draws[1]
    assert draws[0][0] is not None
    assert draws[0][1] is not None
    assert picture_draws(rollout, 20, picture_seed=first, group_seed=8, grpo_step=3)[0] != draws[0][0]


def test_outside_of_training_all_steps_are_random_and_sources_differ_by_default():
    rollout = DenoisingRollout(trained_steps=SlidingWindow())
    assert picture_draws(rollout, 9, picture_seed=1, group_seed=2, grpo_step=None) == (None, None)
