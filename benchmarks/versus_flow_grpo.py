"""A step of ours against a plain loop of Flow-GRPO as it is published, on the same net and the same work.

    python benchmarks/versus_flow_grpo.py               # three rounds, runs in turn

An SD3-shaped net of 14 M parameters with random weights paints 4 prompts 8 times each, 64 px, in 10 steps; the reward
is brightness. The loop is one process on two threads: it samples with the pipeline's net and the published random step,
records log-probs, and then takes the loss of every trained step of all 32 pictures with one optimizer step at the end
(the recipe of Liu et al. 2025; log-probs are means over elements). Ways of ours: all 9 random steps trained, which is
equal work, and a window of two. Medians over rounds of each run's median step, its first two left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from actors.policies.text_to_image.autoencoder import COLOURS
from actors.policies.text_to_image.small import MAX_TOKENS, TEXT_WIDTH, make_text_to_image
from cluster.record.sinks import read_metrics

PROMPTS, GROUP, SIZE_PX, NUM_STEPS = 4, 8, 64, 10
LEVEL, LEARNING_RATE, CLIP = 0.7, 1e-4, 1e-4
THREADS = 2
WARM_UP = 2
"""First steps that are not timed."""
COLOUR_NAMES = ("red", "green", "blue", "grey", "white", "black")
TEXTS = [f"a {one} square on a {other} field" for one in COLOUR_NAMES for other in COLOUR_NAMES]
REWARD = '''"""Reward of the benchmark."""

from rewards.base import Need, Reward


class Brightness(Reward):
    """Share of full brightness."""

    needs = frozenset({Need.FINAL_PICTURE})

    def score(self, chains):
        return [float(chain.final_picture.mean()) / 255.0 for chain in chains]
'''
Steps = list[float]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loop:
        train_plainly(arguments.loop, arguments.steps)
        return
    ways: dict[str, Callable[[Path, int], Steps]] = {
        "plain loop, 9 trained steps": run_plainly,
        "vlcot, 9 trained steps": lambda folder, steps: run_ours(folder, steps, "all"),
        "vlcot, 2 trained steps, drawn anew for each group": lambda folder, steps: run_ours(
            folder, steps, {"kind": "random", "count": 2}
        ),
    }
    with tempfile.TemporaryDirectory() as folder:
        make_work(Path(folder))
        found: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(arguments.rounds):
            for name, run in ways.items():
                found[name].append(statistics.median(run(Path(folder), arguments.steps)[WARM_UP:]))
                print(f"round {number}: {name}: {found[name][-1]:.3f} s a step", file=sys.stderr)
    first = statistics.median(next(iter(found.values())))
    print("| | step, s | x the loop |\n|---|---:|---:|")
    for name, seconds in found.items():
        middle = statistics.median(seconds)
        print(f"| {name} | {middle:.2f} | {first / middle:.2f} |")


def make_work(folder: Path) -> None:
    """Write the checkpoint, the prompts and the reward."""
    pipe = make_text_to_image(texts=TEXTS, longest_px=SIZE_PX, seed=0)
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    pipe.register_modules(
        transformer=SD3Transformer2DModel(
            **{
                **pipe.transformer.config,
                "num_layers": 6,
                "patch_size": 4,
                "num_attention_heads": 4,
                "attention_head_dim": 64,
                "caption_projection_dim": 256,
                "in_channels": COLOURS,
                "joint_attention_dim": 2 * TEXT_WIDTH,
            }
        )
    )
    num = sum(p.numel() for p in pipe.transformer.parameters())
    print(f"{num / 1e6:.1f} M parameters", file=sys.stderr)
    pipe.save_pretrained(folder / "model")
    (folder / "prompts.txt").write_text("\n".join(TEXTS) + "\n")
    (folder / "brightness.py").write_text(REWARD)


def environment() -> dict[str, str]:
    """Return a process's environment."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(THREADS)}


def run_ours(folder: Path, steps: int, trained: Any) -> Steps:
    """Train with ours and return the seconds of its steps."""
    name = f"ours-{time.monotonic_ns()}"
    num = PROMPTS * GROUP
    config = {
        "name": name,
        "output_dir": str(folder),
        "num_steps": steps,
        "prompts_per_step": PROMPTS,
        "group_size": GROUP,
        "save_every": steps,
        "plugins": [str(folder)],
        "chain": {
            "picture": {"kind": "image", "policy": "image", "size_px": SIZE_PX, "num_steps": NUM_STEPS}
        },
        "policies": {
            "image": {
                "kind": "denoising",
                "source": str(folder / "model"),
                "num_threads": THREADS,
                "call": {"guidance_scale": 1, "max_sequence_length": MAX_TOKENS},
                "learner": {"learning_rate": LEARNING_RATE, "micro_batch_size": num},
                "rollout": {"noise_level": LEVEL, "trained_steps": trained},
                "loss": {"surrogate": {"clip_low": CLIP, "clip_high": CLIP}},
            }
        },
        "rewards": {"brightness": {"target": "brightness:Brightness"}},
        "data": {"prompts": str(folder / "prompts.txt"), "holdout_frac": 0.2},
        "eval": {"num_prompts": 4, "metrics": []},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config))
    words = [sys.executable, "-m", "cluster.cli", "train", str(file)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment())
    rows = read_metrics(folder / name / "metrics.jsonl")
    return [row["time/step_s"] for row in rows if "time/step_s" in row]


