"""Imports of every rank process, done once in the server that forks them (``tests.reference.ranks``)."""

import gc
import importlib
import os

from rl.compat.torchvision import ensure_torchvision

MODULES = (
    "deepspeed",
    # Imported with the first engine.
    "deepspeed.module_inject",
    "torch._inductor.lowering",
    "torch._inductor.scheduler",
    "peft",
    "transformers.models.qwen3.modeling_qwen3",
    "tests.reference.ema_jobs",
    "tests.reference.layered_policy",
    "tests.reference.lora_jobs",
    "tests.reference.state_jobs",
    "tests.reference.supervised_jobs",
)

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed picks its device when it is imported
ensure_torchvision()
for name in MODULES:
    importlib.import_module(name)
# DeepSpeed collects garbage often, and would look through all of this each time.
gc.freeze()
