"""The command ``vlcot``: parses, checks the configuration, hands over; imports nothing heavy to do so.

A mistake of the user costs one line on stderr and exit code 2; a run that failed for a known reason one
line and exit code 1, one that an alarm stopped 3; a programming error shows its traceback. Ctrl-C ends with 130,
SIGTERM with 143 and SIGHUP with 129; a training run saves before these two.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from cluster.commands.command import Command
from cluster.runtime.files import as_disk_full
from cluster.runtime.interrupts import INTERRUPTS, Terminated
from configs import PACKAGES
from configs.errors import VlcotError, first_line, leaves
from configs.suggest import suggest

logger = logging.getLogger(__name__)

_INTERRUPTED = 130
LONGEST_LINE = 2000
"""Characters of an error that are shown."""


NAMES = (
    "coldstart", "train", "eval", "restore", "search", "report", "status", "check", "plan", "rewards",
)  # fmt: skip
"""Commands in the order of the help; each is a file in ``cluster/commands`` with a ``COMMAND``."""
COMMANDS: Mapping[str, Command] = {
    name: importlib.import_module(f"cluster.commands.{name}").COMMAND for name in NAMES
}


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
        Exit code: 0 done, 1 the run failed, 2 usage, configuration or data, 3 stopped by an alarm, 130 interrupted,
        129 and 143 ended by SIGHUP and SIGTERM.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        hint = suggest(words[0], COMMANDS) or f"; commands are {', '.join(COMMANDS)}"
        parser.error(f"unknown command {words[0]!r}{hint}")
    arguments = parse(parser, words)
    _set_up_logging(verbose=arguments.verbose)
    _find_our_tools()
    INTERRUPTS.install()
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


def exit_code_of(work: Callable[[], int | None]) -> int:
    """Do the work and turn the errors this project raises on purpose into one line and an exit code.

    Anything else goes through: it is a programming error, of ours or of a plug-in, and its traceback is
    what its author needs.
    """
    try:
        return work() or 0
    except KeyboardInterrupt:
        cause = INTERRUPTS.cause
        is_signal = isinstance(cause, Terminated)
        with suppress(OSError):  # the terminal may be gone
            sys.stderr.write(f"vlcot: ended by {cause}\n" if is_signal else "vlcot: interrupted\n")
        return cause.exit_code if isinstance(cause, Terminated) else _INTERRUPTED
    except VlcotError as error:
        return _report(error)
    except BaseExceptionGroup as group:
        known, unknown = group.split(VlcotError)
        if known is None or unknown is not None:
            raise
        return _report(next(leaves(known)))
    except Exception as error:
        if (full := as_disk_full(error, Path.cwd(), "what was to be written")) is None:
            raise
        return _report(full)
    except SystemExit as error:
        # Nothing of ours ends the process: a reward, tracker or plug-in does, perhaps with the code of success.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{frame.filename}:{frame.lineno} calls sys.exit({error.code!r}), which would end vlcot; let it return"
        return _report(VlcotError(f"{what}, or raise an exception"))


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


# --------------------------------------------------------------------------------- helpers


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
    where = [note.partition("\n")[0] for note in getattr(error, "__notes__", [])]
    text = " ".join([first_line(error), *(f"[{note}]" for note in where)])
    logger.debug("what led to the error below", exc_info=error)
    sys.stderr.write(f"vlcot: error: {_printable(text)}\n")
    return error.exit_code if isinstance(error, VlcotError) else 1


def _printable(text: str) -> str:
    """Return a message fit for a terminal, whatever of the user's it repeats: escape codes are shown, and it ends."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= LONGEST_LINE else f"{shown[:LONGEST_LINE]} ..."


if __name__ == "__main__":
    sys.exit(main())
