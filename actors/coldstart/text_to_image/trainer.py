"""Cold start of the text-to-image painter: its net by flow matching on what the source of prompts says is right."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.coldstart.supervised import run_supervised
from actors.coldstart.task import ColdstartTask, training_prompts
from actors.coldstart.text_to_image.examples import batches, encode_examples
from actors.policies.text_to_image.small import make_text_to_image
from rl.chain.painting import question_text
from rl.data.source import prompt_source


def train_text_to_image(task: ColdstartTask) -> None:
    """Make a small painter, train its net, and write it in the diffusers layout.

    Raises:
        DataError: If the source of prompts knows no right pictures.
    """
    config, start = task.config, task.config.coldstart
    ((name, block),) = config.chain.items()
    prompts, source = training_prompts(config, 0, start.num_examples), prompt_source(config)
    texts = [question_text(prompt) for prompt in prompts]
    pictures = [source.answer(prompt, config.chain, config.seed).pictures[name] for prompt in prompts]
    longest_px = max(block.size_px, block.height_px)
    pipeline = make_text_to_image(texts=texts, longest_px=longest_px, seed=config.seed)
    run_supervised(
        task.spec(num_steps=start.image_steps, learning_rate=start.image_learning_rate),
        module=FlowMatching(pipeline.transformer),
        batches=batches(
            encode_examples(pipeline, texts, pictures),
            batch_size=start.image_batch_size,
            seed=config.seed,
            rank=task.rank,
            world=task.world_size,
        ),
        report=task.report,
    )
    if task.rank == 0:
        pipeline.save_pretrained(task.directory)


class FlowMatching(nn.Module):
    """A net under the loss of flow matching.

    Args:
        net: Called as StableDiffusion3's.

    Source:
        Lipman et al. 2023 (Flow Matching), eq. 23, on the straight way from picture to noise of Liu et al. 2023.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean squared error of the velocity.

        Args:
            batch: From ``batches``.
        """
        truth, noise, sigma = batch["truth"], batch["noise"], batch["sigma"]
        velocity = self.net(
            hidden_states=torch.lerp(truth, noise, sigma[:, None, None, None]),
            timestep=sigma * 1000.0,
            encoder_hidden_states=batch["text"],
            pooled_projections=batch["pooled"],
            return_dict=False,
        )[0]
        return F.mse_loss(velocity, noise - truth)
