"""Cold start of a picture policy: which small painter is made from nothing follows from its prompts."""

from __future__ import annotations

from actors.coldstart.restoration.image_trainer import train_image
from actors.coldstart.task import ColdstartTask
from actors.coldstart.text_to_image.trainer import train_text_to_image
from rl.data.source import prompt_source


def train_painter(task: ColdstartTask) -> None:
    """Make a restorer where prompts show photographs, else a painter of what prompts say."""
    shows_photographs = bool(prompt_source(task.config).train(0).shown)
    train = train_image if shows_photographs else train_text_to_image
    train(task)
