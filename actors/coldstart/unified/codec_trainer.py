"""Cold start of the unified policy's picture codec: k-means of the source's photographs, then training.

Letters: B pictures, N photographs, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.coldstart.supervised import run_supervised
from actors.coldstart.task import ColdstartTask, training_prompts
from actors.policies.restoration.image_model import to_latents
from actors.policies.unified.codec import PictureCodec
from actors.policies.unified.small_codec import LATENT_STD, MAX_PATCHES_A_CODE, PatchCodec, patches_of
from configs.schema import BlockConfig
from rl.data.images import resize
from rl.errors import ConfigError
from rl.restoration.names import degraded_of, needed_truth
from rl.seeding import derive_seed
from rl.types import Prompt

NUM_PHOTOGRAPHS = 1000
"""Most photographs that are degraded for it; every one is seen at all sizes, turned and mirrored."""
LEARNING_RATE = 3e-3
COMMITMENT = 10.0
"""Weight of the commitment loss, beta of the source, which has 0.25. A patch's k-means code is nearly the best already,
and the gradient straight through the codebook leads away from it: at 0.25 training loses what k-means has."""
PICTURE_VARIANCE = 0.02
"""Typical squared error of a picture in -1..1: the picture's loss is near 1."""
PIXELS_A_STEP = 16 * 64 * 64
"""Of all ranks together."""

Size = tuple[int, int]
"""Height and width, pixels."""


def train_codec(
    task: ColdstartTask, directory: Path, *, num_steps: int, stride: int = 4, num_codes: int = 1024
) -> PictureCodec:
    """Make a codec for a chain's pictures from nothing, train it and write it as ``directory/codec/``.

    Args:
        task: Of the cold start; all its ranks train, the first one writes.
        directory: Checkpoint folder of the policy.
        num_steps: Optimizer steps; 0 leaves it at k-means.
        stride: Pixels of an edge that a code stands for.
        num_codes: Of the codebook.

    Returns:
        The codec, the same on all ranks.

    Raises:
        ConfigError: If a picture size of the chain is not a multiple of the stride.
        DataError: If the source has no true photographs, or too few for the codes.
    """
    config = task.config
    sizes = picture_sizes(config.chain.values(), stride)
    num = min(config.coldstart.num_examples, NUM_PHOTOGRAPHS)
    pictures = codec_pictures(training_prompts(config, 0, num), sizes)
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "codec start"))
    torch.manual_seed(derive_seed(config.seed, "codec nets"))
    codec = PatchCodec(stride=stride, num_codes=num_codes)
    codec.start(patches_of(pictures, stride, MAX_PATCHES_A_CODE * num_codes, generator), generator)
    run_supervised(
        task.spec(num_steps=num_steps, learning_rate=LEARNING_RATE),
        module=CodecLoss(codec),
        batches=batches(pictures, seed=config.seed, rank=task.rank, world=task.world_size),
        report=task.report,
    )
    trained = PictureCodec(codec.eval(), torch.device("cpu"))
    if task.rank == 0:
        trained.save(directory)
    return trained


class CodecLoss(nn.Module):
    """A codec under the loss of a vector quantiser: picture, codebook and commitment.

    The decoder's gradient goes to the encoder as if there were no codebook between (straight through).

    Args:
        codec: To be trained.

    Source:
        van den Oord et al. 2017 (Neural Discrete Representation Learning), eq. 3, with squared error of the picture.
    """

    def __init__(self, codec: PatchCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the loss, about 1 at first.

        Args:
            batch: From ``batches``.
        """
        pictures, codec = batch["pictures"], self.codec
        latents = codec.latents(pictures)
        entries = codec.entries(codec.nearest(latents))
        seen = codec.pixels(latents + (entries - latents).detach())
        codebook = F.mse_loss(entries, latents.detach())
        commitment = F.mse_loss(latents, entries.detach())
        rounding = (codebook + COMMITMENT * commitment) / LATENT_STD**2
        return F.mse_loss(seen, pictures) / PICTURE_VARIANCE + rounding


def picture_sizes(blocks: Iterable[BlockConfig], stride: int) -> list[Size]:
    """Return the sizes of a chain's pictures, in the order of writing.

    Raises:
        ConfigError: If one is not a multiple of the stride.
    """
    sizes = [(block.height_px or block.size_px, block.size_px) for block in blocks if block.kind == "image"]
    for size in sizes:
        if odd := [edge for edge in size if edge % stride]:
            raise ConfigError(
                f"chain: size_px={odd[0]} is not a multiple of {stride}, the pixels that a code of the picture codec "
                "stands for"
            )
    return sizes


def codec_pictures(prompts: Sequence[Prompt], sizes: Sequence[Size]) -> list[Tensor]:
    """Collect what a chain's codec sees: true photographs at every size, degraded ones at the last.

    Returns:
        ``float32[N, 3, H, W]`` in -1..1 for each size, and one more for the degraded.

    Raises:
        DataError: If a prompt has no ground truth.
    """
    why = "the picture codec learns from ground truth, and it has none"
    truths = [needed_truth(prompt, why) for prompt in prompts]
    degraded = [degraded_of(prompt) for prompt in prompts]
    shown = [to_latents([resize(photo, *size) for photo in truths]) for size in sizes]
    return [*shown, to_latents([resize(photo, *sizes[-1]) for photo in degraded])]


def batches(
    pictures: Sequence[Tensor], *, seed: int, rank: int = 0, world: int = 1
) -> Iterator[dict[str, Tensor]]:
    """Yield batches of one size each, without end; a batch is turned and mirrored at random.

    Args:
        pictures: From ``codec_pictures``.
        seed: Of order and augmentation.
        rank: This worker; all ranks draw the same size at the same step.
        world: Number of workers.
    """
    common = np.random.default_rng(derive_seed(seed, "codec sizes"))
    generator = torch.Generator().manual_seed(derive_seed(seed, "codec pictures", rank))

    def below(most: int, num: int) -> Tensor:
        return torch.randint(most, (num,), generator=generator)

    # Small pictures cost less: as many batches of each size, more pictures in those of small ones.
    while True:
        drawn = pictures[int(common.integers(len(pictures)))]
        height, width = drawn.shape[2:]
        num = -(-PIXELS_A_STEP // (height * width * world))
        chosen = drawn[below(len(drawn), num)]
        flip, turns = below(2, 1), below(4, 1)
        chosen = torch.rot90(chosen.flip(3) if flip else chosen, int(turns), (2, 3))
        yield {"pictures": chosen.contiguous()}
