"""Prompts: crops of photographs, degraded, with everything rewards and cold start compare with.

Every prompt follows from (seed, index) alone, so any process can make any prompt. Nothing is trained
on that is evaluated on: the first ``holdout_photos`` photographs are kept out as a whole, and of every
other one a strip of ``holdout_frac`` of its longer edge; training crops lie wholly outside it and held-out
crops wholly inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from configs.derive import final_px
from configs.schema import BlockConfig, Config, Photographs
from rl.data.images import resize
from rl.data.source import Answer, PromptSource
from rl.errors import ConfigError, DataError
from rl.restoration import sidecar as sidecars
from rl.restoration.answers import right_answer
from rl.restoration.degradation import degrade
from rl.restoration.labels import all_degradation_texts, label
from rl.restoration.names import degraded_of, restoration_prompt
from rl.restoration.photos import Pair, Photo, builtin_photos, folder_photos, pair_photos
from rl.restoration.sidecar import sidecar_texts
from rl.seeding import derive_seed
from rl.types import Pixels, Prompt

BICUBIC = "bicubic"
"""Row of the degraded photo enlarged: what restoration starts from."""
TRAIN = "train"
HELD_OUT_CROP = "crop"
HELD_OUT_PHOTO = "photo"
PAIR = "pair"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rect:
    """A rectangle of pixels; ``bottom`` and ``right`` are excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Pixels."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Pixels."""
        return self.right - self.left


@dataclass(frozen=True, slots=True, kw_only=True)
class _Region:
    """Where crops of a photograph may lie."""

    photo: Photo
    rect: Rect


class PhotographSource(PromptSource):
    """Prompts from photographs: training crops, and held-out ones.

    Args:
        data: Which photographs and how they are degraded.
        output_px: Edge of the ground truth, pixels.
        scale: How many times smaller the degraded photo is.
        seed: Run seed.

    Raises:
        DataError: If photographs, sidecars or sizes cannot work; checked here, before anything starts.
    """

    def __init__(self, data: Photographs, *, output_px: int, scale: int, seed: int) -> None:
        if not output_px:
            raise DataError(
                "data.kind: photographs are for chains that paint, and this one does not; name a source of your own "
                "in data.target"
            )
        self._data = data
        self._output_px = output_px
        self._scale = scale
        self._seed = seed
        photos = builtin_photos() if data.images == "builtin" else folder_photos(data.images)
        if len(photos) <= data.holdout_photos:
            raise DataError(
                f"data.holdout_photos={data.holdout_photos} leaves none of {len(photos)} photographs "
                "to train on; lower it or add photographs"
            )
        self._photos = photos
        kept_out, trained = photos[: data.holdout_photos], photos[data.holdout_photos :]
        self._kept_out = [self._whole(photo) for photo in kept_out]
        parts = [self._split(photo) for photo in trained]
        self._train = [train for train, _ in parts]
        self._strips = [strip for _, strip in parts if strip is not None]
        self._pairs = self._load_pairs() if data.pairs else []

    def train(self, index: int) -> Prompt:
        """Make a training prompt; the same for the same (seed, index) in every process.

        Args:
            index: Any number from 0 up.
        """
        rng = np.random.default_rng(derive_seed(self._seed, "data", TRAIN, index))
        region = self._train[rng.integers(len(self._train))]
        return self._prompt(region, f"{region.photo.name}/{TRAIN}/{index}", rng)

    def held_out(self, num: int) -> list[Prompt]:
        """Make the held-out prompts: by turns a held-out crop and a crop of a kept-out photograph.

        With ``data.pairs`` they are crops of the pairs instead. A larger ``num`` appends to a smaller one.

        Args:
            num: How many.

        Raises:
            DataError: If the configuration keeps nothing out.
        """
        if self._pairs:
            return [self._pair_prompt(self._pairs[i % len(self._pairs)], i) for i in range(num)]
        kinds = [(HELD_OUT_CROP, self._strips), (HELD_OUT_PHOTO, self._kept_out)]
        kinds = [(kind, regions) for kind, regions in kinds if regions]
        if not kinds:
            raise DataError("nothing is held out; raise data.holdout_frac or data.holdout_photos")
        prompts = []
        for i in range(num):
            kind, regions = kinds[i % len(kinds)]
            turn = i // len(kinds)
            region = regions[turn % len(regions)]
            rng = np.random.default_rng(derive_seed(self._seed, "data", kind, turn))
            prompts.append(self._prompt(region, f"{region.photo.name}/{kind}/{turn}", rng))
        return prompts

    def files(self) -> list[Path]:
        """List every picture file that prompts are made of. Headers were read; pixels may still be broken."""
        files = [photo.path for photo in self._photos]
        for pair in self._pairs:
            files += [pair.low] if pair.high is None else [pair.low, pair.high]
        return files

    def training_texts(self) -> list[str]:
        """List every form a degradation text, caption or tag can have (to train a tokenizer on)."""
        texts = all_degradation_texts()
        for photo in self._photos:
            texts += sidecar_texts(photo.sidecar)
        return texts

    def answer(self, prompt: Prompt, blocks: Mapping[str, BlockConfig], seed: int) -> Answer:
        """Return the right texts and pictures.

        Raises:
            DataError: If labels or captions are missing.
        """
        return right_answer(prompt, blocks, seed)

    def baselines(self, prompt: Prompt) -> Mapping[str, Pixels]:
        """Return the degraded photo enlarged to the output size."""
        return {BICUBIC: resize(degraded_of(prompt), self._output_px, self._output_px)}

    def _prompt(self, region: _Region, prompt_id: str, rng: np.random.Generator) -> Prompt:
        photo = region.photo
        rect = crop_rect(region.rect, output_px=self._output_px, zoom=self._data.zoom, rng=rng)
        pixels = photo.pixels[rect.top : rect.bottom, rect.left : rect.right]
        truth = resize(pixels, self._output_px, self._output_px)
        seed = derive_seed(self._seed, prompt_id)
        degraded, record = degrade(
            truth, scale=self._scale, preset=self._data.degradation, seed=derive_seed(seed, "degradation")
        )
        box = (
            rect.left / photo.width,
            rect.top / photo.height,
            rect.right / photo.width,
            rect.bottom / photo.height,
        )
        tags = sidecars.crop_tags(photo.sidecar, box)
        return restoration_prompt(
            prompt_id,
            degraded,
            truth,
            labels=label(record),
            tags=sidecars.tag_names(photo.sidecar, tags),
            captions=sidecars.captions(photo.sidecar, tags, box),
            seed=seed,
        )

    def _pair_prompt(self, pair: Pair, turn: int) -> Prompt:
        prompt_id = f"{pair.name}/{PAIR}/{turn}"
        rng = np.random.default_rng(derive_seed(self._seed, "data", PAIR, turn))
        edge = self._output_px // self._scale
        top = int(rng.integers(pair.height - edge + 1))
        left = int(rng.integers(pair.width - edge + 1))
        truth = None
        if pair.high_pixels is not None:
            y, x = top * self._scale, left * self._scale
            truth = pair.high_pixels[y : y + self._output_px, x : x + self._output_px].copy()
        degraded = pair.low_pixels[top : top + edge, left : left + edge].copy()
        return restoration_prompt(prompt_id, degraded, truth, seed=derive_seed(self._seed, prompt_id))

    def _whole(self, photo: Photo) -> _Region:
        return self._checked(_Region(photo=photo, rect=whole_of(photo)), "the photograph", "use a larger one")

    def _split(self, photo: Photo) -> tuple[_Region, _Region | None]:
        train, strip = split(photo, self._data.holdout_frac)
        remedy = "change data.holdout_frac (0 holds out whole photographs only) or use a larger photograph"
        kept = _Region(photo=photo, rect=train)
        checked = self._checked(kept, "the part to train on", remedy)
        if strip is None:
            return checked, None
        return checked, self._checked(_Region(photo=photo, rect=strip), "the held-out strip", remedy)

    def _checked(self, region: _Region, what: str, remedy: str) -> _Region:
        """Refuse a region that a crop would have to be enlarged from."""
        need = round(self._data.zoom[0] * self._output_px)
        rect = region.rect
        if min(rect.height, rect.width) < need:
            raise DataError(
                f"{region.photo.path}: {what} is {rect.width}x{rect.height} px, crops need {need}; {remedy}"
            )
        return region

    def _load_pairs(self) -> list[Pair]:
        pairs = pair_photos(self._data.pairs, scale=self._scale)
        edge = self._output_px // self._scale
        for pair in pairs:
            if min(pair.height, pair.width) < edge:
                raise DataError(
                    f"{pair.low}: is {pair.width}x{pair.height} px, the degraded photo needs {edge}; "
                    "remove it or lower the chain's picture sizes"
                )
        return pairs


