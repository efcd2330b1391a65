"""What a judge model's score must be, by transformers alone, one chain at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from rl.compat.torchvision import ensure_torchvision
from rl.types import Pixels
from tests.reference.tiny_text import build

PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'image' %}" + PICTURE + "{% else %}{{ part.text }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_judge(directory: Path) -> None:
    """Write a small Qwen2.5-VL that can be chatted with."""
    build(directory, seed=1)
    (directory / "chat_template.jinja").write_text(TEMPLATE)


def turn(content: str) -> str:
    """Write the whole prompt of one turn, as the template does."""
    return f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


class PlainJudge:
    """Scores with a plain forward pass over the whole prompt."""

    def __init__(self, directory: Path) -> None:
        ensure_torchvision()
        from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

        self._processor: Any = AutoProcessor.from_pretrained(directory)
        self._model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(directory).eval()

    def score(self, content: str, pictures: Sequence[Pixels], scale: dict[str, float]) -> float:
        """Return the mean value of the next token, given that it is one of the answers."""
        images = [Image.fromarray(picture) for picture in pictures]
        inputs = self._processor(text=[turn(content)], images=images, return_tensors="pt")
        with torch.no_grad():
            logits = self._model(**inputs).logits[0, -1].double()
        vocabulary = self._processor.tokenizer.get_vocab()
        odds = {answer: torch.exp(logits[vocabulary[answer]]).item() for answer in scale}
        return sum(odds[a] * value for a, value in scale.items()) / sum(odds.values())
