"""Rollout worker of a unified policy: a text worker that also makes codes of pictures and pictures of codes.

The picture tokenizer works in the engine's process, in a thread of its own: its few milliseconds a picture are not
worth another process with another gigabyte of libraries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from actors.policies.token.checkpoint import local_directory
from actors.policies.unified.codec import PictureCodec, load_codec
from actors.rollout.text_worker import TextRolloutWorker
from actors.rollout.worker import RolloutSpec
from rl.types import Ints, Pixels


class UnifiedRolloutWorker(TextRolloutWorker):
    """Writes whole chains. Its picture tokenizer is the checkpoint's and is never trained by GRPO."""

    def __init__(self, spec: RolloutSpec) -> None:
        super().__init__(spec)
        self._codec: PictureCodec | None = None

    def setup(self) -> None:
        """Start the engine and load the picture tokenizer.

        Raises:
            ConfigError: If the checkpoint has none, or a tag of the chain is not one token of the checkpoint's.
            RolloutError: If vLLM cannot serve the checkpoint.
        """
        self._codec = load_codec(local_directory(self.spec.directory), self.spec.device)
        super().setup()

    @property
    def codec(self) -> PictureCodec:
        """The picture tokenizer; there after ``setup``."""
        assert self._codec is not None
        return self._codec

    async def encode(self, pictures: Sequence[Pixels]) -> list[Ints]:
        """Return the codes ``[H / stride, W / stride]`` of each picture."""
        return await asyncio.to_thread(self.codec.encode_batch, pictures)

    async def decode(self, codes: Sequence[Ints]) -> list[int | Pixels]:
        """Make pictures of codes.

        Args:
            codes: ``[rows, columns]`` of each.

        Returns:
            Their number, then each picture ``uint8[H, W, 3]``.
        """
        pictures = await asyncio.to_thread(self.codec.decode_batch, codes)
        return [len(pictures), *pictures]
