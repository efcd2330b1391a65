"""Training data of the learned expert: pictures that a restoring policy could make, and how good they are.

It holds all that GRPO could be tempted by: blur, noise left or added, sharpening, compression, half a
restoration, and the image policy's own outputs at several noise levels.

Letters: N contents, V variants of each, H W pixels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from actors.coldstart.restoration.image_data import texts_so_far
from actors.coldstart.task import ColdstartTask
from actors.coldstart.unified.samples import TEMPERATURES, write_pictures
from actors.policies.family import family_of
from actors.rollout.unified_worker import UnifiedRolloutWorker
from actors.rollout.worker import RolloutSpec, RolloutWorker
from rl.chain.painting import PaintCall
from rl.restoration.degradation import LUMA, jpeg
from rl.restoration.kernels import resize_planes, to_bytes
from rl.restoration.names import DEGRADED, degraded_of
from rl.seeding import derive_seed
from rl.types import PREVIOUS, Floats, Pixels, Prompt, SamplerSpec

NOISE = (0.0, 0.5, 1.0, 1.5, 2.1)
"""Noise levels of the restorations that the expert sees, in units of Flow-GRPO's. Between them it learns what
sampling noise looks like; within one level nobody can tell better from worse without the truth. Whatever GRPO
samples with, they are painted alike, so that one cold start serves all samplers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertDataset:
    """Variants of photographs, and how good each is."""

    pictures: NDArray[np.uint8]
    """``[N, V, H, W, 3]``."""
    qualities: Floats
    """``[N, V]``, SSIM to the truth."""
    kinds: tuple[str, ...]
    """``[V]``: what was done; ``truth`` first, restored outputs begin with ``restored/``."""

    def columns(self, prefix: str) -> list[int]:
        """Return the indexes of the variants whose kind begins so."""
        return [index for index, kind in enumerate(self.kinds) if kind.startswith(prefix)]


def make_expert_dataset(
    truths: Sequence[Pixels], restored: Mapping[str, Sequence[Pixels]], *, seed: int
) -> ExpertDataset:
    """Make and grade variants of photographs.

    Args:
        truths: N photographs of one size.
        restored: Outputs of the image policy by any name, e.g. ``noise0.7/sample1``; each holds one picture
            a truth, in order. Several samples at one noise level teach what matters most: telling apart the
            near-equal restorations of one group.
        seed: Of the variants.

    Raises:
        ValueError: If a sequence in ``restored`` differs from ``truths`` in number or size.
    """
    for name, outputs in restored.items():
        if [o.shape for o in outputs] != [t.shape for t in truths]:
            raise ValueError(f"restored[{name!r}] must hold one picture a truth, of its size")
    rng = np.random.default_rng(seed)
    rows = [
        make_variants(truth, rng) | {f"restored/{name}": outputs[i] for name, outputs in restored.items()}
        for i, truth in enumerate(truths)
    ]
    pictures = np.stack([np.stack(list(row.values())) for row in rows])
    return ExpertDataset(
        pictures=pictures,
        qualities=np.stack([ssim_luma(p, truth) for p, truth in zip(pictures, truths, strict=True)]),
        kinds=tuple(rows[0]),
    )


def restorations(task: ColdstartTask, prompts: Sequence[Prompt]) -> dict[str, list[Pixels]]:
    """Sample the cold-started image policy at several noise levels, a picture a prompt and level.

    A unified policy, which has no noise, is sampled at several temperatures.
    """
    config, settings = task.config, task.config.policies[task.policy]
    family = family_of(task.policy, settings)
    worker: RolloutWorker = family.load("rollout")(
        RolloutSpec(
            directory=task.made / task.policy,
            config=settings,
            family=family,
            chain=config.chain,
            seed=config.seed,
            deterministic=True,
        )
    )
    worker.setup()
    if isinstance(worker, UnifiedRolloutWorker):
        made = {f"temperature{t:.2f}": write_pictures(worker, task, prompts, t) for t in TEMPERATURES}
    else:
        level = SamplerSpec().noise_level
        made = {f"noise{share:.2f}": paint_all(worker, task, prompts, share * level) for share in NOISE}
    out: dict[str, list[Pixels]] = {}
    for number, (name, pictures) in enumerate(made.items()):
        task.note(f"pictures {number}/{len(made)}")
        out[name] = asyncio.run(pictures)
    worker.close()
    return out


