"""Made-up chains for checking rewards: whole ones of differing quality, and one that left the grammar."""

from __future__ import annotations

import dataclasses

import numpy as np

from configs.schema import BlockConfig
from rewards.format import REALSR_R1_BLOCKS
from rl.types import ChainView, Finish, Pixels, Reference


def example_blocks() -> dict[str, BlockConfig]:
    """Return the paper's seven blocks at a small size."""
    sizes = {"rough_image": 16, "middle_image": 32, "final_image": 64}
    return {
        name: BlockConfig(kind="image", policy="image", size_px=sizes[name], num_steps=2)
        if name in sizes
        else BlockConfig(kind="text", policy="text", max_tokens=16)
        for name in REALSR_R1_BLOCKS
    }


def example_chains(num: int = 6, *, seed: int = 0, size_px: int = 64) -> list[ChainView]:
    """Make chains of one prompt: whole ones of differing quality, and (the last) one that left the grammar.

    Args:
        num: Chains, at least 2.
        seed: Of the pictures' noise.
        size_px: Edge of the final picture; the degraded photo has a quarter of it.
    """
    rng = np.random.default_rng(seed)
    truth = _smooth_picture(size_px)
    labels = ("light blur", "downsample", "medium noise", "light compression", "upsample")
    reference = Reference(photo=truth, labels=labels, tags=("rock", "sky", "polar bear"))
    whole = [_whole_chain(i, truth, reference, rng) for i in range(num - 1)]
    text = "<degradation>light blur, downsample</degradation><rough_image>"
    block_text = {"degradation": "light blur, downsample"}
    broken = dataclasses.replace(
        whole[0],
        chain_id=f"example/0/{num - 1}",
        finish=Finish.MALFORMED,
        text=text,
        block_text=block_text,
        pictures={},
    )
    return [*whole, broken]


def _whole_chain(index: int, truth: Pixels, reference: Reference, rng: np.random.Generator) -> ChainView:
    noise = rng.normal(0.0, 4.0 * (index + 1), truth.shape)
    final = np.clip(truth + noise, 0, 255).astype(np.uint8)
    labels = [*reference.labels[:index], *["heavy rain"] * 5][:5]
    bodies = {"degradation": ", ".join(labels), "rough_understand": " and ".join(reference.tags[:index])}
    bodies |= {"middle_understand": "a photo", "final_understand": "a fine photo"}
    text = "".join(f"<{name}>{bodies.get(name, '<|image|>')}</{name}>" for name in REALSR_R1_BLOCKS)
    return ChainView(
        chain_id=f"example/0/{index}",
        group_id="example/0",
        finish=Finish.STOP,
        text=text,
        block_text=bodies,
        pictures={"rough_image": final[::4, ::4], "middle_image": final[::2, ::2], "final_image": final},
        final_block="final_image",
        degraded=truth[::4, ::4],
        reference=reference,
    )


def _smooth_picture(size_px: int) -> Pixels:
    rows, columns = np.mgrid[0:size_px, 0:size_px] / size_px
    waves = [np.sin(8 * rows + 3 * columns), np.cos(5 * rows * columns + 2), np.sin(9 * columns - rows)]
    return (127.5 + 80.0 * np.stack(waves, axis=-1)).astype(np.uint8)


def as_sent(chain: ChainView) -> ChainView:
    """Return a copy with read-only pictures: that is how they come out of an object store."""

    def sealed(picture: Pixels) -> Pixels:
        copied = picture.copy()
        copied.flags.writeable = False
        return copied

    photo = chain.reference.photo
    return dataclasses.replace(
        chain,
        block_text=dict(chain.block_text),
        pictures={name: sealed(picture) for name, picture in chain.pictures.items()},
        degraded=sealed(chain.degraded),
        reference=dataclasses.replace(chain.reference, photo=None if photo is None else sealed(photo)),
    )
