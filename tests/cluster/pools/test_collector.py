"""Which groups a step gets: refills within an exact bound, staleness, steps without anything to train on."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.pools import collector as module
from cluster.pools.collector import PATIENCE, GroupCollector
from configs.schema import AdvantageConfig, BlockConfig, Config, RewardConfig
from rl.advantage.combine import RewardTerm
from rl.advantage.overlong import overlong_terms
from rl.errors import RewardError, RolloutError, WorkerLostError
from rl.measure.metrics import check_name
from rl.types import Prompt
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
class ScriptedCollector(GroupCollector):
    """Samples nothing: prompt number i becomes the group its script says."""

    script: list[str] = field(default_factory=list)
    rounds: list[list[str]] = field(default_factory=list)
    seconds: list[dict[str, float]] = field(default_factory=list)
    """Of each prompt's group, by stage; empty leaves them 0."""

    def _sample(self, requests):
        numbers = [int(request.prompt.prompt_id) for request in requests]
        self.rounds.append([str(number) for number in numbers])
        groups = [scripted(str(number), self.script[number]) for number in numbers]
        if not self.seconds:
            return groups
        return [
            replace(group, seconds=self.seconds[number])
            for group, number in zip(groups, numbers, strict=True)
        ]


def scripted(name, kind):
    valid = [True, kind != FAILED]
    scores = {
        "a": make_scores("a", [0.5, 0.5] if kind in {FLAT, LONG} else [0.0, 1.0], valid=valid),
        "form": make_scores("form", [0.0, 0.0] if kind == GATED else [1.0, 1.0]),
    }
    segments = [[text_segment({"words": 10 if kind == LONG else 4})], [text_segment({"words": 4})]]
    group = make_group(name, scores, segments=segments)
    chains = tuple(replace(c, versions={"text": (3 if kind == OLD else 5,) * 2}) for c in group.chains)
    return replace(group, chains=chains)


def collector(script, config=CONFIG):
    terms = {
        name: RewardTerm(weight=reward.weight, blocks=("words",), best=1.0, missing=0.0)
        for name, reward in config.rewards.items()
    }
    return ScriptedCollector(
        config=config,
        terms=terms | overlong_terms(config),
        versions=lambda: {"text": 5},
        make_prompt=lambda i: Prompt(prompt_id=str(i)),
        runners=(),
        observe=lambda step, requests, groups: None,
        script=list(script),
    )


def ids(groups):
    return [group.group_id for group in groups]


def test_groups_without_spread_are_replaced_and_the_data_position_moves_on():
    source = collector([GOOD, FLAT, FLAT, GOOD, GOOD, GOOD])
    groups, metrics = source.next(3)
    assert ids(groups) == ["0", "3", "4"]
    assert source.rounds == [["0", "1", "2"], ["3", "4"]]
    assert source.position == 5
    assert metrics["group/kept_frac"] == 3 / 5
    assert metrics["group/dropped_zero_spread"] == 2.0
    assert metrics["weights/text/staleness/max"] == 0.0
    assert all(check_name(name) for name in metrics)


def test_the_stages_of_refill_rounds_add_up():
    source = collector([FLAT, GOOD, GOOD])
    source.seconds = [
        {"rollout": 4.0, "reward": 0.5},
        {"rollout": 3.0, "reward": 1.0},
        {"rollout": 2.0, "reward": 0.25},
    ]
    _, metrics = source.next(2)
    assert source.rounds == [["0", "1"], ["2"]]
    assert metrics["time/rollout_s"] == 4.0 + 2.0
    assert metrics["time/reward_s"] == 1.0 + 0.25


def test_no_refill_trains_on_fewer_groups():
    source = collector([GOOD, FLAT, GOOD], replace(CONFIG, max_refills=0))
    groups, _ = source.next(3)
    assert ids(groups) == ["0", "2"]
    assert source.position == 3


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=40, max_size=40), st.integers(1, 5), st.integers(0, 4))
def test_the_bound_on_refills_is_exact(good, num_prompts, max_refills):
    source = collector([GOOD if ok else FLAT for ok in good], replace(CONFIG, max_refills=max_refills))
    groups, metrics = source.next(num_prompts)
    allowed = (1 + max_refills) * num_prompts
    wanted = [str(i) for i in range(allowed) if good[i]][:num_prompts]
    assert ids(groups) == wanted  # in the order of the data, and never more than were asked for
    is_full = len(wanted) == num_prompts
    assert source.position == (int(wanted[-1]) + 1 if is_full else allowed)
    assert metrics["group/kept_frac"] == len(wanted) / source.position


