"""The picture policy's checkpoint as a diffusers pipeline. All its components are stock classes.

Copies of this file and of ``image_model`` lie in every checkpoint, so that the plain library can paint with it:
``DiffusionPipeline.from_pretrained(directory, custom_pipeline=directory, trust_remote_code=True)``.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray

from .image_model import predict_guided, prepare, to_pictures

Pixels = NDArray[np.uint8]


class RestorationPipeline(DiffusionPipeline):  # type: ignore[misc]  # diffusers is untyped
    """Restore one picture of a chain; the whole checkpoint of the picture policy."""

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        text_encoder: Any,
        tokenizer: Any,
        patch: int = 4,
        source_std: float = 0.1,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer)
        self.register_to_config(patch=patch, source_std=source_std)

    @torch.no_grad()
    def __call__(
        self,
        degraded: Pixels,
        previous: Pixels | None = None,
        prompt: str = "",
        size_px: int = 64,
        num_inference_steps: int = 5,
        generator: torch.Generator | None = None,
        guidance_scale: float = 1.0,
    ) -> Pixels:
        """Paint one picture with the stock scheduler, without sampling noise.

        Args:
            degraded: The degraded photo, ``uint8[h, w, 3]``.
            previous: The chain's picture before this one, or None.
            prompt: The chain's text so far.
            size_px: Edge of the square output, pixels.
            num_inference_steps: K.
            generator: Draws the source noise, on the CPU.
            guidance_scale: Classifier-free guidance, as in training; 1 is none.

        Returns:
            ``uint8[size_px, size_px, 3]``.
        """
        pictures, size = [(degraded, previous)], (size_px, size_px)
        condition, guidance, _ = prepare(
            self.tokenizer, self.text_encoder, [prompt], pictures, size, guidance_scale
        )
        noise = torch.randn(condition.degraded.shape, generator=generator).to(self.device)
        latents = condition.degraded + self.config.source_std * noise
        sigmas = np.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps)
        self.scheduler.set_timesteps(sigmas=sigmas.tolist(), device=self.device)
        for index, timestep in enumerate(self.scheduler.timesteps):
            sigma = self.scheduler.sigmas[index]
            clean = predict_guided(self.unet, latents, sigma[None], condition, guidance, self.config.patch)
            velocity = (latents - clean) / sigma
            latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        return to_pictures(latents)[0]

    def save_pretrained(self, directory: str | Path, **kwargs: Any) -> None:
        """Write all components and the two files of code."""
        super().save_pretrained(directory, **kwargs)
        here = Path(__file__)
        shutil.copyfile(here, Path(directory) / "pipeline.py")
        shutil.copyfile(here.with_name("image_model.py"), Path(directory) / "image_model.py")
