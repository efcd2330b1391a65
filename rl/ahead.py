"""Sampling ahead: which prompts are drawn for which step, and how far sampling may run before training.

Pure bookkeeping, without Ray or time. A step is *open* from its first draw until it is taken for training. At most
``1 + max_ahead`` steps are open, and a step is opened when the weights of the step ``max_ahead`` before it are with
the rollout workers. So whatever is trained was written by weights that are at most ``max_ahead`` versions old:
nothing has to be thrown away for its age.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One prompt drawn for one step."""

    number: int
    """Draws before it: groups of a step are trained in this order."""
    position: int
    """In the training source."""
    step: int
    """Training step that it is for."""
    grpo_step: int
    """How far training is, for the choice of random denoising steps; follows from positions alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPosition:
    """Which prompts have been trained: what a checkpoint keeps of the data."""

    position: int = 0
    """Prompts drawn so far."""
    again: tuple[int, ...] = ()
    """Those of them that no finished step has used: they are drawn first when the run goes on."""


@dataclass(slots=True)
class _OpenStep:
    draws: list[Draw] = field(default_factory=list)
    num_pending: int = 0
    """Draws that are neither kept nor dropped yet."""
    num_owed: int = 0
    """Refills that wait until the step is the next to be trained."""


class SamplingAhead:
    """Draws of the open steps.

    Args:
        size: Groups that a step trains.
        max_refills: Further draws a step may make, in units of ``size``.
        max_ahead: Steps that may be open beside the one that is collected; ``max_staleness``.
        is_ordered: Draw refills only for the step that is collected, so that which prompt goes to which step does not
            depend on what is answered first.
        step: First step that is trained.
        num_steps: No step from this one on is opened.
        start: Where the data are.
    """

    def __init__(
        self,
        *,
        size: int,
        max_refills: int,
        max_ahead: int,
        is_ordered: bool,
        step: int,
        num_steps: int,
        start: DataPosition,
    ) -> None:
        self._size, self._max_draws = size, (1 + max_refills) * size
        self._max_ahead, self._is_ordered = max_ahead, is_ordered
        self.step = step
        """The step that is collected: the number of steps taken, counted from the run's first."""
        self._num_steps, self._next_step = num_steps, step
        self._position, self._again = start.position, deque(start.again)
        self._number = 0
        self._open: dict[int, _OpenStep] = {}

    def open(self) -> list[Draw]:
        """Open the steps that may be; call it when the weights of ``step`` updates are with the rollout workers.

        Returns:
            What is to be sampled now.
        """
        draws = self._owed(self.step)
        while self._next_step < min(self.step + self._max_ahead + 1, self._num_steps):
            self._open[self._next_step] = _OpenStep()
            draws += self._draw(self._next_step, self._size)
            self._next_step += 1
        return draws

    def keep(self, draw: Draw) -> None:
        """Note that a draw's group is worth training."""
        self._open[draw.step].num_pending -= 1

    def drop(self, draw: Draw) -> list[Draw]:
        """Note that a draw's group is not; return what is to be sampled in its place, if anything."""
        opened = self._open[draw.step]
        opened.num_pending -= 1
        opened.num_owed += len(opened.draws) + opened.num_owed < self._max_draws
        return [] if self._is_ordered and draw.step != self.step else self._owed(draw.step)

    @property
    def is_complete(self) -> bool:
        """Whether the step that is collected has all it will get."""
        opened = self._open.get(self.step)
        return opened is not None and not opened.num_pending and not opened.num_owed

    def take(self) -> list[Draw]:
        """Hand over the step that is complete, with its draws in order; the next one is collected from now on.

        Raises:
            ValueError: If it is not complete.
        """
        if not self.is_complete:
            raise ValueError(f"step {self.step} is taken before its groups are there")
        draws = self._open.pop(self.step).draws
        self.step += 1
        return draws

    @property
    def data_position(self) -> DataPosition:
        """Where a run goes on that has trained what was taken, and nothing else."""
        untrained = [draw.position for opened in self._open.values() for draw in opened.draws]
        return DataPosition(position=self._position, again=(*sorted(untrained), *self._again))

    def _owed(self, step: int) -> list[Draw]:
        if step not in self._open:
            return []
        num, self._open[step].num_owed = self._open[step].num_owed, 0
        return self._draw(step, num)

    def _draw(self, step: int, num: int) -> list[Draw]:
        positions = [self._next_position() for _ in range(num)]
        draws = [
            Draw(number=number, position=position, step=step, grpo_step=positions[0] // self._size)
            for number, position in enumerate(positions, start=self._number)
        ]
        self._number += num
        opened = self._open[step]
        opened.draws += draws
        opened.num_pending += num
        return draws

    def _next_position(self) -> int:
        if self._again:
            return self._again.popleft()
        self._position += 1
        return self._position - 1
