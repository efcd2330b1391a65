"""Names are a fixed list; means are sums over counts."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import AdvantageConfig, BlockConfig, Config
from rl.advantage.combine import RewardTerm
from rl.advantage.filters import FilterCounts
from rl.measure.metrics import (
    NAMES,
    advantage_metrics,
    check_name,
    merge,
    reward_metrics,
    rollout_metrics,
    staleness_metrics,
    to_metrics,
)
from rl.types import Finish, ScoredGroup, UpdateStats
from tests.reference.groups import image_segment, make_chain, make_group, make_scores, text_segment

quick = settings(deadline=None)
NAME = "policy/text/entropy_nats/mean"


@pytest.mark.parametrize(
    "name",
    [
        "reward/degradation/mean",
        "policy/text/ratio_before_update/max_dev",
        "weights/image/canary_nats/max",
        "weights/text/version",
        "time/rollout_s",
        "eval/psnr/mean",
        "step",
        "wall_time_s",
    ],
)
def test_listed_names_pass(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["reward/mean", "policy/text/ratio", "Time/step_s", "time/step_s/extra", ""])
def test_unlisted_names_are_refused(name):
    with pytest.raises(ValueError, match="nearest"):
        check_name(name)


def test_every_name_on_the_list_is_its_own_example():
    for name in NAMES:
        assert check_name(name.replace("<", "").replace(">", "")) is not None


@quick
@given(st.lists(st.lists(st.integers(-100, 100), max_size=6), min_size=1, max_size=6))
def test_merged_means_are_means_over_everything(ranks):
    stats = [
        UpdateStats(
            sums={NAME: (float(sum(values)), float(len(values)))},
            maxima={"policy/text/importance_ratio/max": float(max(values))} if values else {},
        )
        for values in ranks
    ]
    everything = [value for values in ranks for value in values]
    got = to_metrics(merge(stats))
    if everything:
        want = {NAME: sum(everything) / len(everything), "policy/text/importance_ratio/max": max(everything)}
        assert got == pytest.approx(want)
    else:
        assert got == {}


def test_unlisted_stats_are_refused():
    with pytest.raises(ValueError, match="nearest"):
        to_metrics(UpdateStats(sums={"made/up": (1.0, 1.0)}, maxima={}))


CONFIG = Config(chain={"words": BlockConfig()})


def term(weight=1.0, best=1.0):
    return RewardTerm(weight=weight, blocks=("words",), best=best, missing=0.0)


def test_reward_metrics():
    terms = {"a": term(), "b": term(0.0)}
    groups = [
        make_group("g", {"a": make_scores("a", [0.0, 1.0]), "b": make_scores("b", [5.0, 5.0])}),
        make_group(
            "h",
            {
                "a": make_scores("a", [3.0, 3.0], missing=[True, False]),
                "b": make_scores("b", [1.0, 9.0], valid=[True, False]),
            },
        ),
    ]
    got = reward_metrics(groups, CONFIG, terms)
    assert got["reward/a/mean"] == pytest.approx(7 / 4)
    assert got["reward/a/missing_frac"] == 0.25
    assert got["reward/a/present_mean"] == pytest.approx(4 / 3)
    assert got["reward/a/zero_spread_frac"] == 0.5
    assert got["reward/b/invalid_frac"] == 0.25
    assert got["reward/b/mean"] == pytest.approx(11 / 3)
    assert got["reward/total/mean"] == pytest.approx(4 / 3)  # the chain that lost a score has no total
    assert got["reward/total/max"] == 3.0
    assert got["reward/zero_spread_group_frac"] == 0.5
    assert reward_metrics([], CONFIG, terms) == {}
    assert all(check_name(name) for name in got)


def test_components_and_the_total_are_correlated():
    scores = {
        "a": make_scores("a", [0.0, 1.0, 2.0]),
        "b": make_scores("b", [4.0, 2.0, 0.0]),
        "flat": make_scores("flat", [1.0, 1.0, 1.0]),
    }
    terms = {"a": term(), "b": term(0.0), "flat": term()}
    got = reward_metrics([make_group("g", scores)], CONFIG, terms)
    found = {name: value for name, value in got.items() if "/corr/" in name}
    assert found == {
        "reward/total/corr/a": pytest.approx(1.0),
        "reward/total/corr/b": pytest.approx(-1.0),
        "reward/a/corr/b": pytest.approx(-1.0),
    }
    assert all(check_name(name) for name in got)
    scores["b"] = make_scores("b", [4.0, 2.0, -9.0], missing=[False, False, True])
    got = reward_metrics([make_group("g", scores)], CONFIG, terms)
    assert got["reward/a/corr/b"] == pytest.approx(-1.0)  # the third chain has nothing that b could judge


def test_spread_is_counted_after_the_gate():
    scores = {"form": make_scores("form", [0.0, 0.0]), "a": make_scores("a", [1.0, 2.0])}
    groups, terms = [make_group("g", scores)], {"form": term(0.0), "a": term()}
    gated = replace(CONFIG, advantage=AdvantageConfig(gate="form"))
    assert reward_metrics(groups, CONFIG, terms)["reward/zero_spread_group_frac"] == 0.0
    got = reward_metrics(groups, gated, terms)
    assert got["reward/zero_spread_group_frac"] == 1.0
    assert (got["reward/a/mean"], got["reward/total/mean"]) == (1.5, 1.5)  # as scored


def test_parts_of_a_reward_are_counted_under_its_name():
    scores = {
        "overlong": make_scores("overlong", [-1.0, 0.0]),
        "overlong.words": make_scores("overlong.words", [-1.0, 0.0]),
    }
    got = reward_metrics([make_group("g", scores)], CONFIG, {"overlong.words": term()})
    assert got["reward/overlong/mean"] == got["reward/total/mean"] == -0.5
    assert not any("words" in name for name in got)


def test_staleness_metrics():
    group = make_group("g", {"a": make_scores("a", [0.0, 1.0])})
    chains = tuple(
        replace(chain, versions=seen)
        for chain, seen in zip(
            group.chains, [{"text": (3, 5)}, {"text": (5, 5), "image": (2, 2)}], strict=True
        )
    )
    got = staleness_metrics([replace(group, chains=chains)], {"text": 5, "image": 2, "idle": 9})
    assert got == {
        "weights/text/staleness/mean": 1.0,
        "weights/text/staleness/max": 2.0,
        "weights/image/staleness/mean": 0.0,
        "weights/image/staleness/max": 0.0,
    }
    assert all(check_name(name) for name in got)
    assert staleness_metrics([], {"text": 5}) == {}


def test_rollout_metrics():
    segments = [text_segment({"a": 3}), image_segment("p", num_actions=4), image_segment("q", num_actions=2)]
    group = ScoredGroup(
        group_id="g",
        prompt_id="g",
        chains=(make_chain("g", 0, segments), make_chain("g", 1, segments[:1], Finish.MALFORMED)),
        scores={},
        seconds={},
    )
    got = rollout_metrics([group])
    assert got["rollout/finish/malformed_frac"] == got["rollout/finish/stop_frac"] == 0.5
    assert got["rollout/text/num_actions/mean"] == 3
    assert got["rollout/image/num_actions/mean"] == 3
    assert got["rollout/image/num_actions/max"] == 6
    assert all(check_name(name) for name in [*got, *FilterCounts().to_metrics()])
    assert rollout_metrics([]) == {}


def written(group_id, prompt_id, texts):
    """Return a group whose chains wrote texts in block ``a``; ``None`` never closed it."""
    chains = [
        replace(make_chain(group_id, index), block_text={} if text is None else {"a": text})
        for index, text in enumerate(texts)
    ]
    return ScoredGroup(group_id=group_id, prompt_id=prompt_id, chains=tuple(chains), scores={}, seconds={})


@quick
@given(st.lists(st.lists(st.sampled_from(["x", "y", "z", None]), max_size=4), max_size=4), st.booleans())
def test_alike_texts_are_counted_as_pair_by_pair(texts, one_prompt):
    """Two groups of one prompt are as one."""
    prompts = ["p" if one_prompt else f"p{number}" for number in range(len(texts))]
    groups = [written(f"g{number}", prompts[number], of_group) for number, of_group in enumerate(texts)]
    closed = [(p, text) for p, of_group in zip(prompts, texts, strict=True) for text in of_group if text]
    pairs = list(itertools.combinations(closed, 2))
    got = rollout_metrics(groups)
    for name, is_one in (("within", True), ("between", False)):
        same = [a == b for (p, a), (q, b) in pairs if (p == q) is is_one]
        expected = pytest.approx(sum(same) / len(same)) if same else None
        assert got.get(f"rollout/a/alike_{name}_frac") == expected
    assert all(check_name(name) for name in got)


@pytest.mark.parametrize(
    ("one", "other", "expected"), [("xx", "xx", (1, 1)), ("xx", "yy", (1, 0)), ("xy", "zw", (0, 0))]
)
def test_answers_that_say_nothing_of_the_prompt_are_as_alike_between_prompts_as_within(one, other, expected):
    got = rollout_metrics([written("p", "p", one), written("q", "q", other)])
    assert (got["rollout/a/alike_within_frac"], got["rollout/a/alike_between_frac"]) == expected


def test_advantage_metrics():
    assert advantage_metrics({"c": {0: 1.0, 1: -3.0}, "d": {0: 0.0, 1: 0.0}}) == {"advantage/abs/mean": 1.0}
    assert advantage_metrics({}) == {}
