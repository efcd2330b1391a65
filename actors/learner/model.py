"""Model of a learner rank: its shard of the policy, and the frozen reference and moving average beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actors.learner.ema import WeightAverage
from actors.learner.recomputation import recompute_activations
from actors.learner.spec import LearnerSpec
from actors.policies.base import TrainablePolicy
from actors.shared import deepspeed_engine as ds
from actors.shared import lora
from actors.shared.engine_checkpoint import load_checkpoint, save_checkpoint
from actors.weights.buckets import CPU
from rl.errors import LearnerError
from rl.loss.actions import ActionScores

ADAPTER = "adapter"
"""Folder of an exported adapter, beside that of the merged model."""
AVERAGE, AVERAGED = "average", "num_averaged"
"""Of a checkpoint: the moving average's shards, and the updates that it has seen."""


class _Scorer(nn.Module):
    """The policy's forward pass, returning bare tensors: DeepSpeed's hooks look into tuples only."""

    def __init__(self, policy: TrainablePolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, inputs: Mapping[str, Any]) -> tuple[Tensor | None, ...]:
        scores = self.policy.forward(inputs)
        return scores.logprobs, scores.entropy, scores.step_mean, scores.step_std


class LearnerModel:
    """Everything of a rank that holds weights. Made when all ranks have met; collective, as the rank's methods are.

    Args:
        spec: Of the rank.
        device: What it computes on.

    Raises:
        LearnerError: If the policy cannot be trained under the ZeRO stage.
    """

    def __init__(self, spec: LearnerSpec, device: torch.device) -> None:
        config = spec.config
        self._spec, self.device = spec, device
        self.policy = load_policy(spec).to(device).eval()
        self._reference: TrainablePolicy | None = None
        if spec.lora is not None:
            key = f"policies.{spec.policy_name}.learner.lora"
            lora.add_adapter(
                self.policy.trained_net,
                spec.lora,
                key=key,
                seed=spec.seed,
                row_ids=self.policy.row_ids,
            )
            self.policy.to(device).eval()
        elif config.loss.kl_weight > 0:
            self._reference = load_policy(spec).to(device).eval().requires_grad_(False)
        if config.learner.gradient_checkpointing:
            key = f"policies.{spec.policy_name}.learner.gradient_checkpointing"
            recompute_activations(self.policy.trained_net, key=key)
        self.engine: Any = ds.make_engine(
            _Scorer(self.policy),
            zero_stage=config.learner.zero_stage,
            learning_rate=config.learner.learning_rate,
            weight_decay=config.learner.weight_decay,
            max_grad_norm=config.learner.max_grad_norm,
            dtype=config.dtype,
            offload_optimizer=config.learner.offload_optimizer,
        )
        self.average = self._make_average()

    def _make_average(self) -> WeightAverage | None:
        config = self._spec.config
        if not config.learner.ema_decay:
            return None
        masters = ds.master_shards(self.engine)
        return WeightAverage(masters, config.learner.ema_decay, partial(ds.refresh_weights, self.engine))

    def scores(self, inputs: Mapping[str, Any]) -> ActionScores:
        """Run the policy under DeepSpeed; collective in ZeRO stage 3."""
        logprobs, entropy, step_mean, step_std = self.engine(inputs)
        return ActionScores(logprobs=logprobs, entropy=entropy, step_mean=step_mean, step_std=step_std)

    @torch.no_grad()
    def reference_scores(self, inputs: Mapping[str, Any]) -> ActionScores | None:
        """Score under the starting weights: a frozen copy, or with adapters the policy without them."""
        if self._spec.config.loss.kl_weight == 0:
            return None
        if self._reference is not None:
            scores: ActionScores = self._reference(inputs)
            return scores
        with lora.switched_off(self.policy.trained_net):
            return self.scores(inputs)

    def shown(self, *, averaged: bool) -> AbstractContextManager[None]:
        """Return a context in which the model computes with the average, or as it is."""
        if not averaged:
            return nullcontext()
        if self.average is None:
            raise LearnerError(
                f"policies.{self._spec.policy_name}.learner.ema_decay is 0: no average is kept"
            )
        return self.average.in_place()

    def trained_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield what is trained, whole, under published names: all of the net, or its adapters."""
        named = self.policy.published()
        return self._whole(named if self._spec.lora is None else lora.adapters_only(named))

    def _whole(self, named: Iterable[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, Tensor]]:
        spec = self._spec
        return ds.stream_whole(named, zero_stage=spec.config.learner.zero_stage, max_bytes=spec.bucket_bytes)

    def move(self, *, is_asleep: bool) -> None:
        """Move everything to the host, or back to the rank's device."""
        device = CPU if is_asleep else self.device
        (ds.offload if is_asleep else ds.reload)(self.engine)
        self.policy.move_beside(device)
        if self._reference is not None:
            self._reference.to(device)
        if self.average is not None:
            self.average.follow()

    # ------------------------------------------------------------------------ files

    def save(self, directory: Path, tag: str, state: Mapping[str, int]) -> None:
        """Write a checkpoint, with the rank's own ``state``."""
        if self.average is None:
            save_checkpoint(self.engine, directory, tag, state)
            return
        averaged = {**state, AVERAGED: self.average.num_updates}
        save_checkpoint(self.engine, directory, tag, averaged, {AVERAGE: self.average.shards})

    def load(self, directory: Path, tag: str) -> Mapping[str, Any]:
        """Read a checkpoint and return its ``state``; an average that it does not have begins at its weights."""
        if self.average is None:
            return load_checkpoint(self.engine, directory, tag)
        state = load_checkpoint(self.engine, directory, tag, {AVERAGE: self.average.shards})
        if AVERAGED in state:
            self.average.num_updates = state[AVERAGED]
        else:
            self.average.restart()
        return state

    def export(self, directory: Path) -> None:
        """Write the policy as its plain library loads it; rank 0 writes, all return when it has.

        The weights are those of the moving average where there is one: what was evaluated. Adapters are merged
        into them, and written by themselves to the folder ``adapter`` beside it, as peft loads them.
        """
        spec, is_first = self._spec, self._spec.rank == 0
        with self.shown(averaged=self.average is not None):
            weights = {
                name: tensor.cpu().clone()
                for name, tensor in self._whole(self.policy.published())
                if is_first
            }
        if spec.lora is not None and is_first:
            folder = directory.with_name(ADAPTER)
            weights = lora.export_adapter(
                folder,
                spec.lora,
                weights,
                net_name=self.policy.net_name,
                row_ids=self.policy.row_ids,
            )
        published = {id(parameter) for _, parameter in self.policy.published()}
        others = [parameter for parameter in self.policy.parameters() if id(parameter) not in published]
        with ds.whole(others, zero_stage=spec.config.learner.zero_stage):
            if is_first:
                self.policy.export(directory, weights)
        torch.distributed.barrier()


def load_policy(spec: LearnerSpec) -> TrainablePolicy:
    """Read the starting weights.

    Raises:
        LearnerError: If the policy cannot be trained under the ZeRO stage.
    """
    policy_type: type[TrainablePolicy] = spec.family.load("learner")
    policy = policy_type.load(spec.directory, spec.config, block_names=spec.block_names)
    if spec.config.learner.zero_stage == 3 and any(True for _ in policy.parameters(recurse=False)):
        raise LearnerError(
            f"policy {spec.policy_name}: {policy_type.__name__} owns parameters directly, which ZeRO "
            "stage 3 cannot gather; move them into a submodule, or set "
            f"policies.{spec.policy_name}.learner.zero_stage=2"
        )
    return policy
