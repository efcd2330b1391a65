"""What is evaluated: averages go out before it, and training weights come back before sampling goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.run.alarms import AlarmWatch
from cluster.run.attempt import Attempt
from configs.load import load_config
from rl.ahead import DataPosition


class World:
    """Publisher, collector, evaluator and run directory in one; writes down what was asked of it."""

    def __init__(self) -> None:
        self.data_position = DataPosition()
        self.calls: list[str] = []

    def publish(self, *, averaged: bool = False) -> None:
        self.calls.append("publish averages" if averaged else "publish")

    def finish_proofs(self) -> None:
        self.calls.append("prove")

    def settle(self) -> None:
        self.calls.append("settle")

    def policies(self, model: str, *, step: int) -> None:
        self.calls.append(f"evaluate {model} {step}")

    def write(self, run: object) -> dict[str, Any]:
        return {"step": len(self.calls), "rows": {}}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        pass


def attempt_in(world: World, *, every: int) -> Attempt:
    config = load_config("tiny", ["num_steps=4", "save_every=100"])
    config = replace(config, eval=replace(config.eval, every=every))
    session = SimpleNamespace(config=config, publisher=world, evaluator=world, run=world, monitor=None)
    anything = cast(Any, world)
    return Attempt(
        session=cast(Any, session),
        collector=anything,
        watch=AlarmWatch(config=config, watched=(), steps=world, evaluations=world),
        remote_copy=anything,
        step=0,
        data=DataPosition(),
    )


@pytest.mark.parametrize(("step", "is_due"), [(1, False), (2, True)])
def test_evaluation_in_training_borrows_the_rollout_workers(step: int, is_due: bool) -> None:
    world = World()
    attempt_in(world, every=2).after_step(step)
    assert world.calls == ["settle", "publish averages", "prove", f"evaluate now {step}", "publish"] * is_due


def test_the_last_evaluation_leaves_what_it_measured() -> None:
    world = World()
    assert attempt_in(world, every=0).measure(4) == {"step": 3, "rows": {}}
    assert world.calls == ["publish averages", "prove", "evaluate now 4"]
