"""Supervised loop of the cold start: any module that returns its loss, any stream of batches.

It runs in one process, or in each rank of a process group that somebody else made (Ray Train), and knows
nothing of the policies it trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from actors.shared import deepspeed_engine as ds
from actors.shared.engine_checkpoint import LATEST, load_checkpoint, save_checkpoint
from rl.errors import DivergedError

Report = Callable[[int, Mapping[str, float]], None]
"""Called on every rank with the number of steps done and this rank's ``loss``, ``grad_norm``, ``lr``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedSpec:
    """How long and how fast to learn."""

    num_steps: int
    """Optimizer steps."""
    learning_rate: float
    """Peak; it rises linearly over ``warmup_frac`` and falls to ``final_frac`` of itself along a cosine."""
    warmup_frac: float = 0.05
    """Share of the steps, 0..1."""
    final_frac: float = 0.02
    """Last learning rate over the peak, 0..1."""
    report_every: int = 1
    """Steps between reports; the last step is always reported."""
    checkpoint_dir: Path | None = None
    """Where checkpoints are written and, if there is one, resumed from."""
    save_every: int = 0
    """Steps between checkpoints; 0 writes none."""

    def rate(self, step: int) -> float:
        """Return the learning rate of step ``0 .. num_steps - 1``."""
        warmup = max(1, round(self.warmup_frac * self.num_steps))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        done = (step + 1 - warmup) / max(1, self.num_steps - warmup)
        falling = 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * (self.final_frac + (1 - self.final_frac) * falling)


def rows_of_rank(
    num_examples: int, *, batch_size: int, generator: torch.Generator, rank: int = 0, world: int = 1
) -> Iterator[Tensor]:
    """Yield this rank's examples of each batch, ``[n]`` int64, without end: every one once before any comes again.

    Args:
        num_examples: There are.
        batch_size: Examples of a batch over all ranks; rounded up to as many for each.
        generator: Of the order; equal on all ranks.
        rank: This worker; ranks take different examples of the same order.
        world: Number of workers.
    """
    num = world * -(-batch_size // world)
    order = torch.empty(0, dtype=torch.int64)
    while True:
        while len(order) < num:
            order = torch.cat([order, torch.randperm(num_examples, generator=generator)])
        yield order[rank:num:world]
        order = order[num:]


def run_supervised(
    spec: SupervisedSpec,
    *,
    module: nn.Module,
    batches: Iterator[Mapping[str, Tensor]],
    report: Report,
) -> None:
    """Train ``module`` in place, on the CPU.

    Args:
        spec: How long and how fast.
        module: ``forward(batch)`` returns the scalar mean loss of a batch. Equal on every rank.
        batches: This rank's share, of equal size on every rank; at least ``num_steps`` of them. On resume the
            first ones are drawn and thrown away.
        report: Told of the progress.

    Raises:
        DivergedError: On all ranks, if loss or gradient is not finite on any.
    """
    ds.join_process_group(torch.device("cpu"))
    engine = ds.make_engine(
        module,
        zero_stage=1,  # weights stay whole, so that the caller can use the module afterwards
        learning_rate=spec.learning_rate,
        weight_decay=0.0,
        max_grad_norm=1.0,
        dtype="float32",
    )
    start = _resume(engine, spec)
    for index, batch in enumerate(islice(batches, start, spec.num_steps), start):
        loss = engine(batch)
        ds.backward(engine, loss)
        rate = spec.rate(index)
        grad_norm = ds.step(engine, rate)
        done = index + 1
        if grad_norm is None:
            raise DivergedError(
                f"supervised step {index}: loss or gradient is not finite; lower the learning rate "
                f"(now {rate:.3g})"
            )
        if done % spec.report_every == 0 or done == spec.num_steps:
            report(done, {"loss": float(loss.detach()), "grad_norm": grad_norm, "lr": rate})
        if spec.checkpoint_dir and spec.save_every and done % spec.save_every == 0:
            save_checkpoint(engine, spec.checkpoint_dir, f"step-{done}", {"done": done})


def _resume(engine: object, spec: SupervisedSpec) -> int:
    """Load the newest checkpoint, if there is one, and return the number of steps done."""
    if spec.checkpoint_dir is None or not (spec.checkpoint_dir / LATEST).exists():
        return 0
    return int(load_checkpoint(engine, spec.checkpoint_dir, None)["done"])
