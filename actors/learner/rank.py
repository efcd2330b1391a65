"""One rank of a policy's learner: takes its share of each batch, updates, publishes, saves.

A plain class: the cluster layer spawns one process a rank and calls these methods. Every method but
``score`` below ZeRO stage 3 is collective: all ranks must call it, in the same order. It knows neither
Ray nor what kind of policy it trains.
"""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actors.learner.ema import WeightAverage
from actors.learner.micro_batches import inputs_on, make_actions
from actors.learner.sending import SendsWeights
from actors.learner.spec import LearnerSpec
from actors.policies.base import ActionScores, PolicyBatch, TrainablePolicy
from actors.shared import deepspeed_engine as ds
from actors.shared import lora
from actors.weights.buckets import BufferPool
from actors.weights.outbox import WeightOutbox
from configs.methods import Adapter, NoCorrection
from rl.compat.torchvision import ensure_torchvision
from rl.errors import DivergedError, LearnerError
from rl.loss.aggregation import divisor
from rl.loss.policy_loss import LossSums, policy_loss
from rl.measure.metrics import merge
from rl.ports import Store
from rl.spans import span
from rl.types import Example, Floats, MicroBatch, TrainBatch, UpdateStats

ADAPTER = "adapter"
"""Folder of an exported adapter, beside that of the merged model."""


class _Scorer(nn.Module):
    """The policy's forward pass, returning bare tensors: DeepSpeed's hooks look into tuples only."""

    def __init__(self, policy: TrainablePolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor | None, ...]:
        scores = self.policy.forward(inputs)
        return scores.logprobs, scores.entropy, scores.step_mean, scores.step_std


