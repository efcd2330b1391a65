"""``vlcot train``: a whole run, on this machine or on a cluster that runs already."""

from __future__ import annotations

import argparse

from cluster.commands.command import Command, add_config, load, print_derived


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--address",
        metavar="RAY",
        help="a running Ray cluster to join, e.g. auto or ray://head:10001 (the same as ray_address=)",
    )


def _run(arguments: argparse.Namespace) -> None:
    joined = [f"ray_address={arguments.address}"] if arguments.address else []
    config = load(arguments.config, [*arguments.overrides, *joined])
    print_derived(config)
    from cluster.run.train import train

    train(config)


COMMAND = Command(
    summary="run GRPO; makes the cold start first where there is none",
    example="vlcot train demo num_steps=50 name=longer",
    add_arguments=_add_arguments,
    run=_run,
)
