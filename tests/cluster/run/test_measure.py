"""What is evaluated: averages go out before it, and training weights come back before sampling goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from cluster.pools.gpu_sharing import GpuSharing
from cluster.run.session import Session
from configs.load import load_config


class World:
    """Publisher, evaluator and run directory in one; writes down what was asked of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def publish_and_prove(self, *, averaged: bool = False) -> dict[str, float]:
        self.calls.append("publish averages" if averaged else "publish")
        return {}

    def policies(self, model: str, *, step: int) -> None:
        self.calls.append(f"evaluate {model} {step}")

    def write(self, run: object) -> dict[str, int]:
        return {"step": len(self.calls)}


def session_in(world: World, *, every: int) -> Session:
    config = load_config("tiny", ["num_steps=4", "save_every=100"])
    config = replace(config, eval=replace(config.eval, every=every))
    anything = cast(Any, world)
    return Session(
        config=config,
        run=anything,
        workers=anything,
        collector=anything,
        publisher=anything,
        evaluator=anything,
        monitor=anything,
        gpu_sharing=GpuSharing(),
    )


@pytest.mark.parametrize(("step", "is_due"), [(1, False), (2, True)])
def test_evaluation_in_training_borrows_the_rollout_workers(step: int, is_due: bool) -> None:
    world = World()
    session_in(world, every=2).after_step(step)
    assert world.calls == ["publish averages", f"evaluate grpo {step}", "publish"] * is_due


def test_the_last_evaluation_leaves_what_it_measured() -> None:
    world = World()
    assert session_in(world, every=0).measure(4) == {"step": 2}
    assert world.calls == ["publish averages", "evaluate grpo 4"]
