"""Actions of ``vlcot rewards``: tables of rewards and experts, the contract kit, pictures by hand, a server."""

from __future__ import annotations

import argparse
import csv
import inspect
import json
import pkgutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from cluster.commands.restoration.picture_folder import read_chains
from cluster.commands.rewards_tables import (
    Row,
    declarations,
    expert_info,
    first_line,
    print_scores,
    row_of,
    words,
)
from cluster.runtime.console import CONSOLE, make_table, stage
from configs.schema import RewardConfig
from configs.suggest import suggest
from rewards.base import Reward, evaluate
from rewards.contract import check_promises
from rewards.experts.catalogue import catalogue
from rewards.generation import ENSEMBLES
from rewards.http import read_token
from rewards.load import load_reward
from rewards.shipped import SHIPPED, target_of
from rl.errors import ConfigError, RewardError
from rl.types import ChainView

_BATCH = 16
"""Pictures scored together."""


def list_command(_arguments: argparse.Namespace) -> None:
    """Print every shipped reward and every metric of pyiqa."""
    rewards = make_table("rewards: rewards.<name>.target", "name", "target", "needs", "what it is")
    for name, target in SHIPPED.items():
        thing = _class_of(target)
        rewards.add_row(name, target, words(thing.needs), first_line(thing))
    CONSOLE.print(rewards)
    title = "visual experts: rewards.<name>.options.experts of rewards.generation:GenerationReward"
    experts = make_table(title, "name", "compares with", "better", "range", "measures", "weights")
    for metric in catalogue().values():
        experts.add_row(*row_of(metric))
    CONSOLE.print(experts)
    for name, members in ENSEMBLES.items():
        CONSOLE.print(f"experts: {name}  stands for {', '.join(members)}")


def info_command(arguments: argparse.Namespace) -> None:
    """Print what one reward or metric is."""
    if arguments.target in catalogue():
        expert_info(arguments.target, arguments.options)
        return
    target = target_of(arguments.target)
    table = make_table(target)
    thing = _class_of(target) if not arguments.options else None
    shown: Any = thing or _load(arguments.target, arguments.options)
    for key, value in declarations(shown).items():
        table.add_row(key, value)
    kind = thing or type(shown)
    for name, parameter in inspect.signature(kind).parameters.items():
        default = parameter.default
        table.add_row(f"option {name}", "required" if default is parameter.empty else f"{default!r}")
    CONSOLE.print(table)
    CONSOLE.print(inspect.getdoc(kind) or "")


def check_command(arguments: argparse.Namespace) -> None:
    """Run the contract kit and print promise by promise.

    Raises:
        RewardError: If one is broken.
    """
    _load(arguments.target, arguments.options).check()
    promises = list(check_promises(_load(arguments.target, arguments.options)))
    styles = {"kept": "green", "broken": "red", "not checked": "dim"}
    table = make_table(target_of(arguments.target), "promise", "", "")
    for promise in promises:
        table.add_row(promise.name, Text(promise.state, styles[promise.state]), promise.detail)
    CONSOLE.print(table)
    broken = [promise for promise in promises if promise.state == "broken"]
    if broken:
        raise RewardError(
            f"{arguments.target}: {len(broken)} of {len(promises)} promises broken: {broken[0].detail}"
        )


def score_command(arguments: argparse.Namespace) -> None:
    """Score a folder of pictures, print the table and write it where asked.

    Raises:
        RewardError: If a picture has no score; the table is printed first.
    """
    reward = _load(arguments.target, arguments.options)
    reward.check()
    with stage(f"load {arguments.target}"):
        reward.setup()
    chains = read_chains(reward, arguments.images, truth=arguments.truth, degraded=arguments.degraded)
    rows = [
        row
        for start in range(0, len(chains), _BATCH)
        for row in _score_batch(reward, arguments.target, chains[start : start + _BATCH])
    ]
    print_scores(reward, arguments.target, rows)
    if arguments.out is not None:
        _write_scores(arguments.out, rows)
    failed = [row for row in rows if row[1] is None]
    if failed:
        raise RewardError(
            f"{len(failed)} of {len(rows)} pictures have no score; {failed[0][0]}: {failed[0][2]}"
        )


def serve_command(arguments: argparse.Namespace) -> None:
    """Host a reward until Ctrl-C.

    Raises:
        ConfigError: If the address is taken, or the token's variable is not set.
    """
    from rewards.remote.server import RewardServer
    from rewards.remote.wire import describe

    token = read_token(arguments.token_env) if arguments.token_env else ""
    reward = _load(arguments.target, arguments.options)
    reward.check()
    reward.setup()
    server = RewardServer(reward, arguments.target, host=arguments.host, port=arguments.port, token=token)
    declared = {k: v for k, v in describe(reward, "").items() if k not in ("version", "name")}
    sys.stdout.write(f"declares: {json.dumps(declared)}\n")
    sys.stdout.write(f"serving {arguments.target} at http://{arguments.host}:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


def _score_batch(reward: Reward, name: str, chains: Sequence[ChainView]) -> list[Row]:
    """Score pictures together; where some got no score, each alone, so that one bad picture costs no other."""
    scores = evaluate(reward, name, chains)
    if len(chains) > 1 and not scores.valid.all():
        return [row for chain in chains for row in _score_batch(reward, name, [chain])]
    sign = 1.0 if reward.larger_is_better else -1.0
    values = [
        sign * float(value) if valid else None
        for value, valid in zip(scores.values, scores.valid, strict=True)
    ]
    return list(zip([chain.chain_id for chain in chains], values, scores.reasons, strict=True))


# --------------------------------------------------------------------------------- finding


def _load(name: str, options: Mapping[str, Any]) -> Reward:
    """Make a reward, not set up; a metric of pyiqa becomes a reward of its own.

    Raises:
        ConfigError: If there is none of this name, or the options do not fit.
    """
    target, chosen = target_of(name), dict(options)
    if name in catalogue():
        metric = catalogue()[name]
        if metric.full_reference:
            target, chosen = SHIPPED["fidelity"], {"metric": name, **chosen}
        else:
            target, chosen = SHIPPED["generation"], {"experts": {name: chosen}}
    elif ":" not in target:
        hint = suggest(name, [*SHIPPED, *catalogue()])
        raise ConfigError(
            f"{name}: no reward and no visual expert of this name{hint}; vlcot rewards list has all"
        )
    try:
        return load_reward(name, RewardConfig(target=target, options=chosen))
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix(f"rewards.{name}.")) from error


def _class_of(target: str) -> Any:
    """Return a reward's class without making one; None for a plain function."""
    return pkgutil.resolve_name(target) if target in SHIPPED.values() else type(_load(target, {}))


def _write_scores(path: Path, rows: Iterable[Row]) -> None:
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("picture", "score", "reason"))
            writer.writerows(
                (picture, "" if value is None else repr(value), why) for picture, value, why in rows
            )
    except OSError as error:
        raise ConfigError(f"--out {path}: cannot be written: {error.strerror}") from error
