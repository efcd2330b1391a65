"""A step of ours against a plain loop of Flow-GRPO as it is published, on the same net and the same work.

    python -m benchmarks.versus_flow_grpo               # three rounds, runs in turn

An SD3-shaped net of 14 M parameters with random weights paints 4 prompts 8 times each, 64 px, in 10 steps; the reward
is brightness. The loop is one process on two threads: it samples with the pipeline's net and the published random step,
records log-probs, and then takes the loss of every trained step of all 32 pictures with one optimizer step at the end
(the recipe of Liu et al. 2025; log-probs are means over elements). Ways of ours: all 9 random steps trained, which is
equal work, and a window of two. Medians over rounds of each run's median step, its first two left out.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.policies.text_to_image.autoencoder import COLOURS
from actors.policies.text_to_image.small import MAX_TOKENS, TEXT_WIDTH, make_text_to_image
from benchmarks.side_by_side import WARM_UP, Run, Way, in_turn, run_of, say, table, train_other, train_ours

PROMPTS, GROUP, SIZE_PX, NUM_STEPS = 4, 8, 64, 10
LEVEL, LEARNING_RATE, CLIP = 0.7, 1e-4, 1e-4
THREADS = 2
MODULE = "benchmarks.versus_flow_grpo"
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


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--other", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.other:
        train_plainly(arguments.other, arguments.steps)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_work(folder)
        two = {"kind": "random", "count": 2}
        ways = [
            Way(
                "plain loop, 9 trained steps",
                lambda steps: train_other(MODULE, folder, steps, threads=THREADS),
            ),
            Way("vlcot, 9 trained steps", lambda steps: run_ours(folder, steps, "all")),
            Way(
                "vlcot, 2 trained steps, drawn anew for each group",
                lambda steps: run_ours(folder, steps, two),
            ),
        ]
        runs = in_turn(ways, rounds=arguments.rounds, steps=arguments.steps)
    print("\n".join(table(runs)))


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


def run_ours(folder: Path, steps: int, trained: Any) -> Run:
    """Train with ours."""
    num = PROMPTS * GROUP
    config = {
        "num_steps": steps,
        "prompts_per_step": PROMPTS,
        "group_size": GROUP,
        "save_every": steps,
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
    rows = train_ours(folder, config, threads=THREADS)
    return run_of(rows, reward="brightness")


# ---------------------------------------------------------------------------- the plain loop


def train_plainly(folder: Path, steps: int) -> None:
    """Run the published recipe and write the seconds of its steps."""
    torch.set_num_threads(THREADS)
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline.from_pretrained(folder / "model")
    net = pipe.transformer.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    texts = (folder / "prompts.txt").read_text().splitlines()
    step_s, sampling_s, rewards = list[float](), list[float](), list[float]()
    for step in range(steps):
        begin = time.perf_counter()
        asked = [texts[(step * PROMPTS + i) % len(texts)] for i in range(PROMPTS)]
        sampled_s, reward = train_step(pipe, net, optimizer, asked)
        step_s.append(time.perf_counter() - begin)
        sampling_s.append(sampled_s - begin)
        rewards.append(reward)
    sampling = statistics.median(sampling_s[WARM_UP:])
    parts = {"sampling": sampling, "rest": statistics.median(step_s[WARM_UP:]) - sampling}
    say(folder, Run(step_s=step_s, parts=parts, rewards=rewards))


def train_step(pipe: Any, net: Any, optimizer: Any, asked: list[str]) -> tuple[float, float]:
    """Sample, score, and take one optimizer step over all trained steps.

    Returns:
        When sampling ended, on ``perf_counter``'s clock, and the mean reward.
    """
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
    sampled_s = time.perf_counter()
    for index in range(NUM_STEPS - 1):
        mean, std = predict(net, latents[index], times[index], sigmas[index : index + 2], told, pooled)
        ratio = torch.exp(log_prob(latents[index + 1], mean, std) - before[index])
        clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
        loss = torch.maximum(-advantages * ratio, -advantages * clipped).mean() / (NUM_STEPS - 1)
        loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return sampled_s, float(rewards.mean())


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