def split(photo: Photo, holdout_frac: float) -> tuple[Rect, Rect | None]:
    """Cut a photograph into the part to train on and the held-out strip; they share no pixel.

    The strip lies at the sidecar's ``holdout_side``, or at the far end of the longer edge.

    Returns:
        Training part and strip; None where ``holdout_frac`` is 0.
    """
    whole = whole_of(photo)
    side = photo.sidecar.holdout_side or ("bottom" if whole.height > whole.width else "right")
    is_row = side in ("top", "bottom")
    length = whole.height if is_row else whole.width
    depth = round(holdout_frac * length)
    if depth == 0:
        return whole, None
    cut = depth if side in ("top", "left") else length - depth
    first = replace(whole, bottom=cut) if is_row else replace(whole, right=cut)
    second = replace(whole, top=cut) if is_row else replace(whole, left=cut)
    return (second, first) if side in ("top", "left") else (first, second)


def whole_of(photo: Photo) -> Rect:
    """Return the rectangle of a whole photograph."""
    return Rect(top=0, left=0, bottom=photo.height, right=photo.width)


def crop_rect(region: Rect, *, output_px: int, zoom: list[float], rng: np.random.Generator) -> Rect:
    """Draw a square crop inside a region, ``zoom`` times the output size, as far as the region allows."""
    highest = min(zoom[1], min(region.height, region.width) / output_px)
    edge = int(output_px * rng.uniform(zoom[0], max(zoom[0], highest)))
    top = region.top + int(rng.integers(region.height - edge + 1))
    left = region.left + int(rng.integers(region.width - edge + 1))
    return Rect(top=top, left=left, bottom=top + edge, right=left + edge)


def photograph_source(config: Config) -> PhotographSource:
    """Return the source of a run on photographs."""
    if not isinstance(config.data, Photographs):
        raise ConfigError(f"data.kind: {config.data.kind} is no source of photographs")
    return PhotographSource(
        config.data, output_px=final_px(config.chain), scale=config.scale, seed=config.seed
    )
