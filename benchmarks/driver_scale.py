"""What the driver, the chain runner and the scoring actor spend on a chain, in processor time, by number of workers.

    python -m benchmarks.driver_scale

Rollout workers sleep a second an answer; each has one group of 8 a step. They share eight processes, which the
others cannot tell: to them it is so many actors. Processor time does not depend on what else the machine does.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import ray

from benchmarks.sampling_ahead import (
    DEADLINE_S,
    GROUP_SIZE,
    Stage,
    config_of,
    run,
    runner_of,
    start_scoring,
    writers,
)
from cluster.runtime.calls import Worker, gather
from cluster.runtime.spawn import kill

NUM_PROCESSES = 8
NUM_STEPS = 3
SIZES = (64, 128, 256, 512)


def processor_s(workers: Sequence[Worker]) -> list[float]:
    """Return the processor seconds of each worker's process so far."""
    return list(
        gather([w.call_function(lambda _: time.process_time()) for w in workers], deadline_s=DEADLINE_S)
    )


def main() -> None:
    """Measure and print the table."""
    scoring, processes = start_scoring(), writers(NUM_PROCESSES, lengths="equal")
    print(
        "| rollout workers | chains a step | driver, ms a chain | runner, ms a chain | scoring, ms a chain |"
    )
    print("|---|---|---|---|---|")
    for size in SIZES:
        config = config_of(0, NUM_STEPS, num_groups=size)
        workers = list(itertools.islice(itertools.cycle(processes), size))
        runner = runner_of(config, workers, scoring)
        actors = [runner, scoring]
        before, driver = processor_s(actors), time.process_time()
        run(config, runner, Stage(processes, 0.0, "between", []))
        spent = [time.process_time() - driver]
        spent += [after - start for after, start in zip(processor_s(actors), before, strict=True)]
        num_chains = NUM_STEPS * size * GROUP_SIZE
        shown = " | ".join(f"{1e3 * seconds / num_chains:.2f}" for seconds in spent)
        print(f"| {size} | {size * GROUP_SIZE} | {shown} |", flush=True)
        kill(runner)
    ray.shutdown()


if __name__ == "__main__":
    main()
