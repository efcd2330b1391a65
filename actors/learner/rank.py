"""Rank of a policy's learner: takes its share of each batch, updates, publishes, saves.

A plain class: the cluster layer spawns one process a rank and calls these methods. Every method but
``score`` below ZeRO stage 3 is collective: all ranks must call it, in the same order. It knows neither
Ray nor what kind of policy it trains.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from actors.learner.micro_batches import MicroBatchLoader, inputs_on, make_actions
from actors.learner.model import LearnerModel
from actors.learner.schedule import learning_rate
from actors.learner.sending import WeightSender
from actors.learner.spec import LearnerSpec
from actors.policies.base import PolicyBatch
from actors.shared import deepspeed_engine as ds
from actors.shared import gpu
from actors.weights.buckets import CPU, Bytes
from actors.weights.group import Backend
from actors.weights.ipc import SharedWeights
from configs.methods import NoCorrection
from rl.compat.torchvision import ensure_torchvision
from rl.errors import DivergedError, LearnerError
from rl.loss.actions import ActionScores
from rl.loss.aggregation import divisor
from rl.loss.policy_loss import LossSums, policy_loss
from rl.measure.metrics import merge
from rl.ports import Store
from rl.spans import span
from rl.types import Example, Floats, Manifest, MicroBatch, TrainBatch, UpdateStats


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerParts:
    """What a rank has once all ranks have met."""

    model: LearnerModel
    sender: WeightSender
    loader: MicroBatchLoader


class LearnerRank:
    """One data-parallel rank."""

    def __init__(self, spec: LearnerSpec) -> None:
        self.spec = spec
        self.version = 0
        """Weight version: +1 an ``update``; saved in checkpoints."""
        self._num_steps = 0
        self._device = torch.device("cuda", 0) if spec.config.num_gpus > 0 else CPU
        self._parts: LearnerParts | None = None

    # ------------------------------------------------------------------------ life

    def setup(self, master_addr: str, master_port: int, store: Store) -> None:
        """Join the process group, load the policy and shard it. Heavy; returns when all ranks have met.

        Raises:
            LearnerError: If the policy cannot be trained under the ZeRO stage.
        """
        spec = self.spec
        _prepare_process(spec)
        ds.start_process_group(
            rank=spec.rank,
            world_size=spec.world_size,
            master_addr=master_addr,
            master_port=master_port,
            device=self._device,
        )
        model = LearnerModel(spec, self._device)
        self._parts = LearnerParts(
            model=model,
            sender=WeightSender(spec, model),
            loader=MicroBatchLoader(model.policy, store, name=spec.policy_name),
        )

    @property
    def parts(self) -> LearnerParts:
        """What ``setup`` made.

        Raises:
            LearnerError: If it was not called.
        """
        if self._parts is None:
            raise LearnerError(f"policy {self.spec.policy_name}: rank {self.spec.rank} was not set up")
        return self._parts

    @property
    def model(self) -> LearnerModel:
        """What is trained."""
        return self.parts.model

    def close(self) -> None:
        """Leave the process group."""
        if self._parts is not None:
            self._parts.loader.close()
        ds.stop_process_group()

    def sleep(self) -> int:
        """Leave the GPU to others: everything this rank holds goes to the host. Only between steps.

        Returns:
            Bytes of GPU memory given back; 0 on the CPU, where there is nothing to give.
        """
        return gpu.freed(self._device, partial(self.model.move, is_asleep=True))

    def wake(self) -> None:
        """Come back to the GPU; the rank goes on as if it had not slept."""
        if self._device.type == "cuda":
            self.model.move(is_asleep=False)

    # ------------------------------------------------------------------------ learning

    @span("update")
    def update(self, batches: Sequence[TrainBatch]) -> list[UpdateStats]:
        """Make one optimizer step for each batch.

        Args:
            batches: The optimizer steps of one GRPO step, over all ranks; this rank takes its share.

        Returns:
            What this rank saw in each step. The ratio before the update is that of the first step only: it
            comes out of its own forward pass, when nothing has changed since the weights were published.

        Raises:
            DivergedError: On all ranks, if loss or gradient is not finite on any. No weight was changed by
                that step; the rank must not be used on.
        """
        with span("score before the update"):
            proximal = self._proximal(batches)
        stats = [
            self._optimizer_step(batch, proximal[index], is_first=index == 0)
            for index, batch in enumerate(batches)
        ]
        self.version += bool(batches)
        return stats

    @span("optimizer step")
    def _optimizer_step(
        self, batch: TrainBatch, proximal: Sequence[ActionScores | None], *, is_first: bool
    ) -> UpdateStats:
        name, engine = self.spec.policy_name, self.model.engine
        scale = self.spec.world_size / divisor(self.spec.config.loss.aggregation, batch)
        stats: list[UpdateStats] = []
        is_finite = True
        micros = self.parts.loader.collated(batch.micro_batches[self.spec.rank])
        for (micro, collated), before in zip(micros, proximal, strict=True):
            sums = self._micro_loss(batch, micro, collated, before)
            ds.backward(engine, sums.loss * scale)
            is_finite &= bool(torch.isfinite(sums.loss.detach()))
            stats.append(sums.stats(name, is_first=is_first))
        if ds.any_rank(not is_finite, self._device):
            raise self._diverged("the loss")
        rate = learning_rate(self.spec.config.learner, self._num_steps, self.spec.num_optimizer_steps)
        grad_norm = ds.step(engine, rate)
        if grad_norm is None:
            raise self._diverged("the gradient")
        self._num_steps += 1
        if self.model.average is not None:
            self.model.average.update()
        shared = {
            f"learner/{name}/grad_norm": (grad_norm, 1.0),
            f"learner/{name}/lr": (rate, 1.0),
            f"policy/{name}/num_actions": (float(batch.num_actions), 1.0),
        }
        return merge([*stats, UpdateStats(sums=shared, maxima={})])

    def _micro_loss(
        self, batch: TrainBatch, micro: MicroBatch, collated: PolicyBatch, proximal: ActionScores | None
    ) -> LossSums:
        inputs = inputs_on(self._device, collated, num_chunks=batch.num_chunks)
        reference = self.model.reference_scores(inputs)
        return policy_loss(
            self.spec.config.loss,
            self.model.scores(inputs),
            make_actions(micro, collated, self._device),
            max_actions=batch.max_actions,
            reference=reference,
            proximal=None if proximal is None else proximal.detached(self._device),
        )

    @torch.no_grad()
    def _proximal(self, batches: Sequence[TrainBatch]) -> list[list[ActionScores | None]]:
        """Score, before the first update, what a correction compares later steps with.

        Returns:
            By optimizer step and micro-batch, on the CPU. None where the update's own forward pass will do:
            in the first step, when nothing has changed yet, and without a correction.
        """
        rank = self.spec.rank
        proximal: list[list[ActionScores | None]] = [
            [None] * len(batch.micro_batches[rank]) for batch in batches
        ]
        if isinstance(self.spec.config.loss.correction, NoCorrection):
            return proximal
        for index, batch in enumerate(batches[1:], start=1):
            collated = self.parts.loader.collated(batch.micro_batches[rank])
            inputs = (inputs_on(self._device, rows, num_chunks=batch.num_chunks) for _, rows in collated)
            proximal[index] = [self.model.scores(rows).detached(CPU) for rows in inputs]
        return proximal

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(
            f"policy {self.spec.policy_name}: {what} is not finite in optimizer step {self._num_steps} at "
            f"weight version {self.version}; lower policies.{self.spec.policy_name}.learner.learning_rate and resume "
            "from the last checkpoint"
        )

    # ------------------------------------------------------------------------ weights

    def open_group(self, backend: Backend, *, size: int, address: str, port: int) -> None:
        """Become the sender of a process group of ``size`` members; rank 0 only."""
        self.parts.sender.outbox.open_group(
            backend, size=size, address=address, port=port, deadline_s=self.spec.deadline_s
        )

    def publish(self, *, averaged: bool = False) -> Iterator[list[Bytes] | Manifest]:
        """Stream the current weights.

        Every rank must exhaust the iterator: under ZeRO-3 each bucket is gathered as it is asked for, never
        the whole model.

        Args:
            averaged: Publish the moving average instead of the weights that are trained.

        Yields:
            On rank 0 the buckets, lent until the stream ends, then the manifest; on the others nothing.
        """
        # Ray takes a generator function, nothing that returns one.
        yield from self.parts.sender.publish(self.version, averaged=averaged)

    def broadcast(self, *, averaged: bool = False) -> Manifest | None:
        """Send the current weights through the process group; collective over the ranks, as ``publish``.

        Returns:
            On rank 0 the manifest.

        Raises:
            WeightSyncError: If a receiver is gone or late.
        """
        return self.parts.sender.broadcast(self.version, averaged=averaged)

    def share(self, *, averaged: bool = False) -> SharedWeights:
        """Keep the current weights on this rank's GPU for the workers on it, until ``release``."""
        return self.parts.sender.share(self.version, averaged=averaged)

    def release(self) -> None:
        """Give back what was shared."""
        self.parts.sender.outbox.release()

    @span("score the canary")
    @torch.no_grad()
    def score(self, *examples: Example, averaged: bool = False) -> list[Floats]:
        """Return each example's log-probs, ``[L]`` or ``[K]``, nats.

        Args:
            examples: What is scored.
            averaged: Score under the moving average instead of the weights that are trained; collective then.
        """
        logprobs: list[Floats] = []
        with self.model.shown(averaged=averaged):
            for example in examples:
                scores = self.model.scores(inputs_on(self._device, self.model.policy.collate([example])))
                logprobs.append(scores.logprobs[0].float().cpu().numpy())
        return logprobs

    def save(self, directory: Path, tag: str) -> None:
        """Write a checkpoint from which ``load`` goes on: to the last bit with as many ranks, else to rounding."""
        self.model.save(directory, tag, {"version": self.version, "num_steps": self._num_steps})

    @span("load")
    def load(self, directory: Path, tag: str) -> None:
        """Read a checkpoint of a learner with any number of ranks, under any ZeRO stage.

        A moving average that the checkpoint does not have begins at its weights.
        """
        state = self.model.load(directory, tag)
        self.version, self._num_steps = int(state["version"]), int(state["num_steps"])

    @span("export")
    def export(self, directory: Path) -> None:
        """Write the policy as its plain library loads it; see ``LearnerModel.export``."""
        self.model.export(directory)


def _prepare_process(spec: LearnerSpec) -> None:
    """Set threads, seed and, where asked for, determinism of this process."""
    ensure_torchvision()
    torch.set_num_threads(spec.config.num_threads)
    torch.manual_seed(spec.seed)
    if spec.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        # Nothing here reads such memory, and DeepSpeed reserves much of it.
        deterministic: Any = torch.utils.deterministic
        deterministic.fill_uninitialized_memory = False
