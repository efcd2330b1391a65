"""The contract test kit: run it on a reward of your own before you train with it.

``check_reward(MyReward(...), chains)`` raises ``AssertionError`` with the broken promise, or returns; ``vlcot rewards
check`` prints promise by promise. It is used by the project's own tests, and needs no test framework.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np

from configs.schema import BlockConfig
from rewards.base import Need, Reward, describe_exception, evaluate
from rewards.core.asynchrony import own_event_loop
from rewards.examples import as_sent, example_blocks, example_chains
from rewards.plain.base import PlainReward
from rl.errors import ConfigError
from rl.types import ChainView, Floats, Prompt, Scores

ABSOLUTE_TOLERANCE = 1e-5
"""Most by which order and batch may move a score, in shares of its range: float rounding."""


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise, and whether the reward keeps it."""

    name: str
    state: Literal["kept", "broken", "not checked"]
    detail: str = ""
    """How it is broken, or why it was not checked."""


def check_reward(
    reward: Reward,
    chains: Sequence[ChainView] | None = None,
    *,
    blocks: Mapping[str, BlockConfig] | None = None,
) -> Scores:
    """Check everything the loop relies on: all of ``PROMISES``.

    Args:
        reward: Not yet set up.
        chains: At least two; None takes ``example_chains``.
        blocks: The chain's blocks; None takes the paper's seven.

    Returns:
        The scores of ``chains``, for further checks.

    Raises:
        AssertionError: With the first broken promise.
        ConfigError: If the reward cannot be set up as configured.
    """
    trial = _Trial(reward, chains, blocks)
    for promise in _checked(trial):
        _require(promise.state != "broken", promise.detail)
    return trial.scores


def check_promises(reward: Reward) -> Iterator[Promise]:
    """Check the same on the examples, and go on behind a broken promise as far as that makes sense."""
    yield from _checked(_Trial(reward, None, None))


class _Trial:
    """What the promises are checked on."""

    def __init__(
        self,
        reward: Reward,
        chains: Sequence[ChainView] | None,
        blocks: Mapping[str, BlockConfig] | None,
    ) -> None:
        self.reward = reward
        self.chains = [as_sent(chain) for chain in (example_chains() if chains is None else chains)]
        _require(len(self.chains) >= 2, "give at least two chains")
        self.before = copy.deepcopy(self.chains)
        self.blocks = blocks or example_blocks()
        self.answer: Scores | None = None

    @property
    def scores(self) -> Scores:
        assert self.answer is not None  # the promise about scores comes before those that look at them
        return self.answer

    def ask(self, chains: Sequence[ChainView]) -> Scores:
        return evaluate(self.reward, "checked", chains)

    def close(self, values: Floats, expected: Floats) -> bool:
        span = self.reward.high - self.reward.low
        tolerance = ABSOLUTE_TOLERANCE * (span if np.isfinite(span) else 1.0)
        return bool(np.allclose(values, expected, rtol=0.0, atol=tolerance))


# --------------------------------------------------------------------------------- promises


def _is_picklable(trial: _Trial) -> None:
    try:
        clone = pickle.loads(pickle.dumps(trial.reward))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise AssertionError(f"must be picklable before setup(): {error}") from error
    _require(type(clone) is type(trial.reward), "must be picklable before setup()")


def _judges_blocks(trial: _Trial) -> None:
    strange = set(trial.reward.judged_blocks(trial.blocks)) - set(trial.blocks)
    _require(not strange, f"judges blocks that are not in the chain: {sorted(strange)}")


def _sets_up(trial: _Trial) -> None:
    trial.reward.setup()


def _has_a_range(trial: _Trial) -> None:
    reward = trial.reward
    _require(reward.low < reward.high, f"range {reward.low} to {reward.high} is empty")
    _require(reward.low <= reward.missing <= reward.high, "the missing value is outside the range")
    _require(math.isfinite(reward.missing), f"the missing value is {reward.missing}; declare a finite one")


def _scores_the_examples(trial: _Trial) -> None:
    trial.answer = scores = trial.ask(trial.chains)
    _require(bool(scores.valid.all()), f"examples have no score: {sorted(set(scores.reasons) - {''})}")
    silent = [
        c.chain_id
        for c, m, why in zip(trial.chains, scores.missing, scores.reasons, strict=True)
        if m and not why
    ]
    _require(not silent, f"counts {silent} as missing without a reason")


def _leaves_its_input(trial: _Trial) -> None:
    _require(_equal(trial.before, trial.chains), "score() changed its input")


def _is_deterministic(trial: _Trial) -> None:
    again = trial.ask(trial.chains)
    _require(
        trial.close(again.values, trial.scores.values), "the same chains get other scores when asked again"
    )


def _ignores_the_order(trial: _Trial) -> None:
    order = np.random.default_rng(0).permutation(len(trial.chains))
    shuffled = trial.ask([trial.chains[i] for i in order])
    _require(
        trial.close(shuffled.values, trial.scores.values[order]), "scores depend on the order of the chains"
    )


def _ignores_the_batch(trial: _Trial) -> None:
    alone = [trial.ask([chain]).values[0] for chain in trial.chains]
    _require(
        trial.close(np.asarray(alone), trial.scores.values), "scores depend on what else is in the batch"
    )
    _require(trial.ask([]).values.shape == (0,), "must score no chains as none")


