"""``vlcot restore``: photographs of any size through the chain; one text, tiled pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cluster.commands.restoration.picture_folder import is_record
from cluster.pools.chain_runner import GroupRequest, final_picture_block
from cluster.pools.collector import run_groups
from cluster.record.recorder import block_texts
from cluster.run.session import Session, open_session
from cluster.run.workers import RunWorkers
from cluster.runtime.calls import fetch, gather
from cluster.runtime.console import CONSOLE, tracked
from cluster.runtime.files import write_atomically
from configs.derive import degraded_px, denoising_policy, is_unified
from configs.schema import Config, Photographs
from rl.chain.painting import PaintCall, picture_text
from rl.data.images import load_picture, name_pictures, resize, save_picture
from rl.data.source import prompt_source
from rl.denoising.step_selection import sampler_spec
from rl.errors import ConfigError
from rl.restoration.names import DEGRADED, restoration_prompt
from rl.restoration.tiling import blend, cut_tiles, plan_tiles
from rl.seeding import derive_seed
from rl.types import PREVIOUS, Chain, Pixels

OVERLAP_FRAC = 4
"""Tiles overlap by at least a fourth of their edge."""


def restore(config: Config, images: Sequence[Path], out: Path) -> list[Path]:
    """Restore photographs with a run's newest weights.

    Each picture is enlarged ``scale`` times. The text is written once, on the photo scaled down to one tile;
    the pictures are painted tile by tile, without noise, and blended.

    Args:
        config: The run, or a configuration whose policies have sources of their own.
        images: Picture files of any size and mode, and folders of them.
        out: Folder for ``NAME.png`` and ``NAME.json``; subfolders of the photographs are kept.

    Returns:
        The restored pictures' paths.

    Raises:
        ConfigError: If the run's prompts are no photographs, two results would have one name, or a file that is no
            earlier result would be replaced.
        DataError: If a picture cannot be read, or a folder holds none; nothing has been written then.
    """
    _check_subject(config)
    photos = find_photos(images, out)
    refuse_to_replace(photos, out)
    for path in photos.values():
        load_picture(path)
    bare = replace(config, rewards={}, eval=replace(config.eval, metrics=[]))
    with open_session(bare, learn=False) as session:
        out.mkdir(parents=True, exist_ok=True)
        for name, path in tracked("restore", photos.items(), len(photos)):
            photo = load_picture(path)
            chain = write_texts(session, name, photo)
            text = chain.text
            edge, (height, width) = degraded_px(config), photo.shape[:2]
            tiles = plan_tiles(height, width, edge, edge // OVERLAP_FRAC)
            cuts = cut_tiles(photo, tiles)
            if is_unified(config):
                painted = write_tiles(session, name, cuts, chain)
            else:
                texts = {n: picture_text(text, n) for n, b in config.chain.items() if b.kind == "image"}
                painted = paint_tiles(config, session.workers, name, cuts, texts)
            picture = np.asarray(blend(tiles, painted, height, width))
            record = {"text": text, "block_text": block_texts(text)}
            # The record first: it says that the picture is ours, and may be replaced another time.
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(out / f"{name}.json", json.dumps(record, indent=1))
            save_picture(out / f"{name}.png", picture)
    CONSOLE.print(f"{len(photos)} restored in {out}")
    return [out / f"{name}.png" for name in photos]


def _check_subject(config: Config) -> None:
    """Refuse a run of prompts that show no photograph."""
    if isinstance(config.data, Photographs) or DEGRADED in prompt_source(config).train(0).shown:
        return
    raise ConfigError(
        f"{config.name} answers prompts (data.kind is {config.data.kind}) and restores no photographs; "
        "give a run whose prompts are photographs"
    )


def find_photos(images: Sequence[Path], out: Path) -> dict[str, Path]:
    """Return picture files by the name their results get; folders are searched, but for ``out`` in them.

    Raises:
        ConfigError: If two would write the same file.
        DataError: If a folder holds no picture.
    """
    photos: dict[str, Path] = {}
    for path in images:
        named = {path.stem: path}
        if path.is_dir():
            holds_input = path.resolve().is_relative_to(out.resolve())
            named = name_pictures(path, key="IMAGE", skip=None if holds_input else out)
        for name, picture in named.items():
            if not (other := photos.setdefault(name, picture)).samefile(picture):
                raise ConfigError(f"{other} and {picture} would both be written to {name}.png; rename one")
    return photos


def refuse_to_replace(photos: Mapping[str, Path], out: Path) -> None:
    """Refuse to write over photographs, their sidecars, and whatever else is no earlier result of ours.

    Raises:
        ConfigError: Names the file, and says to choose another folder.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is not a folder; choose another name")
    inputs = {file.resolve() for photo in photos.values() for file in (photo, photo.with_suffix(".json"))}
    for name in photos:
        picture, record = out / f"{name}.png", out / f"{name}.json"
        for result in (picture, record):
            if result.resolve() in inputs:
                raise ConfigError(
                    f"--out {out}: {result} belongs to a photograph and would be replaced; choose another folder"
                )
        if (picture.exists() or record.exists()) and not is_record(record):
            there = picture if picture.exists() else record
            raise ConfigError(f"--out {out}: {there} is not a result of vlcot restore; choose another folder")


