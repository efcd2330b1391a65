"""Cold start of the picture policy: its net under a supervised loss, and the task that trains it.

Letters: B rows, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.coldstart.restoration.image_data import batches, make_dataset
from actors.coldstart.supervised import run_supervised
from actors.coldstart.task import ColdstartTask, training_prompts
from actors.policies.denoising.checkpoint import read_pipeline
from actors.policies.denoising.pipeline import load_pipeline
from actors.policies.restoration.image_model import (
    RESIDUAL_SCALE,
    Condition,
    encode_text,
    predict_clean,
    resize,
)
from actors.policies.restoration.small import build_image_policy
from configs.call import call_arguments
from configs.derive import denoising_policy
from rl.data.source import prompt_source
from rl.restoration.names import DEGRADED


def train_image(task: ColdstartTask) -> None:
    """Train the image policy to restore, and write it in the diffusers layout."""
    config, start = task.config, task.config.coldstart
    sizes = [b.size_px for b in config.chain.values() if b.kind == "image" and b.policy == task.policy]
    first = task.work / f"first-{task.rank}"
    build_image_policy(first, texts=prompt_source(config).training_texts(), sizes=sizes, seed=config.seed)
    model = SupervisedImageModel(first)
    prompts = training_prompts(config, 0, start.num_examples)
    call = call_arguments(
        denoising_policy(config.policies[task.policy]).call, key=f"policies.{task.policy}.call"
    )
    dataset = make_dataset(prompts, sizes=sizes, tokenizer=model.tokenizer, shown=call.get(DEGRADED))
    run_supervised(
        task.spec(num_steps=start.image_steps, learning_rate=start.image_learning_rate),
        module=model,
        batches=batches(
            dataset,
            batch_size=start.image_batch_size,
            seed=config.seed,
            rank=task.rank,
            world=task.world_size,
        ),
        report=task.report,
    )
    if task.rank == 0:
        model.export(task.directory)


class SupervisedImageModel(nn.Module):
    """Net and text encoder under the supervised loss.

    The picture before, which a picture is conditioned on, is the net's own one-step guess: with ground truth in
    its place the net would learn to trust what it never gets when it samples.

    Args:
        directory: Checkpoint to start from.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        files = read_pipeline(directory)
        # In a list it is hidden from nn.Module.
        self._pipeline = [load_pipeline(files, torch.float32, with_encoders=True, trusts_code=False)]
        pipeline = self._pipeline[0]
        self._patch, self._source_std = int(pipeline.config.patch), float(pipeline.config.source_std)
        self.unet: nn.Module = pipeline.unet.requires_grad_(True)
        self.text_encoder: nn.Module = pipeline.text_encoder.requires_grad_(True)

    @property
    def tokenizer(self) -> Any:
        """The text condition's tokenizer."""
        return self._pipeline[0].tokenizer

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean squared error of the clean picture, in units of a typical residual.

        Each row is trained twice: at the source, where all that is known is the condition, and at a later step
        on the way to the truth or to what the net has just guessed.

        Args:
            batch: From ``batches``.

        Returns:
            Scalar; 1 is about what bicubic leaves.
        """
        text, mask = encode_text(self.text_encoder, batch["text_ids"], batch["text_mask"])
        degraded, truth = batch["degraded"], batch["truth"]
        previous = self._guess(batch, text.detach())
        has_previous = batch["has_previous"]
        condition = Condition(
            degraded=degraded,
            previous=torch.where(_rows(has_previous), previous, degraded),
            flags=torch.stack([has_previous.float(), batch["log_scale"][:, 1]], dim=1),
            text=text,
            text_mask=mask,
        )
        sigma = batch["sigma"]
        source = degraded + self._source_std * batch["noise"]
        first = predict_clean(self.unet, source, torch.ones_like(sigma), condition, self._patch)
        end = torch.where(_rows(batch["from_guess"]), first.detach(), truth)
        noisy = torch.lerp(end, source, _rows(sigma))
        later = predict_clean(self.unet, noisy, sigma, condition, self._patch)
        return (F.mse_loss(first, truth) + F.mse_loss(later, truth)) / (2 * RESIDUAL_SCALE**2)

    @torch.no_grad()
    def _guess(self, batch: Mapping[str, Tensor], text: Tensor) -> Tensor:
        """Guess the picture before in one step, add a little noise, and enlarge it."""
        degraded = batch["degraded_before"]
        if not bool(batch["has_previous"].any()):
            return batch["degraded"]
        scale = batch["log_scale"][:, 0]
        condition = Condition(
            degraded=degraded,
            previous=degraded,
            flags=torch.stack([torch.zeros_like(scale), scale], dim=1),
            text=text,
            text_mask=batch["text_mask"],
        )
        source = degraded + self._source_std * batch["noise_before"]
        guess = predict_clean(self.unet, source, torch.ones_like(scale), condition, self._patch)
        guess = guess + _rows(batch["previous_noise"]) * batch["noise_before"].flip(0)
        height, width = batch["degraded"].shape[2:]
        return resize(guess.clamp(-1, 1), (height, width))

    def export(self, directory: Path) -> None:
        """Write the pipeline with the present weights."""
        self._pipeline[0].save_pretrained(directory)


def _rows(values: Tensor) -> Tensor:
    """Shape ``[B]`` to ``[B, 1, 1, 1]``."""
    return values[:, None, None, None]
