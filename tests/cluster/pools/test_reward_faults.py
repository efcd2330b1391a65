"""Rewards that die, hang, lie and raise, behind the real scoring actor: nothing is lost or scored twice."""

from __future__ import annotations

import json
import logging
import pickle
import sys
import time
import venv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cluster.pools.reward_pool import PoolCounts
from cluster.pools.scoring import EXAMPLES, Scoring, ScoringReport
from cluster.pools.scoring_monitor import FOLDER, ScoringMonitor
from cluster.runtime.calls import Worker, gather, put
from cluster.runtime.spawn import kill, spawn
from configs.checks.rewards import runtime_env
from configs.load import load_config
from configs.schema import RewardConfig
from rl.advantage.combine import RewardTerm
from rl.advantage.filters import FilterResult, filter_group
from rl.advantage.scores import join
from rl.errors import RewardError
from rl.measure.metrics import check_name
from rl.types import ScoredGroup, Scores
from tests.reference.faulty import UnpicklableError
from tests.reference.groups import make_chain
from tests.reference.rewards import make_view

pytestmark = pytest.mark.ray

HERE = "tests.reference.faulty"
DEADLINE_S = 4.0
PATIENCE_S = 120.0
NUM = 12


def start(rewards: dict[str, RewardConfig], envs: dict[str, dict[str, object]] | None = None) -> Worker:
    config = replace(load_config("tiny"), deterministic=False, rewards=rewards, deadline_s=PATIENCE_S)
    kwargs = {"config": config, "envs": envs or {}}
    worker = spawn(Scoring, "scoring-0", num_cpus=0.05, max_concurrency=100, kwargs=kwargs)
    gather([worker.call("setup")], deadline_s=PATIENCE_S)
    return worker


@dataclass
class Bench:
    """A scoring actor of one reward with two replicas, and the log of what they scored."""

    scoring: Worker
    log: Path

    def score(self, group: str, texts: dict[int, str] | None = None, num: int = NUM) -> list[Scores]:
        """Send chains ``group/0`` to ``group/<num - 1>`` at once; those in ``texts`` misbehave."""
        calls = []
        for index in range(num):
            view = make_view((texts or {}).get(index, "fine"), chain_id=f"{group}/{index}")
            calls.append(self.scoring.call("score", [view.with_pictures(put)]))
        return [answer["mine"] for (answer,) in gather(calls, deadline_s=PATIENCE_S)]

    def report(self) -> ScoringReport:
        (report,) = gather([self.scoring.call("report")], deadline_s=PATIENCE_S)
        assert isinstance(report, ScoringReport)
        return report

    def counts(self) -> PoolCounts:
        return self.report().counts["mine"]

    def scored(self, group: str) -> Counter[int]:
        """How often each chain of a group was scored."""
        lines = [line.rpartition("/") for line in self.log.read_text().splitlines()]
        return Counter(int(index) for name, _, index in lines if name == group)


@pytest.fixture(scope="module")
def bench(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    log = tmp_path_factory.mktemp("faults") / "scored.txt"
    reward = RewardConfig(
        target=f"{HERE}:FaultyReward",
        options={"log": str(log), "takes_s": 0.05},
        num_workers=2,
        batch_size=4,
        deadline_s=DEADLINE_S,
    )
    scoring = start({"mine": reward})
    yield Bench(scoring, log)
    kill(scoring)


def check(answers: list[Scores], *, lost: dict[int, str]) -> None:
    """All chains have their scores, but for those in ``lost``, which have a reason that says so."""
    assert [index for index, one in enumerate(answers) if not one.valid[0]] == sorted(lost)
    for index, one in enumerate(answers):
        if index in lost:
            assert lost[index] in one.reasons[0]
        else:
            assert one.values.tolist() == [float(index)]


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_a_replica_that_is_lost_once_costs_nothing(bench: Bench, fault: str) -> None:
    bench.counts()
    answers = bench.score(f"once-{fault}", {5: f"{fault}_once"})
    check(answers, lost={})
    assert bench.scored(f"once-{fault}") == Counter(range(NUM))
    counts = bench.counts()
    assert (counts.num_replaced, counts.num_chains) == (1, NUM)
    assert 1 <= counts.num_redone <= 8  # what the lost replica had in hand, 2 batches of 4 at most


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("kill", "the worker process on host"),
        ("hang", f"no answer within {DEADLINE_S:g} s (rewards.mine.deadline_s)"),
    ],
)
def test_a_chain_that_no_replica_survives_is_given_up_alone(bench: Bench, fault: str, reason: str) -> None:
    bench.counts()
    begin = time.monotonic()
    answers = bench.score(f"always-{fault}", {5: fault})
    assert time.monotonic() - begin < 60
    check(answers, lost={5: reason})
    assert "2 attempts" in answers[5].reasons[0]
    assert bench.scored(f"always-{fault}") == Counter(set(range(NUM)) - {5})
    assert bench.counts().num_replaced == 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("nan", "score is nan, not a finite number"),
        ("few", "0 scores for 1 chains"),
        ("raise", "UnpicklableError: always-raise/5 has code 14"),
        ("exit", "SystemExit: "),
    ],
)
def test_a_reward_that_lies_or_raises_costs_its_chain(bench: Bench, fault: str, reason: str) -> None:
    bench.counts()
    answers = bench.score(f"always-{fault}", {5: fault})
    check(answers, lost={5: reason})
    counts = bench.counts()
    assert (counts.num_replaced, counts.num_redone) == (0, 0)
    assert counts.busy_s > 0
    if fault != "nan":  # those beside it in a batch are not asked about again
        assert bench.scored(f"always-{fault}") == Counter(set(range(NUM)) - {5})


