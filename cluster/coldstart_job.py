"""What a Ray Train worker of the cold start runs.

Light at import: Ray Train's controller and the progress board import this module too, and have no use for torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.calls import Worker, gather

EXPERT = "expert"
"""Kind of the job that fits the learned expert, and folder of its weights."""
LESSONS = {"token": "teach_text", "denoising": "teach_image", EXPERT: "teach_expert"}
"""Function of ``actors.coldstart`` by kind."""


class Board:
    """Where a job's worker leaves how far it is, and the driver's progress bar looks."""

    def __init__(self) -> None:
        self._done = 0

    def write(self, done: int) -> None:
        """Set the number of steps done."""
        self._done = done

    def read(self) -> int:
        """Return it."""
        return self._done


def run_job(settings: dict[str, Any]) -> None:
    """Be one worker of a job: hand rank and report to the lesson."""
    import ray.train

    lessons = importlib.import_module("actors.coldstart")
    context = ray.train.get_context()
    board: Worker = settings["board"]

    def report(step: int, metrics: Mapping[str, float]) -> None:
        if context.get_world_rank() == 0:
            gather([board.call("write", step)], deadline_s=settings["config"].deadline_s)
        # Ray Train's controller takes a report every second or two, and the worker waits for it.
        if step == settings["num_steps"]:
            ray.train.report({"step": step, **metrics})

    lesson = lessons.Lesson(
        config=settings["config"],
        policy=settings["policy"],
        directory=Path(settings["directory"]),
        made=Path(settings["made"]),
        work=Path(settings["work"]),
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        report=report,
    )
    getattr(lessons, LESSONS[settings["kind"]])(lesson)
