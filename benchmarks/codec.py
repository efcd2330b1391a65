"""Round trip of the small picture codec on held-out photographs, beside bicubic of the degraded ones.

``python -m benchmarks.codec [steps ...]`` trains a codec for each number of steps (0 is k-means alone), on one core.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from actors.coldstart.task import ColdstartTask
from actors.coldstart.unified.codec_trainer import train_codec
from actors.policies.unified.codec import PictureCodec
from configs.load import load_config
from configs.schema import Config
from rl.data.images import resize
from rl.data.source import prompt_source
from rl.restoration.names import degraded_of, truth_of
from rl.types import Pixels

SIZES = (16, 32, 64)
"""Edges of the demo's pictures, pixels."""
NUM_HELD_OUT = 96
"""Half are of photographs that are kept out as a whole."""
PRESETS = ("mild", "realesrgan")


def main(steps: Sequence[int]) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    config = load_config("demo")
    photos = _photographs(config)
    names = [f"{size} px" for size in SIZES] + ["degraded, 64 px"]
    print(f"| codec | {' | '.join(names)} | codes used | seconds |\n|---|{'---|' * (len(names) + 2)}")
    for num_steps in steps:
        begin = time.process_time()
        codec = _trained(config, num_steps)
        seconds = time.process_time() - begin
        shown = [[resize(photo, size, size) for photo in photos["truth"]] for size in SIZES] + [
            photos["mild"]
        ]
        cells = " | ".join(
            f"{_decibels(codec.decode_batch(codec.encode_batch(pictures)), pictures):.2f}"
            for pictures in shown
        )
        used = len(np.unique(np.concatenate([grid.ravel() for grid in codec.encode_batch(photos["truth"])])))
        print(f"| {num_steps} steps | {cells} | {used} of {codec.num_codes} | {seconds:.0f} |", flush=True)
    for preset in PRESETS:
        print(f"bicubic of {preset}, 4 times, 64 px: {_decibels(photos[preset], photos['truth']):.2f} dB")


def _photographs(config: Config) -> dict[str, list[Pixels]]:
    """Return held-out photographs, and each preset's degraded ones at their size."""
    photos: dict[str, list[Pixels]] = {}
    for preset in PRESETS:
        prompts = prompt_source(load_config("demo", [f"data.degradation={preset}"])).held_out(NUM_HELD_OUT)
        photos[preset] = [resize(degraded_of(prompt), SIZES[-1], SIZES[-1]) for prompt in prompts]
        photos["truth"] = [photo for photo in map(truth_of, prompts) if photo is not None]
    return photos


def _trained(config: Config, num_steps: int) -> PictureCodec:
    with tempfile.TemporaryDirectory() as folder:
        task = ColdstartTask(
            config=config,
            policy="text",
            directory=Path(folder),
            made=Path(folder),
            work=Path(folder),
            rank=0,
            world_size=1,
            report=lambda step, metrics: None,
            note=lambda _: None,
        )
        return train_codec(task, Path(folder), num_steps=num_steps)


def _decibels(made: Sequence[Pixels], true: Sequence[Pixels]) -> float:
    """Return the mean PSNR."""
    errors = [np.mean(np.square(a.astype(float) - b)) for a, b in zip(made, true, strict=True)]
    return float(np.mean(10 * np.log10(255**2 / np.array(errors))))


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [0, 1000])