class LearnerRank(SendsWeights):
    """One data-parallel rank."""

    def __init__(self, spec: LearnerSpec) -> None:
        self.spec = spec
        self.version = 0
        """Weight version: +1 an ``update``; saved in checkpoints."""
        self._num_steps = 0
        self._reference: TrainablePolicy | None = None
        self._average: WeightAverage | None = None
        self._device = torch.device("cuda", 0) if spec.config.num_gpus > 0 else torch.device("cpu")
        self._outbox, self._buffers = WeightOutbox(self._device), BufferPool()
        self._prefetcher = ThreadPoolExecutor(1, thread_name_prefix=f"learner-{spec.policy_name}-prefetch")

    # ------------------------------------------------------------------------ life

    def setup(self, master_addr: str, master_port: int, store: Store) -> None:
        """Join the process group, load the policy and shard it. Heavy; returns when all ranks have met."""
        spec, config = self.spec, self.spec.config
        ensure_torchvision()
        torch.set_num_threads(config.num_threads)
        torch.manual_seed(spec.seed)
        if spec.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
            # Nothing here reads such memory, and DeepSpeed reserves much of it.
            deterministic: Any = torch.utils.deterministic
            deterministic.fill_uninitialized_memory = False
        self._store = store
        ds.start_process_group(
            rank=spec.rank,
            world_size=spec.world_size,
            master_addr=master_addr,
            master_port=master_port,
            device=self._device,
        )
        self._policy = self.load_policy()
        if isinstance(config.lora, Adapter):
            key, net = f"policies.{spec.policy_name}.lora", self._policy.trained_net
            lora.add_adapter(net, config.lora, kind=config.kind, key=key, seed=spec.seed)
            self._policy.to(self._device).eval()
        elif config.kl_weight > 0:
            self._reference = self.load_policy().requires_grad_(False)
        self._engine: Any = ds.make_engine(
            _Scorer(self._policy),
            zero_stage=config.zero_stage,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            dtype=config.dtype,
        )
        self._average = self._make_average()

    def _make_average(self) -> WeightAverage | None:
        config = self.spec.config
        if not config.ema_decay:
            return None
        masters = ds.master_shards(self._engine, zero_stage=config.zero_stage)
        refresh = partial(ds.refresh_weights, self._engine, zero_stage=config.zero_stage)
        return WeightAverage(masters, config.ema_decay, refresh)

    def close(self) -> None:
        """Leave the process group."""
        self._prefetcher.shutdown(cancel_futures=True)
        ds.stop_process_group()

    def load_policy(self) -> TrainablePolicy:
        """Read the starting weights.

        Raises:
            LearnerError: If the policy cannot be trained under the ZeRO stage.
        """
        spec = self.spec
        policy_type: type[TrainablePolicy] = pkgutil.resolve_name(spec.policy_target)
        policy = policy_type.load(spec.directory, spec.config, block_names=spec.block_names)
        if spec.config.zero_stage == 3 and any(True for _ in policy.parameters(recurse=False)):
            raise LearnerError(
                f"policy {spec.policy_name}: {policy_type.__name__} owns parameters directly, which ZeRO "
                "stage 3 cannot gather; move them into a submodule, or set "
                f"policies.{spec.policy_name}.zero_stage=2"
            )
        # Evaluation mode: dropout would make the ratio differ from 1 before any update.
        return policy.to(self._device).eval()

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
        name = self.spec.policy_name
        scale = self.spec.world_size / divisor(self.spec.config.aggregation, batch)
        stats: list[UpdateStats] = []
        is_finite = True
        micros = self._prefetched(batch.micro_batches[self.spec.rank])
        for (micro, collated), before in zip(micros, proximal, strict=True):
            sums = self._micro_loss(micro, collated, before, batch.max_actions)
            ds.backward(self._engine, sums.loss * scale)
            is_finite &= bool(torch.isfinite(sums.loss.detach()))
            stats.append(sums.stats(name, is_first=is_first))
        if ds.any_rank(not is_finite, self._device):
            raise self._diverged("the loss")
        rate = self._learning_rate()
        grad_norm = ds.step(self._engine, rate)
        if grad_norm is None:
            raise self._diverged("the gradient")
        self._num_steps += 1
        if self._average is not None:
            self._average.update()
        shared = {
            f"learner/{name}/grad_norm": (grad_norm, 1.0),
            f"learner/{name}/lr": (rate, 1.0),
            f"policy/{name}/num_actions": (float(batch.num_actions), 1.0),
        }
        return merge([*stats, UpdateStats(sums=shared, maxima={})])

    def _micro_loss(
        self, micro: MicroBatch, batch: PolicyBatch, proximal: ActionScores | None, max_actions: int
    ) -> LossSums:
        inputs = inputs_on(self._device, batch)
        reference = self._reference_scores(inputs)
        return policy_loss(
            self.spec.config,
            self._scores(inputs),
            make_actions(micro, batch, self._device),
            max_actions=max_actions,
            reference=reference,
            proximal=None if proximal is None else proximal.detached(self._device),
        )

    def _reference_scores(self, inputs: Mapping[str, Tensor]) -> ActionScores | None:
        """Score under the starting weights: a frozen copy, or with adapters the policy without them."""
        config = self.spec.config
        if config.kl_weight == 0:
            return None
        with torch.no_grad():
            if self._reference is not None:
                found: ActionScores = self._reference(inputs)
                return found
            with lora.switched_off(self._policy.trained_net):
                return self._scores(inputs)

    def _proximal(self, batches: Sequence[TrainBatch]) -> list[list[ActionScores | None]]:
        """Score, before the first update, what a correction compares later steps with.

        Returns:
            By optimizer step and micro-batch, on the CPU. None where the update's own forward pass will do:
            in the first step, when nothing has changed yet, and without a correction.
        """
        mine = [batch.micro_batches[self.spec.rank] for batch in batches]
        found: list[list[ActionScores | None]] = [[None] * len(micros) for micros in mine]
        if isinstance(self.spec.config.correction, NoCorrection):
            return found
        with torch.no_grad():
            for index, micros in enumerate(mine[1:], start=1):
                found[index] = [
                    self._scores(inputs_on(self._device, batch)).detached(torch.device("cpu"))
                    for _, batch in self._prefetched(micros)
                ]
        return found

    def _scores(self, inputs: Mapping[str, Tensor]) -> ActionScores:
        """Run the policy under DeepSpeed; collective in ZeRO stage 3."""
        logprobs, entropy, step_mean, step_std = self._engine(inputs)
        return ActionScores(logprobs=logprobs, entropy=entropy, step_mean=step_mean, step_std=step_std)

    def _prefetched(self, micros: Sequence[MicroBatch]) -> Iterator[tuple[MicroBatch, PolicyBatch]]:
        """Fetch and collate each micro-batch while the one before it is computed."""
        ahead = self._prefetcher.submit(self._fetch, micros[0]) if micros else None
        for index, micro in enumerate(micros):
            assert ahead is not None
            collated = ahead.result()
            if index + 1 < len(micros):
                ahead = self._prefetcher.submit(self._fetch, micros[index + 1])
            yield micro, collated

    def _fetch(self, micro: MicroBatch) -> PolicyBatch:
        return self._policy.collate(self._store.get([item.handle for item in micro.items]))

    def _learning_rate(self) -> float:
        """Rise linearly over ``warmup_steps``, then stay."""
        config = self.spec.config
        return config.learning_rate * min(1.0, (self._num_steps + 1) / max(1, config.warmup_steps))

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(
            f"policy {self.spec.policy_name}: {what} is not finite in optimizer step {self._num_steps} at "
            f"weight version {self.version}; lower policies.{self.spec.policy_name}.learning_rate and resume "
            "from the last checkpoint"
        )

    # ------------------------------------------------------------------------ weights

    @span("score the canary")
    def score(self, examples: Sequence[Example], *, averaged: bool = False) -> list[Floats]:
        """Return each example's log-probs, ``[L]`` or ``[K]``, nats.

        Args:
            examples: What is scored.
            averaged: Score under the moving average instead of the weights that are trained; collective then.
        """
        found = []
        with torch.no_grad(), self._shown(averaged=averaged):
            for example in examples:
                scores = self._scores(inputs_on(self._device, self._policy.collate([example])))
                found.append(scores.logprobs[0].float().cpu().numpy())
        return found

    def _shown(self, *, averaged: bool) -> AbstractContextManager[None]:
        """Return a context in which the model computes with the average, or as it is."""
        if not averaged:
            return nullcontext()
        if self._average is None:
            raise LearnerError(f"policies.{self.spec.policy_name}.ema_decay is 0: no average is kept")
        return self._average.in_place()

    def save(self, directory: Path, tag: str) -> None:
        """Write a checkpoint from which ``load`` goes on to the last bit."""
        state = {"version": self.version, "num_steps": self._num_steps, "averaged": self._average is not None}
        if self._average is not None:
            (directory / tag).mkdir(parents=True, exist_ok=True)
            self._average.save(self._average_file(directory, tag))
        ds.save_checkpoint(self._engine, directory, tag, state)

    @span("load")
    def load(self, directory: Path, tag: str) -> None:
        """Read a checkpoint of a learner with as many ranks.

        A moving average that the checkpoint does not have begins at its weights.
        """
        state = ds.load_checkpoint(self._engine, directory, tag)
        self.version, self._num_steps = int(state["version"]), int(state["num_steps"])
        if self._average is not None:
            self._average.restart()
            if state.get("averaged"):
                self._average.load(self._average_file(directory, tag))

    def _average_file(self, directory: Path, tag: str) -> Path:
        return directory / tag / f"average_rank_{self.spec.rank:02d}.safetensors"

    @span("export")
    def export(self, directory: Path) -> None:
        """Write the policy as its plain library loads it; rank 0 writes, all return when it has.

        The weights are those of the moving average where there is one: what was evaluated. Adapters are merged
        into them, and written by themselves to the folder ``adapter`` beside it, as peft loads them.
        """
        with self._shown(averaged=self._average is not None):
            weights = {
                name: tensor.cpu().clone()
                for name, tensor in self._whole_weights(self._policy.published())
                if self.spec.rank == 0
            }
        config, policy = self.spec.config, self._policy
        if isinstance(config.lora, Adapter) and self.spec.rank == 0:
            folder = directory.with_name(ADAPTER)
            weights = lora.export_adapter(
                folder, config.lora, weights, kind=config.kind, prefix=policy.net_prefix
            )
        published = {id(parameter) for _, parameter in self._policy.published()}
        others = [parameter for parameter in self._policy.parameters() if id(parameter) not in published]
        with ds.whole(others, zero_stage=self.spec.config.zero_stage):
            if self.spec.rank == 0:
                self._policy.export(directory, weights)
        torch.distributed.barrier()
