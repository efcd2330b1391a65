"""Interrupts: signals end a command with their code, wait while they must, and leave alone what ignores them."""

import signal
import subprocess
import sys

import pytest

from tests.reference.command import ROOT

WORKS = """
import sys, time
from cluster.cli import exit_code_of
from cluster.runtime.interrupts import INTERRUPTS

def work():
    with INTERRUPTS.held():
        print("held", flush=True)
        sys.stdin.readline()
        print("through", flush=True)
        with INTERRUPTS.let_through():
            print("in it", flush=True)
            time.sleep(30)

INTERRUPTS.install()
sys.exit(exit_code_of(work))
"""


def start(*words: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    command = [*words, sys.executable, "-c", WORKS]
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def hear(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{line}\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_waits_until_it_may_interrupt(signum):
    with start() as process:
        hear(process, "held")
        process.send_signal(signum)
        out, err = process.communicate("\n", timeout=60)
    assert (out, err) == ("through\n", f"vlcot: ended by {signum.name}\n")
    assert process.returncode == 128 + signum


def test_a_signal_interrupts_at_once_where_it_may():
    with start() as process:
        hear(process, "held")
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        hear(process, "through")
        hear(process, "in it")
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60) == ("", "vlcot: ended by SIGTERM\n")
    assert process.returncode == 143


def test_a_second_signal_waits_for_nothing():
    with start() as process:
        hear(process, "held")
        for signum in (signal.SIGTERM, signal.SIGHUP):  # two of a kind may become one
            process.send_signal(signum)
        assert process.wait(timeout=60) in (129, 143)


def test_what_nohup_ignores_stays_ignored():
    with start("nohup") as process:
        hear(process, "held")
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        process.communicate("\n", timeout=60)
    assert process.returncode == 143
