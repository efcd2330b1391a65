"""First module of a process that vLLM starts: makes it ready, before it imports vLLM."""

from __future__ import annotations

import os

from rl.compat.vllm import MODEL_VARIABLE, prepare

if __name__ == "__mp_main__":
    prepare(os.environ[MODEL_VARIABLE])