def write_texts(session: Session, name: str, photo: Pixels) -> Chain:
    """Run one chain on the whole photo, scaled down to a tile; words are decoded greedily."""
    config = session.config
    edge = degraded_px(config)
    prompt = restoration_prompt(f"restore/{name}", resize(photo, edge, edge))
    request = GroupRequest(prompt=prompt, draw=0, num_chains=1, noise_level=0.0, temperature=0.0)
    (group,) = run_groups(session.runners, [request], deadline_s=config.deadline_s)
    return group.chains[0]


def write_tiles(session: Session, name: str, cuts: Sequence[Pixels], chain: Chain) -> list[Pixels]:
    """Have a unified policy write the pictures of every tile, all behind one chain's texts; return the last ones.

    A block whose text that chain did not come to is left empty.
    """
    config = session.config
    texts = {n: chain.block_text.get(n, "") for n, block in config.chain.items() if block.kind == "text"}
    requests = [
        GroupRequest(
            prompt=restoration_prompt(f"restore/{name}/{index}", cut),
            draw=0,
            num_chains=1,
            temperature=0.0,
            texts=texts,
        )
        for index, cut in enumerate(cuts)
    ]
    groups = run_groups(session.runners, requests, deadline_s=config.deadline_s)
    last = final_picture_block(config)
    refs = {str(index): group.chains[0].pictures[last] for index, group in enumerate(groups)}
    return list(fetch(refs, deadline_s=config.deadline_s).values())


def paint_tiles(
    config: Config, workers: RunWorkers, name: str, cuts: Sequence[Pixels], texts: dict[str, str]
) -> list[Pixels]:
    """Paint every image block for every tile; return the last ones."""
    painted: list[Pixels] = []
    for block, settings in config.chain.items():
        if settings.kind != "image":
            continue
        call = PaintCall[Pixels](config.chain)
        for index, cut in enumerate(cuts):
            call.add(
                f"restore/{name}/{index}",
                block,
                pictures={DEGRADED: cut} | ({PREVIOUS: painted[index]} if painted else {}),
                words={"text": texts[block], "question": ""},
                sampler=sampler_spec(
                    denoising_policy(config.policies[settings.policy]).rollout, noise_level=0.0
                ),
                # One seed for all tiles: their sources of noise agree, and so do the seams.
                seed=derive_seed(config.seed, name, block),
            )
        worker = workers.pools.rollouts[settings.policy][0]
        sent = worker.call("generate", call.requests, *call.pictures, num_returns=call.num_returns)
        (replies,) = gather([sent.first()], deadline_s=config.deadline_s)
        refs = {str(i): row.picture for i, row in enumerate(call.taken_apart(replies, sent.ref[1:]))}
        painted = list(fetch(refs, deadline_s=config.deadline_s).values())
    return painted