def test_stale_groups_are_counted_and_replaced_but_not_looked_into():
    source = collector([OLD, GOOD, GOOD])
    groups, metrics = source.next(2)
    assert ids(groups) == ["1", "2"]
    assert metrics["group/dropped_stale"] == 1.0
    assert metrics["weights/text/staleness/max"] == 2.0
    patient = collector([OLD, GOOD, GOOD], replace(CONFIG, max_staleness=2))
    groups, metrics = patient.next(2)
    assert ids(groups) == ["0", "1"]
    assert metrics["group/dropped_stale"] == 0.0


def test_spread_is_judged_after_the_gate():
    gated = replace(CONFIG, advantage=AdvantageConfig(gate="form"))
    assert ids(collector([GATED, GOOD], gated).next(1)[0]) == ["1"]
    assert ids(collector([GATED, GOOD]).next(1)[0]) == ["0"]


def test_the_punishment_for_length_is_a_reward_like_others():
    groups, metrics = collector([LONG], replace(CONFIG, overlong="punish")).next(1)
    assert groups[0].scores["overlong.words"].values.tolist() == [-1.0, 0.0]
    assert metrics["reward/overlong/mean"] == -0.5
    assert metrics["reward/total/mean"] == 0.0
    assert ids(collector([LONG, GOOD]).next(1)[0]) == ["1"]


def test_a_step_without_anything_to_train_on_is_counted_and_the_run_goes_on(caplog):
    source = collector([FLAT, FLAT, GOOD, FLAT, FLAT])
    groups, metrics = source.next(1)
    assert groups == []
    assert metrics["group/kept_frac"] == 0.0
    assert metrics["reward/a/mean"] == 0.5
    assert "none of 2 groups can be trained on" in caplog.text
    assert source.num_empty == 1
    source.next(1)
    assert source.num_empty == 0
    source.next(1)
    assert source.num_empty == 1


def test_too_many_such_steps_in_a_row_end_the_run():
    source = collector([FLAT] * 2 * PATIENCE)
    for _ in range(PATIENCE - 1):
        source.next(1)
    with pytest.raises(RolloutError, match=f"of {PATIENCE} steps in a row"):
        source.next(1)


def test_too_many_failed_scores_end_the_run_at_once():
    with pytest.raises(RewardError, match=r"50% of the chains lost a score \(max_invalid_frac=0.2\)"):
        collector([FAILED, FAILED]).next(1)


def test_lost_rollout_workers_are_repaired_and_the_same_jobs_done_again(monkeypatch):
    lost, asked, repaired = WorkerLostError("rollout-text-0: gone"), [], []

    def run_groups(runners, requests, *, deadline_s):
        asked.append(requests)
        if len(asked) == 1:
            raise ExceptionGroup("several", [lost])
        return ["groups"]

    monkeypatch.setattr(module, "run_groups", run_groups)
    source = collector([])
    with pytest.raises(ExceptionGroup):
        GroupCollector._sample(source, ["request"])
    asked.clear()
    source.repair = repaired.append
    assert GroupCollector._sample(source, ["request"]) == ["groups"]
    assert asked == [["request"], ["request"]]
    assert len(repaired) == 1


def test_repairs_of_a_round_are_bounded_and_for_losses_only(monkeypatch):
    failures, repaired = [RewardError("no weights")], []

    def run_groups(runners, requests, *, deadline_s):
        raise failures[0]

    monkeypatch.setattr(module, "run_groups", run_groups)
    source = collector([])
    source.repair = repaired.append
    with pytest.raises(RewardError):
        GroupCollector._sample(source, [])
    assert not repaired
    failures[0] = WorkerLostError("rollout-text-0: gone")
    with pytest.raises(WorkerLostError):
        GroupCollector._sample(source, [])
    assert len(repaired) == module.MOST_REPAIRS
