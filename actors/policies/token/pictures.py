"""Pictures of a language model's context as its own processor prepares them, for whole batches.

No family is named: the processor decides layouts, sizes and further inputs. It is called on placeholders alone; ids
come expanded from the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from actors.policies.token.vocabulary import PictureMark
from rl.types import Pixels

DUMMY_PX = 28
"""Edge of the black picture that a row without pictures gets behind its end, where nothing sees it."""
_IDS = ("input_ids", "attention_mask")
_TYPES = "token_type_ids"


class PictureInputs:
    """Turns the pictures of a batch's rows into what the model takes beside ids.

    Args:
        processor: Of the checkpoint.
        mark: Of a picture.
    """

    def __init__(self, processor: Any, mark: PictureMark) -> None:
        self._processor, self._mark = processor, mark
        self._costs: dict[tuple[int, ...], list[int]] = {}
        """What a placeholder is expanded to, by the picture's size, which alone decides it."""
        self._types = next((name for name in processor.model_input_names if name.endswith(_TYPES)), None)
        self.dummy: Pixels = np.zeros((DUMMY_PX, DUMMY_PX, 3), dtype=np.uint8)
        self.dummy_ids = [i for part in self.expanded(mark.ids, [self.dummy]) for i in part]

    def prepared(self, rows: Sequence[Sequence[Pixels]]) -> dict[str, Tensor]:
        """Return pixels, sizes and the like, in the layout that the model takes.

        Args:
            rows: The pictures of each row, in order; every row has at least one.
        """
        return {
            name: tensor
            for name, tensor in self._processed(rows).items()
            if name not in _IDS and not name.endswith(_TYPES)
        }

    def types(self, rows: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return what kind of token each id is, ``[B, S]``, where the model asks for it."""
        if self._types is None:
            return {}
        kinds = self._processor.create_mm_token_type_ids([row.tolist() for row in rows])
        return {self._types: pad_sequence([torch.tensor(kind) for kind in kinds], batch_first=True)}

    def expanded(self, ids: Sequence[int], pictures: Sequence[Pixels]) -> list[list[int]]:
        """Expand placeholders as the engine does; for contexts that no engine has seen.

        Args:
            ids: One placeholder a picture, ``[t]``.
            pictures: In order.

        Returns:
            What each id becomes: itself, or all that stands for its picture.

        Raises:
            ValueError: If placeholders and pictures differ in number.
        """
        placeholder = self._mark.placeholder
        if (num := list(ids).count(placeholder)) != len(pictures):
            raise ValueError(f"{num} placeholders, but {len(pictures)} pictures")
        for picture in pictures:
            if picture.shape not in self._costs:
                self._costs[picture.shape] = self._processed([[picture]])["input_ids"][0].tolist()
        left = iter([self._costs[picture.shape] for picture in pictures])
        return [next(left) if token == placeholder else [int(token)] for token in ids]

    def _processed(self, rows: Sequence[Sequence[Pixels]]) -> Any:
        token = self._processor.tokenizer.convert_ids_to_tokens(self._mark.placeholder)
        return self._processor(
            text=[token * len(row) for row in rows],
            images=[[Image.fromarray(picture) for picture in row] for row in rows],
            padding=True,
            add_special_tokens=False,
            return_tensors="pt",
        )
