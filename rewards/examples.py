"""Made-up chains for checking rewards: whole ones of differing quality, and one that left the grammar."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from configs.schema import BlockConfig
from rewards.format import REALSR_R1_BLOCKS
from rl.restoration.names import LABELS, TAGS, restoration_prompt, words_of
from rl.types import ChainView, Finish, FinishedChain, Message, Pixels, Prompt, TextPart

_LABELS = ("light blur", "downsample", "medium noise", "light compression", "upsample")
_TAGS = ("rock", "sky", "polar bear")
SIZE_PX = 64
"""Edge of the truth; the degraded photo has a quarter of it."""


def example_blocks() -> dict[str, BlockConfig]:
    """Return the paper's seven blocks at a small size."""
    sizes = {"rough_image": 16, "middle_image": 32, "final_image": 64}
    return {
        name: BlockConfig(kind="image", policy="image", size_px=sizes[name], num_steps=2)
        if name in sizes
        else BlockConfig(kind="text", policy="text", max_tokens=16)
        for name in REALSR_R1_BLOCKS
    }


def example_chains(num: int = 6, *, blocks: Mapping[str, BlockConfig] | None = None) -> list[ChainView]:
    """Make chains of one prompt: whole ones of differing quality, and (the last) one that left the grammar.

    Args:
        num: Chains, at least 2.
        blocks: The chain's; None takes the paper's seven. Where none is an image, the prompt is a question with a
            ``ground_truth`` and no picture; else a photograph to restore.
    """
    blocks = blocks or example_blocks()
    rng = np.random.default_rng(0)
    truth = _smooth_picture()
    prompt = _question()
    if any(block.kind == "image" for block in blocks.values()):
        prompt = restoration_prompt("example", truth[::4, ::4], truth, labels=_LABELS, tags=_TAGS)
    whole = [_whole_chain(index, prompt, blocks, truth, rng) for index in range(num - 1)]
    first = next(iter(blocks))
    bodies = {first: "light blur, downsample"} if blocks[first].kind == "text" else {}
    broken = dataclasses.replace(
        whole[0],
        chain_id=f"example/0/{num - 1}",
        finish=Finish.MALFORMED,
        text="".join(f"<{name}>{body}</{name}><oops>" for name, body in bodies.items()),
        block_text=bodies,
        pictures={},
    )
    return [*whole, broken]


def _question() -> Prompt:
    return Prompt(
        prompt_id="example",
        messages=(Message(role="user", parts=(TextPart("how much is 40 + 2?"),)),),
        reference={"ground_truth": "42"},
    )


def _whole_chain(
    index: int,
    prompt: Prompt,
    blocks: Mapping[str, BlockConfig],
    truth: Pixels,
    rng: np.random.Generator,
) -> ChainView:
    noise = rng.normal(0.0, 4.0 * (index + 1), truth.shape)
    final = np.clip(truth + noise, 0, 255).astype(np.uint8)
    labels = [*words_of(prompt, LABELS)[:index], *["heavy rain"] * 5][:5]
    known = {
        "degradation": ", ".join(labels),
        "rough_understand": " and ".join(words_of(prompt, TAGS)[:index]),
    }
    written = {n: known.get(n, f"attempt {index}: 4{index}") for n, b in blocks.items() if b.kind == "text"}
    sizes = {name: block.size_px for name, block in blocks.items() if block.kind == "image"}
    steps = {name: max(1, len(final) // size) for name, size in sizes.items()}
    return FinishedChain(
        chain_id=f"example/0/{index}",
        group_id="example/0",
        prompt=prompt,
        finish=Finish.STOP,
        text="".join(f"<{name}>{written.get(name, '<|image|>')}</{name}>" for name in blocks),
        block_text=written,
        pictures={name: final[::step, ::step] for name, step in steps.items()},
        final_block=next(reversed(sizes), ""),
    )


def _smooth_picture() -> Pixels:
    rows, columns = np.mgrid[0:SIZE_PX, 0:SIZE_PX] / SIZE_PX
    waves = [np.sin(8 * rows + 3 * columns), np.cos(5 * rows * columns + 2), np.sin(9 * columns - rows)]
    return (127.5 + 80.0 * np.stack(waves, axis=-1)).astype(np.uint8)


def as_sent(chain: ChainView) -> ChainView:
    """Return a copy with read-only pictures: that is how they come out of an object store."""

    def sealed(picture: Pixels) -> Pixels:
        copied = picture.copy()
        copied.flags.writeable = False
        return copied

    return dataclasses.replace(chain.with_pictures(sealed), block_text=dict(chain.block_text))
