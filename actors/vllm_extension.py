"""What vLLM's workers get besides their own methods: a receiver of published weights.

vLLM mixes the class into its worker in every process of the engine (``worker_extension_cls``), so the same code
serves one process and tensor parallelism.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.weights import Bytes, unpack
from rl.types import Manifest


class WeightReceiver:
    """Mixed into a vLLM worker; ``model_runner`` is the worker's."""

    model_runner: Any

    def receive_weights(self, manifest: Manifest, buckets: Sequence[Bytes]) -> None:
        """Load a publication in place of the present weights.

        Raises:
            WeightSyncError: If a bucket is damaged; nothing has changed then.
        """
        # A reload packs matrices again; a plain copy into the packed ones fails on the CPU.
        self.model_runner.reload_weights(weights_iterator=unpack(manifest, buckets))
