"""The demo's painter after a short cold start from the bicubic photograph, and from the one that Real-ESRGAN restores.

``python -m benchmarks.restored_start [steps]`` trains both painters, on one core, and has them paint the held-out
prompts without noise behind the true texts. It needs the extra ``restorer``.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from actors.coldstart.restoration.expert_data import paint_all
from actors.coldstart.restoration.image_trainer import train_image
from actors.coldstart.task import ColdstartTask
from actors.policies.family import family_of
from actors.rollout.worker import RolloutSpec
from configs.load import load_config
from configs.schema import Config
from rewards.experts.picture_metrics import PictureMetrics
from rl.data.images import resize
from rl.data.source import prompt_source
from rl.restoration.names import degraded_of, truth_of
from rl.types import Pixels, Prompt

NUM_HELD_OUT = 48
NUM_EXAMPLES = 2000
"""Photographs to learn from; each costs 9 ms to restore."""
METRICS = ("psnr", "ssim", "gmsd", "fsim", "vsi")
STARTS = {
    "bicubic": "{}",
    "Real-ESRGAN": "{degraded: {from: degraded, px: 64, by: real_esrgan}}",
}


def main(num_steps: int) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    prompts = prompt_source(load_config("demo")).held_out(NUM_HELD_OUT)
    truths = [truth for truth in map(truth_of, prompts) if truth is not None]
    photos = [degraded_of(prompt) for prompt in prompts]
    metrics = PictureMetrics(METRICS, device="cpu")
    metrics.setup()
    print(f"| {NUM_HELD_OUT} held-out pictures | {' | '.join(METRICS)} | seconds |")
    print(f"|---|{'---:|' * (len(METRICS) + 1)}")

    def row(name: str, pictures: Sequence[Pixels], seconds: float) -> None:
        means = [f"{np.mean(values):.4f}" for values in metrics.score(pictures, truths).values()]
        print(f"| {name} | {' | '.join(means)} | {seconds:.0f} |", flush=True)

    row("bicubic itself", [resize(photo, *truths[0].shape[:2]) for photo in photos], 0)
    row("Real-ESRGAN itself", metrics.restored(photos, load_config("demo").scale), 0)
    for name, call in STARTS.items():
        begin = time.process_time()
        settings = [f"policies.image.call={call}", f"coldstart.image_steps={num_steps}"]
        config = load_config("demo", [*settings, f"coldstart.num_examples={NUM_EXAMPLES}"])
        with tempfile.TemporaryDirectory() as folder:
            painted = _painted(config, Path(folder), prompts)
        row(f"painter from {name}, {num_steps} steps", painted, time.process_time() - begin)


def _painted(config: Config, folder: Path, prompts: Sequence[Prompt]) -> list[Pixels]:
    """Train a painter in a folder and return its last pictures, painted without noise."""
    task = ColdstartTask(
        config=config,
        policy="image",
        directory=folder / "image",
        made=folder,
        work=folder,
        rank=0,
        world_size=1,
        report=lambda step, metrics: None,
        note=lambda _: None,
    )
    train_image(task)
    settings = config.policies["image"]
    family = family_of("image", settings)
    spec = RolloutSpec(
        directory=task.directory,
        config=settings,
        family=family,
        chain=config.chain,
        seed=config.seed,
        deterministic=True,
    )
    worker = family.load("rollout")(spec)
    worker.setup()
    painted = asyncio.run(paint_all(worker, task, prompts, 0.0))
    worker.close()
    return painted


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
