"""Searcher and scheduler of Ray Tune: which values next (Optuna's TPE), and which trials to stop (ASHA).

Both are filled from the trials' records, so a search that was killed goes on with all that was known. Tune's
own state is not used for it: it is written every few seconds, and knows nothing of the trial that began in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search import Searcher

from cluster.search.trials import Trial, TrialBook
from configs.schema import Config
from configs.search import RANGES, Domain, SearchPlan
from rl.seeding import derive_seed
from rl.types import JsonDict

OBJECTIVE = "objective"
"""What a trial reports: its held-out mean, larger is better."""
STEP = "step"
"""GRPO steps done."""
NUM_RANDOM = 5
"""Trials drawn at random before TPE looks at their results."""
OnChange = Callable[[Trial], None]


def distribution(domain: Domain) -> BaseDistribution:
    """Return Optuna's form of a domain. Choices go by index: they may be lists or mappings."""
    values = domain.values
    match domain.kind:
        case "uniform":
            return FloatDistribution(float(values[0]), float(values[1]))
        case "log_uniform":
            return FloatDistribution(float(values[0]), float(values[1]), log=True)
        case "int":
            return IntDistribution(int(values[0]), int(values[1]))
        case _:
            return CategoricalDistribution(list(range(len(values))))


class Drawer:
    """Draws values and learns from results; a thin layer over an Optuna study."""

    def __init__(self, plan: SearchPlan, *, num_known: int, sign: float) -> None:
        """Begin, with a random state that depends on how many trials there were before.

        Args:
            plan: The search.
            num_known: Trials that were drawn before: a resumed search must not draw theirs again.
            sign: -1 where less is better.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._plan, self._sign = plan, sign
        self._space = {key: distribution(domain) for key, domain in plan.space.items()}
        seed = derive_seed(plan.settings.seed, "search", num_known) % 2**32
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=NUM_RANDOM)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)

    def ask(self, fixed: Mapping[str, Any]) -> tuple[optuna.Trial, dict[str, Any]]:
        """Draw values, some of which may be given."""
        if fixed:
            self._study.enqueue_trial({key: self._encode(key, value) for key, value in fixed.items()})
        drawn = self._study.ask(fixed_distributions=self._space)
        return drawn, {key: self._decode(key, value) for key, value in drawn.params.items()}

    def tell(self, drawn: optuna.Trial, trial: Trial) -> None:
        """Learn how a trial ended; one that was stopped counts less than one that was not."""
        known = {step: value for step, value in trial.metric.items() if value is not None}
        for step, value in known.items():
            drawn.report(self._sign * value, step)
        if trial.state == "finished" and trial.last is not None:
            self._study.tell(drawn, self._sign * trial.last)
        else:
            is_pruned = trial.state == "stopped" and known
            self._study.tell(drawn, state=TrialState.PRUNED if is_pruned else TrialState.FAIL)

    def _encode(self, key: str, value: Any) -> Any:
        domain = self._plan.space[key]
        return value if domain.kind in RANGES else domain.values.index(value)

    def _decode(self, key: str, value: Any) -> Any:
        domain = self._plan.space[key]
        return value if domain.kind in RANGES else domain.values[value]


class RecordedSearcher(Searcher):  # type: ignore[misc] # Ray has no types
    """Ray Tune's searcher: hands out trials, and writes down each before it starts and when it has ended."""

    def __init__(
        self, plan: SearchPlan, book: TrialBook, *, own: Mapping[str, Any], sign: float, on_change: OnChange
    ) -> None:
        """Take up what the records hold.

        Args:
            plan: The search.
            book: Its records.
            own: The configuration's own values where they lie in the space: they are the first trial.
            sign: -1 where less is better.
            on_change: Called with a trial whenever it was measured, and when it has ended.
        """
        super().__init__(metric=OBJECTIVE, mode="max")
        known = book.all()
        self._plan, self._book, self._own, self._on_change = plan, book, own, on_change
        self._drawer = Drawer(plan, num_known=len(known), sign=sign)
        self._drawn: dict[int, optuna.Trial] = {}
        self._numbers: dict[str, int] = {}
        for trial in known:
            self._drawn[trial.number], _ = self._drawer.ask(trial.values)
            if trial.state != "running":
                self._drawer.tell(self._drawn[trial.number], trial)
        self._unfinished = [trial for trial in known if trial.state == "running"]
        self._num_known = book.num_known

    @property
    def num_left(self) -> int:
        """Trials to be run."""
        return len(self._unfinished) + max(0, self._plan.num_trials - self._num_known)

    def suggest(self, trial_id: str) -> JsonDict:
        """Return the next trial: one that was under way when the search was killed, or a new one."""
        trial = self._unfinished.pop(0) if self._unfinished else self._draw()
        self._numbers[trial_id] = trial.number
        return {"number": trial.number}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Say how a trial does that goes on."""
        trial = self._book.read(self._numbers[trial_id])
        if trial.state == "running":
            self._on_change(trial)

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Write down how a trial ended, unless it has done so itself, and learn from it."""
        number = self._numbers[trial_id]
        why = "its process ended without a word (tune/*/error.txt has what Ray knows)" if error else ""
        trial = self._book.end(number, "failed" if error else "stopped", why)
        self._drawer.tell(self._drawn[number], trial)
        self._on_change(trial)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the trials' records hold everything, and are written when it happens."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing; see ``save``."""

    def _draw(self) -> Trial:
        number = self._num_known
        self._num_known += 1
        grid = self._plan.grid
        fixed = grid[number % len(grid)] or (self._own if number == 0 else {})
        self._drawn[number], values = self._drawer.ask(fixed)
        return self._book.write(Trial(number=number, values=values))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process: Tune pickles every searcher."""
        return self.__dict__ | {"_on_change": None}


def own_values(plan: SearchPlan, base: Config) -> dict[str, Any]:
    """Return the configuration's own values, or nothing where one lies outside its domain."""
    values = {key: _value_of(base, key) for key in plan.space}
    return values if all(value in plan.space[key] for key, value in values.items()) else {}


def make_asha(plan: SearchPlan, base: Config, known: Sequence[Trial], *, sign: float) -> Any:
    """Return the scheduler that stops trials, told of all that ended before; None where none may be stopped.

    Source:
        Li et al. 2020, "A system for massively parallel hyperparameter tuning" (ASHA), in its stopping form.
    """
    if not base.eval.every:
        return None
    scheduler = AsyncHyperBandScheduler(
        time_attr=STEP,
        metric=OBJECTIVE,
        mode="max",
        max_t=base.num_steps,
        grace_period=plan.settings.grace_steps or min(base.eval.every, base.num_steps),
        reduction_factor=plan.settings.reduction_factor,
    )
    for trial in known:
        if trial.state == "running":
            continue  # it reports again
        ended = SimpleNamespace(trial_id=trial.name)
        scheduler.on_trial_add(None, ended)
        for step, value in sorted(trial.metric.items()):
            number = math.nan if value is None else sign * value
            scheduler.on_trial_result(None, ended, {STEP: step, OBJECTIVE: number})
    return scheduler


def _value_of(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    return value
