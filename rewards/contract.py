"""The contract test kit: run it on a reward of your own before you train with it.

``check_reward(MyReward(...), chains)`` raises ``AssertionError`` with the broken promise, or returns. It is
used by the project's own tests, and needs no test framework.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections.abc import Mapping, Sequence

import numpy as np

from configs.schema import BlockConfig
from rewards.base import Need, Reward, evaluate
from rewards.format import REALSR_R1_BLOCKS
from rl.types import ChainView, Finish, Floats, Pixels, Reference, Scores

ABSOLUTE_TOLERANCE = 1e-5
"""Most by which order and batch may move a score, in shares of its range: float rounding."""


def check_reward(
    reward: Reward,
    chains: Sequence[ChainView] | None = None,
    *,
    blocks: Mapping[str, BlockConfig] | None = None,
    seed: int = 0,
) -> Scores:
    """Check everything the loop relies on.

    Right length and order; finite, in range, or with a reason; the same score whatever the order and the
    batch and however often asked; inputs neither needed nor present are no trouble; the chains stay
    untouched, and their pictures are read-only, as they are in a run; picklable before ``setup``; judged
    blocks are in the chain.

    Args:
        reward: Not yet set up.
        chains: At least two; None takes ``example_chains``.
        blocks: The chain's blocks; None takes the paper's seven.
        seed: Of the shuffles.

    Returns:
        The scores of ``chains``, for further checks.

    Raises:
        AssertionError: With the broken promise.
    """
    chains = [_as_sent(chain) for chain in (example_chains() if chains is None else chains)]
    blocks = blocks or example_blocks()
    _require(len(chains) >= 2, "give at least two chains")
    _check_picklable(reward)
    strange = set(reward.judged_blocks(blocks)) - set(blocks)
    _require(not strange, f"judges blocks that are not in the chain: {sorted(strange)}")
    reward.setup()
    _require(reward.low < reward.high, f"range {reward.low} to {reward.high} is empty")
    _require(reward.low <= reward.missing <= reward.high, "the missing value is outside the range")
    _require(math.isfinite(reward.missing), f"the missing value is {reward.missing}; declare a finite one")
    before = copy.deepcopy(list(chains))
    scores = evaluate(reward, "checked", chains)
    _require(_equal(before, chains), "score() changed its input")
    _require(bool(scores.valid.all()), f"examples have no score: {sorted(set(scores.reasons) - {''})}")
    _check_stable(reward, chains, scores, seed)
    _check_missing(reward, chains)
    _require(evaluate(reward, "checked", []).values.shape == (0,), "must score no chains as none")
    return scores


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


def _as_sent(chain: ChainView) -> ChainView:
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


def _check_picklable(reward: Reward) -> None:
    try:
        clone = pickle.loads(pickle.dumps(reward))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise AssertionError(f"must be picklable before setup(): {error}") from error
    _require(type(clone) is type(reward), "must be picklable before setup()")


def _check_stable(reward: Reward, chains: Sequence[ChainView], scores: Scores, seed: int) -> None:
    span = reward.high - reward.low
    tolerance = ABSOLUTE_TOLERANCE * (span if np.isfinite(span) else 1.0)

    def close(values: Floats, expected: Floats) -> bool:
        return bool(np.allclose(values, expected, rtol=0.0, atol=tolerance))

    again = evaluate(reward, "checked", chains)
    _require(close(again.values, scores.values), "the same chains get other scores when asked again")
    order = np.random.default_rng(seed).permutation(len(chains))
    shuffled = evaluate(reward, "checked", [chains[i] for i in order])
    _require(close(shuffled.values, scores.values[order]), "scores depend on the order of the chains")
    alone = [evaluate(reward, "checked", [chain]).values[0] for chain in chains]
    _require(close(np.asarray(alone), scores.values), "scores depend on what else is in the batch")


def _check_missing(reward: Reward, chains: Sequence[ChainView]) -> None:
    chain = chains[0]
    bare = dataclasses.replace(chain, pictures={}, block_text={}, reference=Reference())
    scores = evaluate(reward, "checked", [bare, chain])
    _require(bool(scores.valid.all()), f"a chain without inputs is an error: {scores.reasons}")
    if reward.needs & {Need.FINAL_PICTURE, Need.TRUTH, Need.LABELS, Need.TAGS}:
        _require(bool(scores.missing[0]), "a chain without a needed input is not counted as missing")
    _require(not scores.missing[1], "a whole chain counts as missing beside a bare one")


def _equal(before: Sequence[ChainView], after: Sequence[ChainView]) -> bool:
    return all(
        a.text == b.text
        and dict(a.block_text) == dict(b.block_text)
        and a.pictures.keys() == b.pictures.keys()
        and all(np.array_equal(a.pictures[name], b.pictures[name]) for name in a.pictures)
        for a, b in zip(before, after, strict=True)
    )


def _require(condition: bool, promise: str) -> None:
    """Like ``assert``, which ``python -O`` would take away."""
    if not condition:
        raise AssertionError(promise)
