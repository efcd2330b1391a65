"""``vlcot rewards``: its words; what each action does is in ``cluster.commands.rewards_actions``."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from cluster.commands.command import Command, path_argument
from configs.errors import ConfigError

_WHAT = "a shipped reward (fidelity), package.module:Thing, or one of pyiqa's metrics (ssim)"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    say_more = argparse.ArgumentParser(add_help=False)
    say_more.add_argument(
        "-v", "--verbose", action="store_true", help=argparse.SUPPRESS, default=argparse.SUPPRESS
    )

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        return actions.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", parents=[say_more]
        )

    action("list", "every reward and visual expert there is, and what each needs")
    info = action("info", "what a reward or visual expert is, takes and needs; measures its smallest picture")
    _takes_target(info)
    check = action("check", "check that a reward keeps what it must promise, on made-up chains")
    _takes_target(check)
    score = action("score", "score a folder of pictures by hand")
    _takes_target(score)
    score.add_argument("--images", metavar="DIR", type=path_argument, required=True, help="restored pictures")
    score.add_argument(
        "--truth", metavar="DIR", type=path_argument, help="their ground truths, by the same names"
    )
    score.add_argument(
        "--degraded", metavar="DIR", type=path_argument, help="the photos they were made from, likewise"
    )
    score.add_argument("--out", metavar="CSV", type=path_argument, help="write the table to this file too")
    serve = action("serve", "host a reward over HTTP, for rewards.http:HttpReward to ask")
    _takes_target(serve)
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: this machine alone)"
    )
    serve.add_argument(
        "--port", type=int, default=8700, help="port to listen at, 0 for a free one (default: 8700)"
    )
    serve.add_argument(
        "--token-env",
        metavar="NAME",
        default="",
        help="environment variable with a token that clients must send",
    )


def _run(arguments: argparse.Namespace) -> None:
    """Do what was asked for."""
    commands = importlib.import_module("cluster.commands.rewards_actions")
    if "options" in arguments:
        arguments.options = parse_options(arguments.options)
    getattr(commands, f"{arguments.action}_command")(arguments)


def parse_options(words: list[str]) -> dict[str, Any]:
    """Turn ``key=value`` words with dotted keys and YAML values into the options of a reward.

    Raises:
        ConfigError: For a word that is none.
    """
    import yaml

    options: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"--options {word}: want key=value, e.g. experts=realsr_r1")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--options {word}: not a YAML value") from error
        *outer, last = key.split(".")
        place = options
        for name in outer:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--options {word}: {name} is a value already")
        place[last] = value
    return options


def _takes_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="NAME", help=_WHAT)
    parser.add_argument(
        "--options",
        metavar="key=value",
        nargs="+",
        default=[],
        help="options of the reward, as in its config",
    )


COMMAND = Command(
    summary="list, explain, check and serve rewards, and score pictures by hand",
    example="vlcot rewards check my_rewards:Brightness",
    add_arguments=_add_arguments,
    run=_run,
)
