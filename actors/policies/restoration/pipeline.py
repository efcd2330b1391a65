"""Restoration painter as a diffusers pipeline, and the whole checkpoint of it. All its components are stock classes.

Copies of this file and of ``image_model`` lie in every checkpoint, so that the plain library can paint with it:
``DiffusionPipeline.from_pretrained(directory, custom_pipeline=directory, trust_remote_code=True)``.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from PIL import Image

from .image_model import Guidance, encode_text, make_condition, predict_guided

Picture = NDArray[np.uint8] | Image.Image
"""RGB; ``uint8[H, W, 3]``."""
Prompted = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, Any]


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

    def encode_prompt(self, prompt: Sequence[str], guidance_scale: float = 1.0) -> Prompted:
        """Encode texts, each padded to the tokenizer's length.

        Returns:
            States ``[B, n, d]`` and mask ``[B, n]``, and under guidance the same of the empty text, else None.
        """
        texts = [*prompt] if guidance_scale == 1 else [*prompt, *[""] * len(prompt)]
        encoded = self.tokenizer(texts, truncation=True, padding="max_length", return_tensors="pt").to(
            self.device
        )
        states, mask = encode_text(self.text_encoder, encoded["input_ids"], encoded["attention_mask"].bool())
        num = len(prompt)
        return (
            states[:num],
            mask[:num],
            *((None, None) if guidance_scale == 1 else (states[num:], mask[num:])),
        )

    @torch.no_grad()
    def __call__(  # noqa: PLR0913  # as diffusers' pipelines
        self,
        degraded: Picture | Sequence[Picture],
        previous: Picture | Sequence[Picture] | None = None,
        prompt: str | Sequence[str] = "",
        height: int = 64,
        width: int = 64,
        num_inference_steps: int = 5,
        guidance_scale: float = 1.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Paint a picture for each degraded photo.

        A latent ``u`` is a picture in units of the source's noise, ``x = degraded + source_std u``: the flow starts at
        standard normal noise, as diffusers' do.

        Args:
            degraded: The degraded photos.
            previous: The chain's pictures before these, or None.
            prompt: The chain's text so far, one for all or one each.
            height: Of the pictures, pixels.
            width: Likewise.
            num_inference_steps: K.
            guidance_scale: Classifier-free guidance, as in training; 1 is none.
            generator: Draws the source noise.
            latents: The source noise, ``[B, 3, height, width]``; None draws it.
            output_type: ``pil``, ``np`` (0..1), ``pt`` (0..1) or ``latent``.
            return_dict: Whether to return an ``ImagePipelineOutput``, or a tuple.

        Returns:
            The pictures.
        """
        photos = [np.asarray(photo) for photo in _listed(degraded)]
        before = [None] * len(photos) if previous is None else [np.asarray(p) for p in _listed(previous)]
        texts = [prompt] * len(photos) if isinstance(prompt, str) else list(prompt)
        text, mask, no_text, no_mask = self.encode_prompt(texts, guidance_scale)
        condition = make_condition(photos, before, (height, width), (text, mask))
        guidance = (
            None if no_text is None else Guidance(scale=guidance_scale, text=no_text, text_mask=no_mask)
        )
        if latents is None:
            latents = randn_tensor(condition.degraded.shape, generator=generator, device=text.device)
        latents = latents.to(condition.degraded)
        std = self.config.source_std
        sigmas = np.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps)
        self.scheduler.set_timesteps(sigmas=sigmas.tolist(), device=text.device)
        for timestep in self.scheduler.timesteps:
            sigma = (timestep / self.scheduler.config.num_train_timesteps).expand(len(photos))
            x = condition.degraded + std * latents
            clean = predict_guided(self.unet, x, sigma, condition, guidance, self.config.patch)
            velocity = (x - clean) / (std * sigma[:, None, None, None])
            latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        pictures = condition.degraded + std * latents
        if output_type != "latent":
            pictures = VaeImageProcessor().postprocess(pictures, output_type=output_type)
        return ImagePipelineOutput(images=pictures) if return_dict else (pictures,)

    def save_pretrained(self, directory: str | Path, **kwargs: Any) -> None:
        """Write all components and the two files of code."""
        super().save_pretrained(directory, **kwargs)
        here = Path(__file__)
        shutil.copyfile(here, Path(directory) / "pipeline.py")
        shutil.copyfile(here.with_name("image_model.py"), Path(directory) / "image_model.py")


def _listed(pictures: Picture | Sequence[Picture]) -> list[Picture]:
    return [pictures] if isinstance(pictures, (np.ndarray, Image.Image)) else list(pictures)
