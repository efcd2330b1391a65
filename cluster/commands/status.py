"""``vlcot status``: its words; what is shown is in ``cluster.commands.status_page``."""

from __future__ import annotations

import argparse

from cluster.commands.command import Command, add_run


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--watch", action="store_true", help="refresh each second until the run ends")
    parser.epilog = (
        f"{parser.epilog}\n\nexit codes:\n  0 it runs or has finished   1 it failed, or its driver is dead"
        "\n  3 an alarm stopped it       4 it runs, but a worker gives no sign of life"
    )


def _run(arguments: argparse.Namespace) -> int:
    from cluster.commands.status_page import status

    return status(arguments.run_dir, watch=arguments.watch)


COMMAND = Command(
    summary="show what a run does now: step, rewards, and every worker's activity and last sign of life",
    example="vlcot status runs/demo --watch",
    add_arguments=_add_arguments,
    run=_run,
)
