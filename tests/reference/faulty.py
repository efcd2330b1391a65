"""Rewards that fail in every way a reward can, on the chains that say so, and keep a list of what they scored."""

import math
import os
import signal
import sys
import threading
import time
from pathlib import Path

from rewards.base import Reward

HOUR = 3600


class UnpicklableError(Exception):
    """Cannot be rebuilt from its message: two arguments, and a lock inside."""

    def __init__(self, chain: str, code: int) -> None:
        super().__init__(f"{chain} has code {code}")
        self.lock = threading.Lock()


class FaultyReward(Reward):
    """Scores a chain by the number behind the last '/' of its id; misbehaves where the text names a fault.

    ``kill``, ``hang`` and ``exit`` happen whenever the chain is asked about, with ``_once`` behind them only the
    first time. A chain stands in the log once for every score of it that was returned.
    """

    high = 100.0

    def __init__(self, log: str, takes_s: float = 0.0) -> None:
        self.log = Path(log)
        self.takes_s = takes_s

    def score(self, chains):
        time.sleep(self.takes_s)
        for chain in chains:
            self._misbehave(chain)
        scores = [self._score(c) for c in chains]
        if any("few" in c.text for c in chains):
            return scores[:-1]
        with self.log.open("a") as file:
            file.write("".join(f"{c.chain_id}\n" for c in chains))
        return scores

    def _score(self, chain):
        if "nan" in chain.text:
            return math.nan
        return "good" if "word" in chain.text else float(chain.chain_id.rpartition("/")[2])

    def _misbehave(self, chain) -> None:
        for fault in ("kill", "hang", "exit"):
            if fault in chain.text and not self._was_here(chain, once=f"{fault}_once" in chain.text):
                {"kill": _kill, "hang": _hang, "exit": sys.exit}[fault]()
        if "raise" in chain.text:
            raise UnpicklableError(chain.chain_id, len(chain.chain_id))
        if "bug" in chain.text:
            raise ValueError(f"no such thing as {chain.chain_id}")

    def _was_here(self, chain, *, once: bool) -> bool:
        mark = self.log.with_name(chain.chain_id.replace("/", "+"))
        was_here = mark.exists()
        mark.touch()
        return once and was_here


class FragileReward(FaultyReward):
    """Can be set up once."""

    def setup(self) -> None:
        mark = self.log.with_name("set_up")
        if mark.exists():
            raise OSError("the license server is gone")
        mark.touch()


class SlowReward(Reward):
    """Takes its time, and says when it began, in seconds of the hour."""

    high = float(HOUR)

    def __init__(self, takes_s: float) -> None:
        self.takes_s = takes_s

    def score(self, chains):
        begin = time.time()
        time.sleep(self.takes_s)
        return [begin % HOUR for _ in chains]


class EnvReward(Reward):
    """Scores by what it finds in its environment."""

    high = 100.0

    def setup(self) -> None:
        from only_in_this_environment import NUMBER  # type: ignore[import-not-found]

        self.number = NUMBER

    def score(self, chains):
        return [self.number + float(os.environ["FROM_CONFIG"]) for _ in chains]


def _kill() -> None:
    # An answer that dies with its process is rightly worked out again: the last one is to get away.
    time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    time.sleep(600)
