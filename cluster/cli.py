"""The command ``vlcot``: parses, checks the configuration, hands over; imports nothing heavy to do so.

A mistake of the user costs one line on stderr and exit code 2; a run that failed for a known reason one
line and exit code 1, one that an alarm stopped 3; a programming error shows its traceback. Ctrl-C ends with 130.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from cluster.commands import rewards_parser as rewards_cli
from configs import PACKAGES
from configs.errors import ConfigError, VlcotError

logger = logging.getLogger(__name__)

_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Command:
    """One sub-command: what it says of itself, what it takes, what it runs."""

    summary: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is for ``--help``."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"vlcot: error: {message}; see {self.prog} --help\n")
        sys.exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Words behind ``vlcot``; by default those of this process.

    Returns:
        Exit code: 0 done, 1 the run failed, 2 usage, configuration or data, 3 stopped by an alarm, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(COMMANDS)}"
        parser.error(f"unknown command {words[0]!r}; {hint}")
    arguments = parse(parser, words)
    _set_up_logging(verbose=arguments.verbose)
    _find_our_tools()
    return exit_code_of(lambda: COMMANDS[arguments.command].run(arguments))


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse; ``key=value`` words may also stand behind an option (argparse takes them in one piece only)."""
    arguments, left = parser.parse_known_args(words)
    changes = [word for word in left if "=" in word and not word.startswith("-")]
    if left and (len(changes) < len(left) or not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if changes:
        arguments.overrides = [*arguments.overrides, *changes]
    return arguments


def exit_code_of(work: Callable[[], None]) -> int:
    """Do the work and turn the errors this project raises on purpose into one line and an exit code.

    Anything else goes through: it is a programming error, of ours or of a plug-in, and its traceback is
    what its author needs.
    """
    try:
        work()
    except KeyboardInterrupt:
        sys.stderr.write("vlcot: interrupted\n")
        return _INTERRUPTED
    except VlcotError as error:
        return _report(error)
    except BaseExceptionGroup as group:
        known, unknown = group.split(VlcotError)
        if known is None or unknown is not None:
            raise
        return _report(next(_leaves(known)))
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all sub-commands."""
    parser = _Parser(
        prog="vlcot",
        description="Distributed GRPO for models that answer with a chain of text and pictures.",
        epilog="examples:\n" + "\n".join(f"  {command.example}" for command in COMMANDS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("-v", "--verbose", action="store_true", help="log more, with tracebacks of errors")
        command.add_arguments(sub)
    return parser


# --------------------------------------------------------------------------------- arguments


def _takes_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", metavar="CONFIG", help="a YAML file, the name of a shipped one (demo), or a run directory"
    )
    parser.add_argument(
        "overrides",
        metavar="key=value",
        nargs="*",
        help="changes, e.g. num_steps=50 rewards.format.weight=0.5",
    )


def _takes_config_and_address(parser: argparse.ArgumentParser) -> None:
    _takes_config(parser)
    parser.add_argument(
        "--address",
        metavar="RAY",
        help="a running Ray cluster to join, e.g. auto or ray://head:10001 (the same as ray_address=)",
    )


def _takes_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", metavar="CONFIG-or-RUN", help="a run directory (its newest weights), or a configuration"
    )
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", type=Path, help="photographs, or folders of them"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for what comes out")


def _takes_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="a run directory, e.g. runs/demo")


def _takes_run_to_watch(parser: argparse.ArgumentParser) -> None:
    _takes_run(parser)
    parser.add_argument("--watch", action="store_true", help="refresh each second until the run ends")
    parser.epilog = (
        f"{parser.epilog}\n\nexit codes:\n  0 it runs or has finished   1 it failed, or its driver is dead"
        "\n  3 an alarm stopped it       4 it runs, but a worker gives no sign of life"
    )


# --------------------------------------------------------------------------------- commands


def _on_config(target: str, *, announce: bool = True) -> Callable[[argparse.Namespace], None]:
    def run(arguments: argparse.Namespace) -> None:
        address = getattr(arguments, "address", None)
        joined = [f"ray_address={address}"] if address else []
        config = _load(arguments.config, [*arguments.overrides, *joined])
        if announce:
            _say_derived(config)
        _resolve(target)(config)

    return run


def _search(arguments: argparse.Namespace) -> None:
    from configs.checks.search import check_search
    from configs.search import PLAN, load_plan, with_place

    place = Path(arguments.config).resolve()
    plan = load_plan(arguments.config, arguments.overrides)
    if resume := (place / PLAN).is_file():
        plan = with_place(plan, place.parent, place.name)
    _say_derived(check_search(plan))
    _resolve("cluster.search.search:search")(plan, resume=resume)


def _restore(arguments: argparse.Namespace) -> None:
    config = _load(arguments.config, [])
    for image in arguments.images:
        if not image.exists():
            raise ConfigError(f"{image}: no such photograph or folder")
    _resolve("cluster.commands.restoration.restore:restore")(config, arguments.images, arguments.out)


def _report_run(arguments: argparse.Namespace) -> None:
    if not (arguments.run_dir / "metrics.jsonl").is_file():
        raise ConfigError(f"{arguments.run_dir}: no run here (no metrics.jsonl); give a run directory")
    _resolve("cluster.report.page:write_report")(arguments.run_dir)


def _status(arguments: argparse.Namespace) -> None:
    if code := _resolve("cluster.commands.status:status")(arguments.run_dir, watch=arguments.watch):
        sys.exit(code)


COMMANDS: Mapping[str, Command] = {
    "coldstart": Command(
        "train both policies and the learned expert on examples, before GRPO",
        "vlcot coldstart demo coldstart.text_steps=200",
        _takes_config,
        _on_config("cluster.run.train:coldstart"),
    ),
    "train": Command(
        "run GRPO; makes the cold start first where there is none",
        "vlcot train demo num_steps=50 name=longer",
        _takes_config_and_address,
        _on_config("cluster.run.train:train"),
    ),
    "eval": Command(
        "measure a run's newest weights on held-out photographs",
        "vlcot eval runs/demo eval.num_prompts=96",
        _takes_config,
        _on_config("cluster.run.train:evaluate"),
    ),
    "restore": Command(
        "restore photographs with what was trained",
        "vlcot restore runs/demo photo.jpg holiday/ --out restored",
        _takes_images,
        _restore,
    ),
    "search": Command(
        "search any keys for the best held-out metric; the section search of the file says which",
        "vlcot search tuned.yaml search.num_trials=32",
        _takes_config,
        _search,
    ),
    "report": Command(
        "write the report of a run again",
        "vlcot report runs/demo",
        _takes_run,
        _report_run,
    ),
    "status": Command(
        "show what a run does now: step, rewards, and every worker's activity and last sign of life",
        "vlcot status runs/demo --watch",
        _takes_run_to_watch,
        _status,
    ),
    "check": Command(
        "check a configuration and its photographs, and print what follows; starts nothing",
        "vlcot check demo policies.text.learner.num_ranks=2",
        _takes_config,
        _on_config("cluster.run.preflight:check", announce=False),
    ),
    "plan": Command(
        "print where every process of a run goes, what it holds, and what does not fit; starts nothing",
        "vlcot plan qwen2_5_vl_8gpu policies.text.learner.zero_stage=2",
        _takes_config,
        _on_config("cluster.commands.plan:plan", announce=False),
    ),
    "rewards": Command(
        rewards_cli.SUMMARY,
        rewards_cli.EXAMPLE,
        rewards_cli.add_arguments,
        rewards_cli.run,
    ),
}


# --------------------------------------------------------------------------------- helpers


def _load(name_or_path: str, overrides: Sequence[str]) -> Any:
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


def _say_derived(config: Any) -> None:
    from configs.derive import derived

    facts = derived(config)
    width = max(map(len, facts))
    sys.stdout.write("".join(f"{name:<{width}}  {value}\n" for name, value in facts.items()))
    sys.stdout.flush()


def _resolve(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _set_up_logging(*, verbose: bool) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)


def _find_our_tools() -> None:
    """Put this environment's programs on the path: DeepSpeed and vLLM compile with its ``ninja``."""
    programs = str(Path(sys.executable).parent)
    if programs not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", "")])


def _report(error: BaseException) -> int:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    where = [note.partition("\n")[0] for note in getattr(error, "__notes__", [])]
    text = " ".join([*lines[:1], *(f"[{note}]" for note in where)]) or type(error).__name__
    logger.debug("what led to the error below", exc_info=error)
    sys.stderr.write(f"vlcot: error: {text}\n")
    return error.exit_code if isinstance(error, VlcotError) else 1


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


if __name__ == "__main__":
    sys.exit(main())
