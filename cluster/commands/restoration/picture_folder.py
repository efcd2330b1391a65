"""Picture folder, read as chains, so that a reward can score pictures that no run made."""

from __future__ import annotations

import json
from pathlib import Path

from rewards.base import Need, Reward
from rl.data.images import list_pictures, load_picture, name_pictures
from rl.errors import ConfigError, DataError
from rl.restoration.names import DEGRADED, TRUTH
from rl.types import ChainView, Finish, FinishedChain, Pixels, Prompt

_FINAL = "final_image"


def read_chains(
    reward: Reward, images: Path, *, truth: Path | None = None, degraded: Path | None = None
) -> list[ChainView]:
    """Read pictures as the final pictures of chains.

    A JSON file of the same name, as ``vlcot restore`` writes it, gives the chain's text. A folder given for truths
    or degraded photos must have one of the same name (suffixes may differ) for each picture.

    Args:
        reward: What it needs must be there.
        images: Folder of pictures, nested.
        truth: Folder of ground truths.
        degraded: Folder of the photos they were made from.

    Raises:
        ConfigError: If the reward needs what a folder of pictures does not have, or a folder is missing.
        DataError: If a picture is missing or cannot be decoded, or two of a folder have the same name.
    """
    _check_needs(reward, truth, degraded)
    paths = list_pictures(images, key="--images")
    truths = None if truth is None else name_pictures(truth, key="--truth")
    photos = None if degraded is None else name_pictures(degraded, key="--degraded")
    return [_chain(path, path.relative_to(images), truths, photos) for path in paths]


def _check_needs(reward: Reward, truth: Path | None, degraded: Path | None) -> None:
    if unknown := reward.needs - {*Need, TRUTH, DEGRADED}:
        raise ConfigError(
            f"this reward needs {', '.join(sorted(unknown))}, which a folder of pictures does not have"
        )
    for need, folder, key in ((TRUTH, truth, "--truth"), (DEGRADED, degraded, "--degraded")):
        if need in reward.needs and folder is None:
            raise ConfigError(f"this reward needs {need}; give {key} DIR")


def _chain(
    path: Path, place: Path, truths: dict[str, Path] | None, photos: dict[str, Path] | None
) -> ChainView:
    final = load_picture(path)
    partners = {DEGRADED: _partner(place, photos, "--degraded"), TRUTH: _partner(place, truths, "--truth")}
    pictures = {name: pixels for name, pixels in partners.items() if pixels is not None}
    text, block_text = _written(path.with_suffix(".json"))
    return FinishedChain(
        chain_id=str(place),
        group_id=str(place),
        prompt=Prompt(prompt_id=str(place), pictures=pictures),
        finish=Finish.STOP,
        text=text,
        block_text=block_text,
        pictures={_FINAL: final},
        final_block=_FINAL,
    )


def _partner(place: Path, pictures: dict[str, Path] | None, key: str) -> Pixels | None:
    if pictures is None:
        return None
    name = str(place.with_suffix(""))
    if name not in pictures:
        raise DataError(f"{key}: no picture {name} in it; want one for each of --images")
    return load_picture(pictures[name])


def is_record(path: Path) -> bool:
    """Whether a file is what ``vlcot restore`` writes beside a picture."""
    try:
        _written(path)
    except DataError:
        return False
    return path.is_file()


def _written(path: Path) -> tuple[str, dict[str, str]]:
    """Read the text that ``vlcot restore`` wrote beside a picture; nothing where there is none."""
    if not path.is_file():
        return "", {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return str(record["text"]), dict(record["block_text"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a record of vlcot restore (text, block_text); remove it") from error
