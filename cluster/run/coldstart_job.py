"""Cold-start job: the actor that has Ray Train run it, and what Ray Train's workers do.

Light at import: Ray Train's controller imports this module too, and has no use for torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.runtime.calls import Worker, gather
from rl.errors import LearnerError, VlcotError
from rl.targets import load_target

EXPERT = "expert"
"""Name of the job that fits the learned expert, and folder of its weights."""
EXPERT_TRAINER = "actors.coldstart.restoration.expert_trainer:train_expert"


class ColdstartJob:
    """Has Ray Train run a job and knows how far it is: an actor, so that Ctrl-C can end it.

    ``TorchTrainer.fit`` cannot be told to stop. In a thread of the driver it would still be inside Ray when the
    driver leaves Ray, which crashes the process.
    """

    def __init__(self) -> None:
        self._progress = (0, "")

    def fit(self, settings: dict[str, Any], num_workers: int, num_gpus: float, storage: Path) -> None:
        """Run the job to its end.

        Args:
            settings: What :func:`run_job` takes.
            num_workers: Ray Train workers, data-parallel.
            num_gpus: Of each of them.
            storage: Where Ray Train keeps its own records.

        Raises:
            VlcotError: What a worker raised, as itself where it is of our own kind.
        """
        from ray.train import RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchTrainer

        trainer = TorchTrainer(
            run_job,
            train_loop_config=settings,
            scaling_config=ScalingConfig(
                num_workers=num_workers,
                use_gpu=num_gpus > 0,
                resources_per_worker={"CPU": 0.5} | ({"GPU": num_gpus} if num_gpus else {}),
            ),
            run_config=RunConfig(name=settings["name"], storage_path=str(storage)),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise _cause(error, settings["name"]) from error

    def write(self, done: int, note: str = "") -> None:
        """Set the number of steps done, and what is done meanwhile."""
        self._progress = (done, note)

    def read(self) -> tuple[int, str]:
        """Return both."""
        return self._progress


def _cause(error: Exception, name: str) -> BaseException:
    """Return what one of the job's workers raised, as itself where it is of our own kind."""
    failures = list(getattr(error, "worker_failures", {}).values())
    ours = next((f for f in failures if isinstance(f, VlcotError)), None)
    if ours is not None:
        return ours
    return LearnerError(f"cold start of {name} failed: {failures[0] if failures else error}")


def run_job(settings: dict[str, Any]) -> None:
    """Be one worker of a job: give its function a task with rank and report."""
    import ray.train

    from actors.coldstart.task import ColdstartTask

    context = ray.train.get_context()
    job: Worker = settings["job"]

    def write(*progress: object) -> None:
        if context.get_world_rank() == 0:
            gather([job.call("write", *progress)], deadline_s=settings["config"].deadline_s)

    def report(step: int, metrics: Mapping[str, float]) -> None:
        write(step)
        # Ray Train's controller takes a report every second or two, and the worker waits for it.
        if step == settings["num_steps"]:
            ray.train.report({"step": step, **metrics})

    task = ColdstartTask(
        config=settings["config"],
        policy=settings["policy"],
        directory=Path(settings["directory"]),
        made=Path(settings["made"]),
        work=Path(settings["work"]),
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        report=report,
        note=lambda what: write(0, what),
    )
    load_target(settings["trainer"], key=f"cold start of {settings['name']}")(task)
