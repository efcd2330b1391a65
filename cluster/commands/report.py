"""``vlcot report``: a run's page, written again."""

from __future__ import annotations

import argparse

from cluster.commands.command import Command, add_run
from configs.errors import ConfigError


def _run(arguments: argparse.Namespace) -> None:
    if not (arguments.run_dir / "metrics.jsonl").is_file():
        raise ConfigError(f"{arguments.run_dir}: no run here (no metrics.jsonl); give a run directory")
    from cluster.report.page import write_report

    write_report(arguments.run_dir)


COMMAND = Command(
    summary="write the report of a run again",
    example="vlcot report runs/demo",
    add_arguments=add_run,
    run=_run,
)
