"""The modules that decide load in a process without any ML framework, and nobody else's folders matter."""

import subprocess
import sys

import pytest

from tests.reference.command import ROOT

HEAVY = {"torch", "ray", "vllm", "deepspeed", "diffusers", "transformers", "pyiqa", "torchvision"}
LIGHT = [
    "configs.schema", "configs.errors", "configs.load", "configs.build", "configs.explain", "configs.derive",
    "configs.checks.validate", "configs.planning.plan",
    "rl.types", "rl.ports", "rl.errors", "rl.seeding", "rl.loop", "rl.chain.state", "rl.denoising.step_selection",
    "rl.advantage.assign", "rl.advantage.batching", "rl.advantage.filters", "rl.advantage.combine",
    "rl.advantage.baselines", "rl.advantage.overlong", "rl.measure.metrics", "rl.measure.hacking",
    "rl.measure.correlation", "cluster.cli", "cluster.commands.rewards", "rewards.base", "rewards.load",
    "rewards.experts.catalogue", "rewards.http", "rewards.remote.server", "actors.policies.token.family",
    "actors.policies.denoising.family",
]  # fmt: skip


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_loads_no_framework(module):
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
