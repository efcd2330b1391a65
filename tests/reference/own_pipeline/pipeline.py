"""Pipeline of a user's own: text to picture by flow matching in pixel space. It imports nothing of this project."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor


class OwnPipeline(DiffusionPipeline):
    """Paint pictures that prompts describe."""

    model_cpu_offload_seq = "text_encoder->unet"

    def __init__(self, unet: Any, scheduler: Any, text_encoder: Any, tokenizer: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)

    def encode_prompt(self, prompt: list[str], device: torch.device) -> torch.Tensor:
        """Return the text encoder's hidden states, ``[prompts, tokens, width]``."""
        tokens = self.tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt")
        return self.text_encoder(tokens.input_ids.to(device))[0]

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 20,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Paint one picture a prompt; ``latents`` are noise of its shape, ``[prompts, 3, height, width]``."""
        prompts = [prompt] if isinstance(prompt, str) else prompt
        device = self._execution_device
        size = (height or self.unet.config.sample_size, width or self.unet.config.sample_size)
        text = self.encode_prompt(prompts, device)
        if latents is None:
            shape = (len(prompts), self.unet.config.in_channels, *size)
            latents = randn_tensor(shape, generator=generator, device=device, dtype=text.dtype)
        sigmas = np.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps)
        self.scheduler.set_timesteps(sigmas=sigmas, device=device)
        for t in self.progress_bar(self.scheduler.timesteps):
            velocity = self.unet(latents, t, encoder_hidden_states=text, return_dict=False)[0]
            latents = self.scheduler.step(velocity, t, latents, return_dict=False)[0]
        images = self.image_processor.postprocess(latents, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)
