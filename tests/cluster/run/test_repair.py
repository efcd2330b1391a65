"""Lost rollout workers are replaced where nothing else is lost: new weights first, then the runners hear of them."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.pools.chain_runner import Pools
from cluster.run import repair as module
from cluster.run.repair import RolloutRepair
from cluster.run.workers import RunWorkers
from cluster.runtime.calls import Worker
from configs.load import load_config
from rl.errors import WorkerLostError

LOST = WorkerLostError("rollout-text-1.generate: the worker process ended")


class World:
    """Everything the repair asks for; writes down what was done, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, gone: set[str], has_room: bool = True) -> None:
        self.done: list[str] = []
        self.published = {"text": (3, False), "image": (3, False)}
        monkeypatch.setattr(module, "lost_among", lambda workers, *, within_s: gone)
        monkeypatch.setattr(module, "has_room", lambda num_gpus: has_room)
        monkeypatch.setattr(module, "locate", lambda new, *, deadline_s: {w.name: "10.0.0.9" for w in new})
        monkeypatch.setattr(module, "gather", lambda calls, *, deadline_s: None)
        monkeypatch.setattr(
            module, "spawn_rollout", lambda name, i, *_: self.worker(f"rollout-{name}-{i}", "new")
        )
        text = [self.worker(f"rollout-text-{i}") for i in range(2)]
        self.pools = Pools(
            rollouts={"text": text, "image": [self.worker("rollout-image-0")]},
            scoring=self.worker("scoring-0"),
        )
        self.workers = RunWorkers(
            pools=self.pools,
            picture_metrics=self.worker("metrics-0"),
            learners={},
            reserved=cast(Any, SimpleNamespace(num_gpus=lambda _: 0.0)),
        )
        self.hosts = {"rollout-text-1": "10.0.0.3"}
        session = SimpleNamespace(
            config=load_config("tiny"),
            sources={"text": None, "image": None},
            workers=self.workers,
            runners=[self.worker("runner-0")],
            publisher=self,
            hosts=self.hosts,
        )
        self.repair = RolloutRepair(cast(Any, session))

    def worker(self, name: str, mark: str = "old") -> Worker:
        def call(method: str) -> Any:
            return SimpleNamespace(
                options=lambda **_: SimpleNamespace(
                    remote=lambda *_: self.done.append(f"{mark} {name}.{method}")
                )
            )

        class Actor:
            def __getattr__(self, method: str) -> Any:
                return call(method)

        return Worker(name=name, actor=cast(Any, Actor()))

    def forget(self, policy: str) -> None:
        del self.published[policy]

    def publish(self) -> None:
        self.done.append(f"publish, known {sorted(self.published)}")


def test_a_lost_rollout_worker_is_replaced_with_the_current_weights(monkeypatch, caplog):
    world = World(monkeypatch, gone={"rollout-text-1"})
    kept, lost = world.pools.rollouts["text"]
    world.repair(LOST)
    assert world.done == ["new rollout-text-1.setup", "publish, known ['image']", "old runner-0.use"]
    assert world.pools.rollouts["text"][0] is kept
    assert world.pools.rollouts["text"][1] is not lost
    assert world.hosts["rollout-text-1"] == "10.0.0.9"
    assert "rollout-text-1 on host 10.0.0.3 was lost and is replaced" in caplog.text


@pytest.mark.parametrize("gone", [set(), {"scoring-0"}, {"rollout-text-1", "runner-0"}])
def test_other_losses_are_left_to_the_whole_run(monkeypatch, gone):
    world = World(monkeypatch, gone=gone)
    with pytest.raises(WorkerLostError, match="rollout-text-1"):
        world.repair(LOST)
    assert world.done == []


def test_without_room_nothing_is_replaced(monkeypatch):
    world = World(monkeypatch, gone={"rollout-text-1"}, has_room=False)
    with pytest.raises(WorkerLostError):
        world.repair(LOST)
