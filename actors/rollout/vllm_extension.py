"""Receiver of published weights inside vLLM's workers.

vLLM mixes the class into its worker in every process of the engine (``worker_extension_cls``), so the same code
serves one process and tensor parallelism. Adapters are merged before vLLM sees them: it then computes with the very
weights that are exported, and its own kernels for adapters, caches by adapter and limits of rank do not matter.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from actors.shared.lora import merged
from actors.weights.buckets import Received, unpack
from actors.weights.inbox import LoadTimes
from rl.errors import WeightSyncError
from rl.types import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What published adapters are added to."""

    directory: Path
    """Checkpoint of the starting weights, in the Hugging Face layout."""
    scale: float
    """``alpha / rank``."""
    row_ids: tuple[int, ...]
    """Rows of the embeddings that are published beside them."""


class WeightReceiver:
    """Mixed into a vLLM worker; ``model_runner`` is the worker's."""

    model_runner: Any

    def receive_weights(
        self, manifest: Manifest, buckets: Sequence[Received], base: Base | None
    ) -> LoadTimes:
        """Load a publication in place of the present weights.

        Args:
            manifest: What was published.
            buckets: All of it.
            base: Where adapters are published; None where whole weights are.

        Raises:
            WeightSyncError: If a bucket is damaged; nothing has changed then.
        """
        begin = time.perf_counter()
        tensors = unpack(manifest, buckets)
        checked = time.perf_counter()
        if base is not None:
            tensors = merged(starting_weights(base), dict(tensors), base.scale, base.row_ids)
        # A reload packs matrices again; a plain copy into the packed ones fails on the CPU.
        self.model_runner.reload_weights(weights_iterator=tensors)
        _pack_output_matrices(self.model_runner.get_model())
        return LoadTimes(check_s=checked - begin, load_s=time.perf_counter() - checked)


def _pack_output_matrices(model: nn.Module) -> None:
    """Pack output matrices again: a tied one gets no weight of its own, so a reload leaves its packed copy stale."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


def starting_weights(base: Base) -> Iterator[tuple[str, Tensor]]:
    """Yield a checkpoint's weights one by one; the names in its files are those that weights are published by.

    The files are mapped, so the starting weights of all workers of a machine are in its memory once.

    Raises:
        WeightSyncError: If the folder has no safetensors file.
    """
    from safetensors import safe_open

    files = sorted(base.directory.glob("*.safetensors"))
    if not files:
        raise WeightSyncError(f"{base.directory}: adapters are added to safetensors files, and it has none")
    for path in files:
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  # not a mapping
                yield name, weights.get_tensor(name)
