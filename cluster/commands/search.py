"""``vlcot search``: whole runs, over any keys of a configuration."""

from __future__ import annotations

import argparse
from pathlib import Path

from cluster.commands.command import Command, add_config, print_derived


def _run(arguments: argparse.Namespace) -> None:
    from configs.checks.search import check_search
    from configs.search import PLAN, load_plan, with_place

    place = Path(arguments.config).resolve()
    plan = load_plan(arguments.config, arguments.overrides)
    if resume := (place / PLAN).is_file():
        plan = with_place(plan, place.parent, place.name)
    print_derived(check_search(plan))
    from cluster.search.search import search

    search(plan, resume=resume)


COMMAND = Command(
    summary="search any keys for the best held-out metric; the section search of the file says which",
    example="vlcot search tuned.yaml search.num_trials=32",
    add_arguments=add_config,
    run=_run,
)
