"""Pictures that a prompt shows to a unified policy: the size they are seen at, and their codes in the prompt's ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from configs.schema import BlockConfig
from rl.chain.plan import PictureTokens
from rl.data.images import resize
from rl.types import Ints, Pixels


def seen(picture: Pixels, chain: Mapping[str, BlockConfig], stride_px: int) -> Pixels:
    """Scale a picture to the chain's last one, bicubic; where the chain has none to whole codes.

    Source:
        PURE's released code, which RealSR-R1 builds on: the degraded photo enters at the output's size.
    """
    images = [block for block in chain.values() if block.kind == "image"]
    if images:
        return resize(picture, images[-1].height_px or images[-1].size_px, images[-1].size_px)
    height, width = (max(1, edge // stride_px) * stride_px for edge in picture.shape[:2])
    return resize(picture, height, width)


def with_codes(
    ids: Iterable[int], placeholder: int, codes: Sequence[Ints], pictures: PictureTokens
) -> list[int]:
    """Put pictures in the place of their placeholders.

    Args:
        ids: Of a prompt, one placeholder a picture.
        placeholder: The id.
        codes: ``[rows, columns]`` of each picture, in order.
        pictures: Ids that pictures are written with.
    """
    streams = map(pictures.stream, codes)
    return [i for token in ids for i in (next(streams) if token == placeholder else (token,))]