def test_the_exception_indeed_does_not_travel() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(UnpicklableError("a", 1))


@pytest.mark.parametrize(
    ("on_failure", "weight", "result", "num_left"),
    [
        ("drop_chain", 1.0, FilterResult.KEPT, NUM - 1),
        ("drop_group", 1.0, FilterResult.INVALID, 0),
        ("monitor_only", 0.0, FilterResult.KEPT, NUM),
        ("raise", 1.0, None, 0),
    ],
)
def test_each_fault_ends_as_its_policy_says(
    bench: Bench, on_failure: str, weight: float, result: FilterResult | None, num_left: int
) -> None:
    name = f"policy-{on_failure}"
    group = ScoredGroup(
        group_id=name,
        prompt_id=name,
        chains=tuple(make_chain(name, index) for index in range(NUM)),
        scores={
            "mine": join("mine", bench.score(name, {5: "raise"})),
            "other": join("other", bench.score(f"{name}-other")),
        },
        seconds={},
    )
    mine = RewardConfig(on_failure=on_failure, weight=weight)  # type: ignore[arg-type]
    config = replace(load_config("tiny"), rewards={"mine": mine, "other": RewardConfig()})
    blocks = tuple(config.chain)
    terms = {key: RewardTerm(weight=one.weight, blocks=blocks) for key, one in config.rewards.items()}
    if result is None:
        with pytest.raises(RewardError, match=f"reward mine, {name}/5: UnpicklableError: {name}/5 has code"):
            filter_group(group, config, terms)
    else:
        filtered = filter_group(group, config, terms)
        assert (filtered.result, len(filtered.group.chains), filtered.num_invalid) == (result, num_left, 1)


def test_an_author_is_told_once_with_the_chain(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench.report()
    monitor = ScoringMonitor(bench.scoring, tmp_path)
    with caplog.at_level(logging.ERROR, logger="cluster.pools.scoring_monitor"):
        bench.score("fine")
        monitor.listen()
        assert not caplog.records
        assert not list(tmp_path.iterdir())
        bench.score("told", dict.fromkeys(range(8), "bug") | {9: "word"})
        monitor.listen()
        bench.score("told-again", {0: "bug"})
        monitor.listen()
    said = sorted(record.getMessage() for record in caplog.records)
    assert len(said) == 2
    (bug,) = (text for text in said if "ValueError: no such thing as told/" in text)
    assert bug.startswith("reward mine failed on told/")
    assert "Traceback (most recent call last)" in bug
    assert 'raise ValueError(f"no such thing as {chain.chain_id}")' in bug
    assert sum("reward mine failed on told/9" in text and "score is a str" in text for text in said) == 1
    folders = sorted((tmp_path / FOLDER).iterdir())
    assert len(folders) == EXAMPLES + 1
    record = json.loads((folders[0] / "failure.json").read_text())
    assert record["reward"] == "mine"
    assert record["chain_id"].startswith("told/")
    assert record["scores"]["mine"] == {"value": None, "missing": False, "reason": record["reason"]}
    assert (folders[0] / "degraded.png").stat().st_size > 0
    metrics = monitor.metrics()
    assert metrics["reward/mine/num_replaced"] == 0.0
    assert metrics["time/reward_busy_s"] == metrics["time/reward/mine/busy_s"] > 0
    assert metrics["time/reward/mine/queue_wait_s"] > 0
    for name in metrics:
        check_name(name)


def test_a_pool_that_cannot_be_refilled_answers_all_the_same(ray_cluster: None, tmp_path: Path) -> None:
    options = {"log": str(tmp_path / "scored.txt"), "takes_s": 0.05}
    reward = RewardConfig(target=f"{HERE}:FragileReward", options=options, batch_size=2)
    pool = Bench(start({"mine": reward}), tmp_path / "scored.txt")
    try:
        answers = pool.score("fragile", {2: "kill"})
        assert not answers[2].valid[0]
        lost = [one for one in answers if not one.valid[0]]
        assert all("the license server is gone" in one.reasons[0] for one in lost)
        assert len(lost) + sum(pool.scored("fragile").values()) == NUM
        (late,) = pool.score("late", num=1)
        assert late.reasons[0].startswith(
            "no replica is left, and none can be started: rewards.mine: setup failed"
        )
    finally:
        kill(pool.scoring)


def make_environment(folder: Path) -> Path:
    """A virtual environment that has all of ours and one module more."""
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "ours.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    (site / "only_in_this_environment.py").write_text("NUMBER = 40\n")
    return folder / "bin" / "python"


def test_rewards_work_side_by_side_each_in_its_environment(ray_cluster: None, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env")
    slow = RewardConfig(target=f"{HERE}:SlowReward", options={"takes_s": 1.0})
    own = RewardConfig(
        target=f"{HERE}:EnvReward", env={"python": str(python), "env_vars": {"FROM_CONFIG": 2}}
    )
    rewards = {"first": slow, "second": slow, "own": own}
    scoring = start(rewards, {name: runtime_env(reward) for name, reward in rewards.items()})
    try:
        call = scoring.call("score", [make_view().with_pictures(put)])
        ((answers,),) = gather([call], deadline_s=PATIENCE_S)
    finally:
        kill(scoring)
    begun = {name: float(answers[name].values[0]) for name in rewards}
    assert abs(begun["first"] - begun["second"]) < 1.0
    assert begun["own"] == 42.0