def run_plainly(folder: Path, steps: int) -> Steps:
    """Run the loop in a process of its own."""
    words = [sys.executable, __file__, "--loop", str(folder), "--steps", str(steps)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment())
    said: Steps = json.loads((folder / "loop.json").read_text())
    return said


# ---------------------------------------------------------------------------- the plain loop


def train_plainly(folder: Path, steps: int) -> None:
    """Run the published recipe and write the seconds of its steps."""
    torch.set_num_threads(THREADS)
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline.from_pretrained(folder / "model")
    net = pipe.transformer.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    texts = (folder / "prompts.txt").read_text().splitlines()
    step_s = []
    for step in range(steps):
        begin = time.perf_counter()
        asked = [texts[(step * PROMPTS + i) % len(texts)] for i in range(PROMPTS)]
        train_step(pipe, net, optimizer, asked)
        step_s.append(time.perf_counter() - begin)
    (folder / "loop.json").write_text(json.dumps(step_s))


def train_step(pipe: Any, net: Any, optimizer: Any, asked: list[str]) -> None:
    """Sample, score, and take one optimizer step over all trained steps."""
    with torch.no_grad():
        told, _, pooled, _ = pipe.encode_prompt(
            prompt=asked, prompt_2=None, prompt_3=None, do_classifier_free_guidance=False,
            max_sequence_length=MAX_TOKENS,
        )  # fmt: skip
        told, pooled = told.repeat_interleave(GROUP, 0), pooled.repeat_interleave(GROUP, 0)
        pipe.scheduler.set_timesteps(NUM_STEPS)
        sigmas, times = pipe.scheduler.sigmas, pipe.scheduler.timesteps
        edge = SIZE_PX // pipe.vae_scale_factor
        latents = [torch.randn(PROMPTS * GROUP, COLOURS, edge, edge)]
        before = []
        for index, at in enumerate(times):
            mean, std = predict(net, latents[-1], at, sigmas[index : index + 2], told, pooled)
            following = mean + std * torch.randn_like(mean) if index < NUM_STEPS - 1 else mean
            if index < NUM_STEPS - 1:
                before.append(log_prob(following, mean, std))
            latents.append(following)
        unscaled = latents[-1] / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
        pictures = (pipe.vae.decode(unscaled).sample.clamp(-1, 1) + 1) / 2
        rewards = pictures.mean((1, 2, 3)).view(PROMPTS, GROUP)
        spread = rewards.std(1, keepdim=True) + 1e-4
        advantages = ((rewards - rewards.mean(1, keepdim=True)) / spread).flatten()
    for index in range(NUM_STEPS - 1):
        mean, std = predict(net, latents[index], times[index], sigmas[index : index + 2], told, pooled)
        ratio = torch.exp(log_prob(latents[index + 1], mean, std) - before[index])
        clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
        loss = torch.maximum(-advantages * ratio, -advantages * clipped).mean() / (NUM_STEPS - 1)
        loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def predict(
    net: Any, x: Tensor, at: Tensor, levels: Tensor, told: Tensor, pooled: Tensor
) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the next latent (Liu et al. 2025, eqs. 8 and 9)."""
    velocity = net(
        hidden_states=x, timestep=at.expand(len(x)), encoder_hidden_states=told, pooled_projections=pooled
    ).sample
    now, after = levels
    length = now - after
    std = LEVEL * torch.sqrt(now / (1 - torch.where(now >= 1, after, now)))
    if after == 0:
        return x - velocity * length, torch.zeros(())
    mean = x - length * (velocity + std**2 / (2 * now) * (x + (1 - now) * velocity))
    return mean, std * torch.sqrt(length)


def log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return each picture's log-prob, mean over elements."""
    found = -((x - mean) ** 2) / (2 * std**2) - torch.log(std) - 0.5 * math.log(2 * math.pi)
    return found.mean((1, 2, 3))


if __name__ == "__main__":
    main()
