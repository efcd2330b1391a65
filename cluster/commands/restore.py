"""``vlcot restore``: its words; the work is in ``cluster.commands.restoration``."""

from __future__ import annotations

import argparse

from cluster.commands.command import Command, config_argument, load, path_argument
from configs.errors import ConfigError


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        metavar="CONFIG-or-RUN",
        type=config_argument,
        help="a run directory (its newest weights), or a configuration",
    )
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", type=path_argument, help="photographs, or folders of them"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=path_argument, required=True, help="folder for what comes out"
    )


def _run(arguments: argparse.Namespace) -> None:
    config = load(arguments.config, [])
    for image in arguments.images:
        if not image.exists():
            raise ConfigError(f"{image}: no such photograph or folder")
    from cluster.commands.restoration.restore import restore

    restore(config, arguments.images, arguments.out)


COMMAND = Command(
    summary="restore photographs with what was trained",
    example="vlcot restore runs/demo photo.jpg holiday/ --out restored",
    add_arguments=_add_arguments,
    run=_run,
)
