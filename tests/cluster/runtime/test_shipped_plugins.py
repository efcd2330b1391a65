"""A reward from a plug-in folder, on a Ray of its own: shipped to the workers, four of them on one GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reference.command import ROOT

pytestmark = pytest.mark.ray


PLUGIN = """
import os
from rewards.base import Reward
from helpers.numbers import TEN

class Where(Reward):
    high = 100.0
    def score(self, chains):
        with open(os.environ["SCORED_IN"], "a") as file:
            file.write(f"{os.getpid()}\\n")
        return [TEN + float(os.environ["CUDA_VISIBLE_DEVICES"])] * len(chains)
"""

SCRIPT = """
import functools, os, sys
import ray
from cluster.runtime.calls import gather, put
from cluster.runtime.ray_session import ray_session
from cluster.pools.scoring import Scoring
from cluster.runtime.spawn import spawn
from configs.load import load_config
from configs.checks.validate import validate
from rewards.load import load_reward
from tests.reference.rewards import make_view

config = load_config("tiny", [
    f"plugins=[{sys.argv[1]}]", "rewards.mine.target=where_am_i:Where", "rewards.mine.num_workers=4",
    "rewards.mine.num_gpus=0.25",
])
config = __import__("dataclasses").replace(config, rewards={"mine": config.rewards["mine"]}, deadline_s=120)
validate(config)
ray.init = functools.partial(ray.init, num_gpus=1)  # this machine may have none; nothing is computed on it
with ray_session(config):
    load_reward("mine", config.rewards["mine"])
    scoring = spawn(Scoring, "scoring-0", num_cpus=0.05, max_concurrency=100, kwargs={"config": config, "envs": {}})
    gather([scoring.call("setup")], deadline_s=120)
    chain = make_view().with_pictures(put)
    answers = [a for (a,) in gather([scoring.call("score", [chain]) for _ in range(8)], deadline_s=120)]
    replicas = set(open(os.environ["SCORED_IN"]).read().split())
    print("scores", sorted({float(a["mine"].values[0]) for a in answers}), "replicas", len(replicas))
"""


def test_a_plugin_reaches_workers_that_share_a_gpu(tmp_path: Path) -> None:
    plugins, elsewhere = tmp_path / "plugins", tmp_path / "elsewhere"
    (plugins / "helpers").mkdir(parents=True)
    elsewhere.mkdir()
    (plugins / "where_am_i.py").write_text(PLUGIN)
    (plugins / "helpers" / "numbers.py").write_text("TEN = 10\n")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(plugins)],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SCORED_IN": str(tmp_path / "processes")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "scores [10.0] replicas 4" in done.stdout
