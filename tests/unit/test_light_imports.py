"""The modules that decide load in a process without any ML framework, and nobody else's folders matter."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "ray", "vllm", "deepspeed", "diffusers", "transformers", "pyiqa", "torchvision"}
LIGHT = [
    "configs.schema", "configs.errors", "configs.load", "configs.ranges", "configs.derive", "configs.validate",
    "configs.plan",
    "rl.types", "rl.ports", "rl.errors", "rl.seeding", "rl.loop", "rl.advantage", "rl.chain", "rl.batching",
    "rl.filters", "rl.metrics", "rl.step_selection", "rl.combine", "rl.baselines", "rl.overlong", "rl.hacking",
    "rl.correlation", "cluster.cli", "cluster.rewards_cli", "rewards.base", "rewards.load", "rewards.catalogue",
    "rewards.http", "rewards.server",
]  # fmt: skip


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_loads_no_framework(module):
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
