"""Command of ``vlcot``, and what several of them share: the configuration they take, a target they call.

A command is a file here whose ``COMMAND`` says what it takes, and a name in ``cluster.cli.NAMES``. These files are
light; what a command does is imported when it runs.
"""

from __future__ import annotations

import argparse
import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import ConfigError
from configs.paths import expand

if TYPE_CHECKING:
    from configs.schema import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One sub-command: what it says of itself, what it takes, what it runs."""

    summary: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    """Does it; an exit code where that is not 0."""


def path_argument(text: str) -> Path:
    """Return the path that a word of the command line means."""
    try:
        return Path(expand(text))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def config_argument(text: str) -> str:
    """Return the file, run directory or shipped name that a word of the command line means."""
    return str(path_argument(text))


def add_config(parser: argparse.ArgumentParser) -> None:
    """Take a configuration and changes to it."""
    parser.add_argument(
        "config",
        metavar="CONFIG",
        type=config_argument,
        help="a YAML file, the name of a shipped one (demo), or a run directory",
    )
    parser.add_argument(
        "overrides",
        metavar="key=value",
        nargs="*",
        help="changes, e.g. num_steps=50 rewards.format.weight=0.5",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Take a run directory."""
    parser.add_argument("run_dir", metavar="RUN", type=path_argument, help="a run directory, e.g. runs/demo")


def on_config(target: str, *, announce: bool = True) -> Callable[[argparse.Namespace], None]:
    """Return a handler that loads the configuration and calls ``package.module:function`` with it.

    Args:
        target: What to call.
        announce: Whether to print first what follows from the configuration.
    """

    def run(arguments: argparse.Namespace) -> None:
        config = load(arguments.config, arguments.overrides)
        if announce:
            print_derived(config)
        pkgutil.resolve_name(target)(config)

    return run


def load(name_or_path: str, overrides: Sequence[str]) -> Config:
    """Load and validate a configuration; that of a run directory is where it lies now, and resumes.

    Raises:
        ConfigError: With one line that names the key and the remedy.
    """
    from configs.checks.validate import validate
    from configs.load import RESOLVED, load_config

    config = load_config(name_or_path, overrides)
    if (Path(name_or_path) / RESOLVED).is_file():
        # A run is where it lies now, not where it was when it ran.
        place = Path(name_or_path).resolve()
        if not {"output_dir", "name"} & {override.partition("=")[0] for override in overrides}:
            config = replace(config, output_dir=str(place.parent), name=place.name, resume=True)
    validate(config)
    return config


def print_derived(config: Config) -> None:
    """Print what follows from a configuration."""
    from configs.derive import derived

    facts = derived(config)
    width = max(map(len, facts))
    sys.stdout.write("".join(f"{name:<{width}}  {value}\n" for name, value in facts.items()))
    sys.stdout.flush()
