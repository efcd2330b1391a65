"""Which groups a step gets: refills within an exact bound, steps ahead, steps without anything to train on."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.pools.collector import PATIENCE, GroupCollector, sampling_ahead
from configs.schema import AdvantageConfig, BlockConfig, Config, RewardConfig
from rl.advantage.combine import RewardTerm
from rl.advantage.overlong import overlong_terms
from rl.ahead import DataPosition
from rl.errors import RewardError, RolloutError
from rl.measure.metrics import check_name
from rl.types import Prompt, ScoredGroup
from tests.reference.groups import make_group, make_scores, text_segment
from tests.reference.policy_configs import policy_config

CONFIG = Config(
    group_size=2,
    max_refills=1,
    chain={"words": BlockConfig(max_tokens=10)},
    policies={"text": policy_config()},
    rewards={"a": RewardConfig(), "form": RewardConfig(weight=0.0)},
)
GOOD, FLAT, FAILED, OLD, GATED, LONG = "good", "flat", "failed", "old", "gated", "long"


@dataclass(slots=True)
class ScriptedCalls:
    """Samples nothing: prompt number i becomes the group its script says, answered in the order of ``pick``."""

    script: list[str]
    version: int = 5
    """Of the rollout workers."""
    pick: Callable[[int], int] = lambda num: 0
    """Index of the next of so many to be answered."""
    lock: nullcontext = field(default_factory=nullcontext)
    pending: list[tuple[str, ScoredGroup, Callable]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    seconds: list[dict[str, float]] = field(default_factory=list)
    """Of each prompt's group, by stage; empty leaves them 0."""

    def ask(self, request, then):
        name = request.prompt.prompt_id
        group = scripted(name, self.script[int(name)], self.version)
        if self.seconds:
            group = replace(group, seconds=self.seconds[int(name)])
        self.asked.append(name)
        self.pending.append((name, group, then))

    def answer(self):
        _, group, then = self.pending.pop(self.pick(len(self.pending)))
        then(group)

    @property
    def is_idle(self):
        return not self.pending

    def wait_until(self, is_done):
        while not is_done():
            self.answer()


def scripted(name, kind, version=5):
    valid = [True, kind != FAILED]
    scores = {
        "a": make_scores("a", [0.5, 0.5] if kind in {FLAT, LONG} else [0.0, 1.0], valid=valid),
        "form": make_scores("form", [0.0, 0.0] if kind == GATED else [1.0, 1.0]),
    }
    segments = [[text_segment({"words": 10 if kind == LONG else 4})], [text_segment({"words": 4})]]
    group = make_group(name, scores, segments=segments)
    chains = tuple(replace(c, versions={"text": (3 if kind == OLD else version,) * 2}) for c in group.chains)
    return replace(group, chains=chains)


def collector(script, num, config=CONFIG, **scripting):
    config = replace(config, prompts_per_step=num)
    terms = {
        name: RewardTerm(weight=reward.weight, blocks=("words",), best=1.0, missing=0.0)
        for name, reward in config.rewards.items()
    }
    return GroupCollector(
        config=config,
        terms=terms | overlong_terms(config),
        versions=lambda: {"text": 5},
        make_prompt=lambda i: Prompt(prompt_id=str(i)),
        calls=ScriptedCalls(list(script), **scripting),
        observe=lambda step, requests, groups: None,
        ahead=sampling_ahead(config, step=0, start=DataPosition()),
    )


def ids(groups):
    return [group.group_id for group in groups]


def test_groups_without_spread_are_replaced_and_the_data_position_moves_on():
    source = collector([GOOD, FLAT, FLAT, GOOD, GOOD, GOOD], 3)
    groups, metrics = source.next()
    assert ids(groups) == ["0", "3", "4"]
    assert source.data_position == DataPosition(position=5)
    assert metrics["group/kept_frac"] == 3 / 5
    assert metrics["group/dropped_zero_spread"] == 2.0
    assert metrics["weights/text/staleness/max"] == 0.0
    assert all(check_name(name) for name in metrics)


def test_a_dropped_group_is_replaced_before_the_others_are_there():
    under_way: list[int] = []
    collector([FLAT, GOOD, GOOD], 2, pick=lambda num: under_way.append(num) or 0).next()
    assert under_way == [2, 2, 1]


def test_the_stages_of_a_group_and_of_those_it_replaces_add_up():
    source = collector([FLAT, GOOD, GOOD], 2)
    source.calls.seconds = [
        {"rollout": 4.0, "reward": 0.5},
        {"rollout": 3.0, "reward": 1.0},
        {"rollout": 2.0, "reward": 0.25},
    ]
    _, metrics = source.next()
    assert metrics["time/rollout_s"] == 4.0 + 2.0
    assert metrics["time/reward_s"] == 0.5 + 0.25


