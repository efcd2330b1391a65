"""The training loop: short enough to read at once, and ignorant of Ray, vLLM and DeepSpeed.

Everything remote hides behind a port (``rl.ports``), so this very function runs in a unit test with fakes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from configs.schema import Config
from rl.advantage.assign import assign_advantages
from rl.advantage.batching import build_train_batches
from rl.advantage.combine import RewardTerm
from rl.measure.metrics import advantage_metrics
from rl.ports import Ports
from rl.spans import span
from rl.types import Metrics


def train(
    config: Config,
    *,
    start: int,
    ports: Ports,
    terms: Mapping[str, RewardTerm],
    after_step: Callable[[int], None],
) -> None:
    """Run GRPO from step ``start`` to ``config.num_steps``.

    A step for which the collector finds nothing to train on changes no weight and is logged as any other. Weights are
    proved while what they write is collected, and nothing is trained on before.

    Args:
        config: The run.
        start: Steps already done; 0, or a checkpoint's.
        ports: The collector of scored groups, the learners, the publisher of weights, the metric sink.
        terms: What the combination must know of each reward.
        after_step: Called with the number of steps done: checkpoint, evaluate.
    """
    ports.publisher.publish()
    for step in range(start, config.num_steps):
        metrics: Metrics = {}
        with span("step", step=step):
            with stopwatch(metrics, "time/step_s"):
                with stopwatch(metrics, "time/collect_s"), span("collect"):
                    groups, collected = ports.collector.next()
                with span("build batches"):
                    advantages = assign_advantages(groups, terms, tuple(config.chain), config.advantage)
                    batches = build_train_batches(groups, advantages, config)
                with stopwatch(metrics, "time/prove_s"), span("prove"):
                    metrics |= ports.publisher.prove()
                with stopwatch(metrics, "time/update_s"), span("update"):
                    metrics |= ports.learners.update_all(batches)
                with stopwatch(metrics, "time/publish_s"), span("publish"):
                    ports.publisher.publish()
            with span("log"):
                ports.sink.log(step, metrics | collected | advantage_metrics(advantages))
            with span("after step"):
                after_step(step + 1)
    ports.publisher.prove()


@contextmanager
def stopwatch(metrics: Metrics, name: str) -> Iterator[None]:
    """Write the seconds of a block to ``metrics[name]``."""
    begin = time.perf_counter()
    yield
    metrics[name] = time.perf_counter() - begin
