"""The loop with fakes behind its ports: order of calls, what is logged, where it starts."""

import numpy as np
import pytest

from configs.schema import BlockConfig, Config, RewardConfig
from rl.advantage.combine import RewardTerm
from rl.loop import train
from rl.measure.metrics import check_name
from rl.ports import Ports
from rl.types import Chain, Finish, ScoredGroup, Scores, SegmentInfo
from tests.reference.policy_configs import policy_config

CONFIG = Config(
    num_steps=3,
    prompts_per_step=2,
    group_size=2,
    chain={"answer": BlockConfig(kind="text", policy="text", max_tokens=8)},
    policies={"text": policy_config()},
    rewards={"length": RewardConfig(target="somewhere:Length")},
)


def chain(group_id: str, index: int) -> Chain:
    segment = SegmentInfo(
        policy="text", handle=None, blocks=("answer",), num_actions={"answer": 3}, shape_key=(), length=5
    )
    return Chain(
        chain_id=f"{group_id}/{index}",
        group_id=group_id,
        index=index,
        finish=Finish.STOP,
        error="",
        text="<answer>x</answer>",
        segments=(segment,),
        pictures={},
        versions={"text": (0, 0)},
    )


class FakeWorld:
    """Collector, learners, publisher and sink in one; writes down what was asked of it."""

    def __init__(self):
        self.calls = []
        self.logged = {}
        self.has_groups = True

    def next(self):
        self.calls.append("collect")
        groups = []
        for i in range(CONFIG.prompts_per_step if self.has_groups else 0):
            scores = Scores(
                name="length",
                values=np.array([0.0, 1.0], np.float32),
                valid=np.ones(2, bool),
                missing=np.zeros(2, bool),
                reasons=("", ""),
            )
            chains = (chain(f"p{i}#0", 0), chain(f"p{i}#0", 1))
            groups.append(
                ScoredGroup(
                    group_id=f"p{i}#0",
                    prompt_id=f"p{i}",
                    chains=chains,
                    scores={"length": scores},
                    seconds={"rollout": 0.0, "reward": 0.0},
                )
            )
        return groups, {"group/kept_frac": 1.0}

    def update_all(self, batches):
        self.calls.append("update")
        if not self.has_groups:
            assert not batches
            return {}
        (batch,) = batches["text"]
        assert batch.num_actions == 12
        by_item = {i.item_id: i.advantages for micro in batch.micro_batches[0] for i in micro.items}
        assert sum(a[0] for a in by_item.values()) == pytest.approx(0.0, abs=1e-6)
        assert any(a[0] > 0 for a in by_item.values())
        return {"loss/text/total": 0.5}

    def publish(self):
        self.calls.append("publish")

    def prove(self):
        self.calls.append("prove")
        return {"weights/text/canary_nats/max": 0.5 * self.calls.count("prove")}

    def log(self, step, metrics):
        self.logged[step] = metrics


TERMS = {"length": RewardTerm(weight=1.0, blocks=("answer",))}


def run(start: int, has_groups: bool = True):
    world, done = FakeWorld(), []
    world.has_groups = has_groups
    ports = Ports(collector=world, learners=world, publisher=world, sink=world)
    train(CONFIG, start=start, ports=ports, terms=TERMS, after_step=done.append)
    return world, done


def test_nothing_is_trained_on_before_the_weights_that_wrote_it_are_proved():
    world, done = run(0)
    assert world.calls == ["publish", *["collect", "prove", "update", "publish"] * 3, "prove"]
    assert done == [1, 2, 3]
    assert [world.logged[step]["weights/text/canary_nats/max"] for step in range(3)] == [0.5, 1.0, 1.5]


def test_it_goes_on_from_a_checkpoint():
    world, done = run(2)
    assert world.calls == ["publish", "collect", "prove", "update", "publish", "prove"]
    assert sorted(world.logged) == [2]
    assert done == [3]


def test_every_logged_name_is_on_the_list():
    world, _ = run(0)
    for name in world.logged[0]:
        check_name(name)
    assert world.logged[0]["advantage/abs/mean"] > 0


def test_a_step_without_anything_to_train_is_logged_and_the_next_one_comes():
    world, done = run(0, has_groups=False)
    assert world.calls == ["publish", *["collect", "prove", "update", "publish"] * 3, "prove"]
    assert done == [1, 2, 3]
    assert [world.logged[step]["weights/text/canary_nats/max"] for step in range(3)] == [0.5, 1.0, 1.5]
    assert world.logged[0]["group/kept_frac"] == 1.0
    assert "advantage/abs/mean" not in world.logged[0]