def test_no_refill_trains_on_fewer_groups():
    source = collector([GOOD, FLAT, GOOD], 3, replace(CONFIG, max_refills=0))
    groups, _ = source.next()
    assert ids(groups) == ["0", "2"]
    assert source.data_position.position == 3


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=40, max_size=40), st.integers(1, 5), st.integers(0, 4), st.data())
def test_the_bound_on_refills_is_exact_whatever_is_answered_first(good, num_prompts, max_refills, choose):
    source = collector(
        [GOOD if ok else FLAT for ok in good],
        num_prompts,
        replace(CONFIG, max_refills=max_refills),
        pick=lambda num: choose.draw(st.integers(0, num - 1)),
    )
    groups, metrics = source.next()
    allowed = (1 + max_refills) * num_prompts
    wanted = [str(i) for i in range(allowed) if good[i]][:num_prompts]
    assert ids(groups) == wanted  # in the order of the data, and never more than were asked for
    is_full = len(wanted) == num_prompts
    position = source.data_position.position
    assert position == (int(wanted[-1]) + 1 if is_full else allowed)
    assert metrics["group/kept_frac"] == len(wanted) / position


def test_the_next_steps_are_sampled_meanwhile_and_a_resumed_run_draws_them_again():
    config = replace(CONFIG, max_staleness=1)
    source = collector([GOOD, FLAT, GOOD, FLAT, GOOD, GOOD, GOOD, GOOD], 2, config)
    groups, _ = source.next()
    assert ids(groups) == ["0", "4"]
    assert source.data_position == DataPosition(position=6, again=(2, 3, 5))
    source.settle()  # while the learner works: the refill of the second step is there, too
    assert source.calls.is_idle
    resumed = replace(source, ahead=sampling_ahead(source.config, step=1, start=source.data_position))
    resumed.next()
    assert resumed.calls.asked[-5:] == ["2", "3", "5", "6", "7"]


def test_in_deterministic_runs_later_steps_are_refilled_when_it_is_their_turn():
    config = replace(CONFIG, max_staleness=1, deterministic=True)
    script = [GOOD, FLAT, FLAT, GOOD, GOOD, GOOD, GOOD, GOOD]
    for pick in (lambda num: 0, lambda num: num - 1):
        source = collector(script, 2, config, pick=pick)
        first, _ = source.next()
        source.settle()
        second, _ = source.next()
        assert (ids(first), ids(second)) == (["0", "4"], ["3", "5"])


def test_weights_that_are_too_old_are_an_error_not_a_filter():
    with pytest.raises(RolloutError, match=r"^0: written by weights 2 versions old \(max_staleness=1\)"):
        collector([OLD, GOOD, GOOD, GOOD], 2, replace(CONFIG, max_staleness=1)).next()
    _, metrics = collector([OLD] + [GOOD] * 5, 2, replace(CONFIG, max_staleness=2)).next()
    assert metrics["weights/text/staleness/max"] == 2.0


def test_spread_is_judged_after_the_gate():
    gated = replace(CONFIG, advantage=AdvantageConfig(gate="form"))
    assert ids(collector([GATED, GOOD], 1, gated).next()[0]) == ["1"]
    assert ids(collector([GATED, GOOD], 1).next()[0]) == ["0"]


def test_the_punishment_for_length_is_a_reward_like_others():
    groups, metrics = collector([LONG], 1, replace(CONFIG, overlong="punish")).next()
    assert groups[0].scores["overlong.words"].values.tolist() == [-1.0, 0.0]
    assert metrics["reward/overlong/mean"] == -0.5
    assert metrics["reward/total/mean"] == 0.0
    assert ids(collector([LONG, GOOD], 1).next()[0]) == ["1"]


def test_a_step_without_anything_to_train_on_is_counted_and_the_run_goes_on(caplog):
    source = collector([FLAT, FLAT, GOOD, FLAT, FLAT], 1)
    groups, metrics = source.next()
    assert groups == []
    assert metrics["group/kept_frac"] == 0.0
    assert metrics["reward/a/mean"] == 0.5
    assert "none of 2 groups can be trained on" in caplog.text
    assert source.num_empty == 1
    source.next()
    assert source.num_empty == 0
    source.next()
    assert source.num_empty == 1


def test_too_many_such_steps_in_a_row_end_the_run():
    source = collector([FLAT] * 2 * PATIENCE, 1)
    for _ in range(PATIENCE - 1):
        source.next()
    with pytest.raises(RolloutError, match=f"of {PATIENCE} steps in a row"):
        source.next()


def test_too_many_failed_scores_end_the_run_at_once():
    with pytest.raises(RewardError, match=r"50% of the chains lost a score \(max_invalid_frac=0.2\)"):
        collector([FAILED, FAILED], 1).next()