def _counts_what_is_missing(trial: _Trial) -> None:
    chain = trial.chains[0]
    scores = trial.ask([_bare(chain), chain])
    _require(bool(scores.valid.all()), f"a chain without inputs is an error: {scores.reasons}")
    if trial.reward.needs - {Need.TEXT}:
        _require(bool(scores.missing[0]), "a chain without a needed input is not counted as missing")
    _require(not scores.missing[1], "a whole chain counts as missing beside a bare one")


def _raises_what_travels(trial: _Trial) -> None:
    """Ask about chains it need not understand, past all that protects it, and look at what it raises."""
    strange = dataclasses.replace(
        trial.chains[0], text="\x00</", block_text={"\x00": "</"}, final_block="\x00"
    )
    for chain in (_bare(trial.chains[0]), strange):
        try:
            trial.reward.score([chain])
        except (Exception, SystemExit) as error:  # noqa: BLE001 - any exception of an author is the subject here
            _check_travels(error)


_MAIN_THREAD = (
    "a Reward class is scored in a thread beside the main one: make it a plain function, which has a process, "
    "or host it with vlcot rewards serve"
)


_Check = Callable[[_Trial], None]
PROMISES: Mapping[str, Callable[[_Trial], None]] = {
    "is picklable before setup()": _is_picklable,
    "judges blocks that the chain has": _judges_blocks,
    "sets up": _sets_up,
    "declares a range, and a finite missing value in it": _has_a_range,
    "gives every example one finite score in its range, or a reason": _scores_the_examples,
    "leaves chains and pictures as they were": _leaves_its_input,
    "gives the same scores when asked again": _is_deterministic,
    "gives the same scores in another order": _ignores_the_order,
    "gives the same scores in another batch": _ignores_the_batch,
    "counts a chain without its inputs as missing": _counts_what_is_missing,
    "raises only what survives pickling": _raises_what_travels,
}
"""What is checked, in order."""
_SAME_SCORES = frozenset({_is_deterministic, _ignores_the_order, _ignores_the_batch})
_NEEDED_BY_THE_REST = frozenset({_sets_up, _scores_the_examples})


def _checked(trial: _Trial) -> Iterator[Promise]:
    stopped = ""
    with _where_runs_score(trial.reward) as ask:
        for name, check in PROMISES.items():
            if stopped:
                yield Promise(name, "not checked", f"it does not keep: {stopped}")
            elif check in _SAME_SCORES and not trial.reward.deterministic:
                yield Promise(name, "not checked", "declares deterministic = False")
            else:
                detail = _broken(check, trial, ask)
                yield Promise(name, "broken" if detail else "kept", detail)
                stopped = name if detail and check in _NEEDED_BY_THE_REST else ""


@contextmanager
def _where_runs_score(reward: Reward) -> Iterator[Callable[[_Check, _Trial], None]]:
    """Yield what makes a check where a run would score: here for a function, in a thread for a class."""
    if isinstance(reward, PlainReward):
        yield lambda check, trial: check(trial)
        return
    with ThreadPoolExecutor(1) as thread:
        loop = own_event_loop()
        thread.submit(loop.__enter__).result()
        try:
            yield lambda check, trial: thread.submit(check, trial).result()
        finally:
            thread.submit(loop.__exit__, None, None, None).result()


def _broken(check: _Check, trial: _Trial, ask: Callable[[_Check, _Trial], None]) -> str:
    """Say how a promise is broken, or ''."""
    try:
        ask(check, trial)
    except ConfigError:
        raise  # not the author's doing: the user's
    except AssertionError as error:
        detail = str(error) or describe_exception(error)
        return f"{detail}; {_MAIN_THREAD}" if "main thread" in detail else detail
    except (Exception, SystemExit) as error:  # noqa: BLE001 - any exception of an author breaks the promise
        return describe_exception(error)
    return ""


def _check_travels(error: BaseException) -> None:
    """Refuse an exception that another process could not read."""
    what = f"raises {type(error).__name__}, which does not survive pickling"
    try:
        arrived = pickle.loads(pickle.dumps(error))
    except Exception as trouble:
        raise AssertionError(f"{what}: {trouble}; give it one argument, or __reduce__") from trouble
    same = type(arrived) is type(error) and str(arrived) == str(error)
    _require(same, f"{what}: it arrives as {type(arrived).__name__}({arrived})")


def _bare(chain: ChainView) -> ChainView:
    """Return the chain with nothing in it, and a prompt that knows nothing: its reference values are empty."""
    reference = {
        name: type(v)() if isinstance(v, Sized) else None for name, v in chain.prompt.reference.items()
    }
    prompt: Prompt = Prompt(prompt_id=chain.prompt.prompt_id, reference=reference)
    return dataclasses.replace(chain, pictures={}, block_text={}, prompt=prompt)


def _equal(before: Sequence[ChainView], after: Sequence[ChainView]) -> bool:
    return all(
        a.text == b.text
        and dict(a.block_text) == dict(b.block_text)
        and a.pictures.keys() == b.pictures.keys()
        and all(np.array_equal(a.pictures[name], b.pictures[name]) for name in a.pictures)
        for a, b in zip(before, after, strict=True)
    )


def _require(condition: bool, promise: str) -> None:
    """Like ``assert``, which ``python -O`` would take away."""
    if not condition:
        raise AssertionError(promise)
