"""How every vLLM engine of ours is started: in its worker's own process, on a CPU or on a share of a GPU.

Shared by the text policy's engine and the judge model. vLLM is imported inside the functions only, after
``prepare``: it reads its environment when it is imported.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import spawn
from pathlib import Path
from typing import Any

from rl.compat.torchvision import ensure_torchvision

BLOCK_TOKENS = 32
"""Tokens of a cache block: the smallest vLLM's CPU attention takes. Prompts share whole blocks only."""
FIRST_MODULE = "rl.compat.engine_process"
MODEL_VARIABLE = "VLCOT_ENGINE_MODEL"
"""Environment variable that says what the engine serves."""
FALLBACKS = ("TransformersForCausalLM", "TransformersMultiModalForCausalLM")
"""vLLM's classes for models that it has no code of its own for."""
ENVIRONMENT: Mapping[str, str] = {
    # The engine lives in the worker's own process and thread.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # vLLM binds threads to cores; several workers would all sit on the first ones.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}


def prepare(model: str | Path, environment: Mapping[str, str] | None = None) -> None:
    """Make this process ready for an engine that serves ``model``; then import vLLM.

    Args:
        model: Directory or hub name.
        environment: Further variables; none overrides what the user has set.
    """
    for name, value in {**ENVIRONMENT, **(environment or {})}.items():
        os.environ.setdefault(name, value)
    # On a CPU every picture would cost a warning: vLLM replaces torch.set_num_threads, and calls it itself.
    logging.getLogger("vllm.v1.worker.cpu_worker").setLevel(logging.ERROR)
    ensure_torchvision()
    _register_in_process(model)
    _keep_pictures()


@contextmanager
def prepared_processes(model: str | Path) -> Iterator[None]:
    """Return a context in which processes that vLLM starts, those of tensor parallelism, make themselves ready too.

    They are spawned, for a Ray actor cannot be forked, and the first thing that such a process does is to import what
    it runs, and so vLLM. So ``rl.compat.engine_process`` is put in the place of their main module, which comes before.
    """
    own = spawn.get_preparation_data

    def with_our_main(name: str) -> dict[str, Any]:
        data = {key: value for key, value in own(name).items() if not key.startswith("init_main_from")}
        return {**data, "init_main_from_name": FIRST_MODULE}

    os.environ |= {MODEL_VARIABLE: str(model), "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    spawn.get_preparation_data = with_our_main
    try:
        yield
    finally:
        spawn.get_preparation_data = own


def device_arguments(*, on_gpu: bool, gpu_memory_frac: float) -> dict[str, Any]:
    """Return the arguments of an engine that depend on where it runs.

    Args:
        on_gpu: False where vLLM is its CPU build.
        gpu_memory_frac: Share of the whole GPU's memory for weights and cache together; ignored on a CPU.
    """
    return {
        "enforce_eager": not on_gpu,
        "block_size": None if on_gpu else BLOCK_TOKENS,
        # A request whose prompt was cut in two would have to rewind its random generator, which only a
        # GPU's can: on the CPU vLLM would fail.
        "enable_chunked_prefill": on_gpu,
        "gpu_memory_utilization": gpu_memory_frac,
        "skip_mm_profiling": not on_gpu,
        "disable_log_stats": True,
    }


def max_model_len(model: str | Path, most: int) -> int:
    """Return the longest context, tokens.

    Args:
        model: Directory or hub name.
        most: What is wanted; 0 is what the model allows.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model, trust_remote_code=False).get_text_config()
    allowed = int(config.max_position_embeddings)
    return min(most or allowed, allowed)


def _keep_pictures() -> None:
    """Have vLLM's scheduler send a request's pictures to the model's process, those too that the prefix cache covers.

    It would leave out their pixels, and not send them later either. A request that is begun again once the caches
    were dropped (new weights; or a cache that is full) would fail: its pictures must be encoded.
    """
    from vllm.v1.core.sched import output

    output.strip_covered_mm_data = lambda features, *_, **__: features


def _register_in_process(model: str | Path) -> None:
    """Have vLLM look at the model class here, and at those by which it serves models of transformers' own code.

    By itself it imports the class in a process of its own, which costs ten seconds, and where
    ``ensure_torchvision`` has not run.
    """
    from transformers import AutoConfig
    from vllm import ModelRegistry

    named = AutoConfig.from_pretrained(model, trust_remote_code=False).architectures or ()
    known = {name: ModelRegistry.models[name] for name in named if name in ModelRegistry.models}
    if len(known) < len(named):
        known |= {name: ModelRegistry.models[name] for name in FALLBACKS if name in ModelRegistry.models}
    for name, entry in known.items():
        ModelRegistry.register_model(name, entry.load_model_cls())