async def paint_all(
    worker: RolloutWorker, task: ColdstartTask, prompts: Sequence[Prompt], level: float
) -> list[Pixels]:
    """Paint the image blocks of every prompt with its true texts and return the last pictures."""
    config = task.config
    painted: list[Pixels] = []
    images = [n for n, b in config.chain.items() if b.kind == "image" and b.policy == task.policy]
    for turn, name in enumerate(images):
        call = PaintCall[Pixels](config.chain)
        for index, prompt in enumerate(prompts):
            call.add(
                prompt.prompt_id,
                name,
                pictures={DEGRADED: degraded_of(prompt)} | ({PREVIOUS: painted[index]} if turn else {}),
                sampler=SamplerSpec(noise_level=level),
                words={"text": texts_so_far(prompt, turn + 1)[-1], "question": ""},
                seed=derive_seed(config.seed, prompt.prompt_id, f"{level:.3f}", name),
            )
        replies, *parts = await worker.generate(call.requests, *call.pictures)
        painted = [block.picture for block in call.taken_apart(replies, parts)]
    return painted


def make_variants(truth: Pixels, rng: np.random.Generator) -> dict[str, Pixels]:
    """Make one picture of each kind from a truth, at random severity.

    ``near/`` kinds are equal but for small differences, as the restorations of one group are.
    """
    sharp = truth.astype(np.float32).transpose(2, 0, 1) / np.float32(255)
    small = _down_up(sharp, rng.uniform(1.5, 4.0))
    blurred = _blur(sharp, rng.uniform(0.4, 2.5))
    base = small + rng.uniform(0.0, 0.6) * (sharp - small)
    near = rng.uniform(0.005, 0.03)
    planes = {
        "truth": sharp,
        "truth/noise-light": sharp + _noise(sharp, rng.uniform(0.01, 0.03), rng),
        "truth/noise": sharp + _noise(sharp, rng.uniform(0.03, 0.12), rng),
        "truth/sharpened": _sharpen(sharp, rng),
        "truth/jpeg": jpeg(sharp, int(rng.integers(15, 80))),
        "bicubic": small,
        "bicubic/noise": small + _noise(small, rng.uniform(0.01, 0.1), rng),
        "bicubic/sharpened": _sharpen(small, rng),
        "bicubic/jpeg": jpeg(small, int(rng.integers(15, 80))),
        "blurred": blurred,
        "blurred/noise": blurred + _noise(blurred, rng.uniform(0.01, 0.08), rng),
    }
    for index in range(4):
        share = rng.uniform(-0.1, 0.1)
        added = _noise(sharp, near * rng.uniform(0.2, 2.0), rng, grain_px=rng.choice([0.0, 0.5, 1.0]))
        planes[f"near/{index}"] = base + share * (sharp - small) + added
    return {kind: to_bytes(np.ascontiguousarray(p.transpose(1, 2, 0))) for kind, p in planes.items()}


def ssim_luma(pictures: NDArray[np.uint8], truth: Pixels) -> Floats:
    """Return the SSIM of pictures to one truth, on rounded luma, without border.

    The metric ``ssim`` to four digits, thirty times faster: its window is separable, and grading the data set
    would otherwise take as long as the fit.

    Args:
        pictures: ``uint8[V, H, W, 3]``.
        truth: ``uint8[H, W, 3]``, edges of at least 11 pixels.

    Source:
        Wang et al. 2004, eq. 13; window 11 x 11, sigma 1.5, K1 0.01, K2 0.03.
    """

    def blur(planes: Floats) -> Floats:
        means: Floats = gaussian_filter(planes, sigma=1.5, radius=5, axes=(-2, -1))[..., 5:-5, 5:-5]
        return means

    x: Floats = np.rint(pictures @ LUMA)
    y: Floats = np.rint(truth @ LUMA)
    mean_x, mean_y = blur(x), blur(y)
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    structure = np.maximum(2 * covariance + 7.65**2, 0) / (variances + 7.65**2)
    similarity = (2 * mean_x * mean_y + 2.55**2) / (mean_x**2 + mean_y**2 + 2.55**2) * structure
    graded: Floats = similarity.mean(axis=(-2, -1), dtype=np.float64).astype(np.float32)
    return graded


def _down_up(planes: Floats, factor: float) -> Floats:
    _, height, width = planes.shape
    small = resize_planes(planes, max(2, round(height / factor)), max(2, round(width / factor)), "area")
    return resize_planes(small, height, width, "bicubic")


def _blur(planes: Floats, sigma: float) -> Floats:
    blurred: Floats = gaussian_filter(planes, sigma=(0, sigma, sigma), mode="mirror")
    return blurred


def _sharpen(planes: Floats, rng: np.random.Generator) -> Floats:
    return planes + np.float32(rng.uniform(0.5, 2.5)) * (planes - _blur(planes, rng.uniform(0.7, 1.5)))


def _noise(planes: Floats, level: float, rng: np.random.Generator, *, grain_px: float = 0.0) -> Floats:
    """Draw Gaussian noise of a standard deviation ``level``, smoothed to grains of ``grain_px``."""
    noise = rng.standard_normal(planes.shape, dtype=np.float32)
    if grain_px:
        noise = _blur(noise, grain_px)
    scaled: Floats = noise * np.float32(level / max(float(noise.std()), 1e-6))
    return scaled
