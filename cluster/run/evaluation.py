"""Held-out evaluation: the same prompts answered by the start and by the policies of now, scored and measured.

Text is decoded greedily, pictures are painted as ``eval.samplers`` says (a unified policy writes both so). With
``eval.samples`` answers are also drawn as in training, at the policies' own temperature. An answer has the same seed
whenever its prompt is evaluated.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from cluster.pools.chain_runner import GroupRequest, final_picture_block
from cluster.pools.collector import run_groups
from cluster.record.recorder import ChainRecorder
from cluster.record.run_files import DRAWN, read_evaluation
from cluster.record.rundir import RunDir
from cluster.runtime.calls import Worker, fetch, gather
from cluster.runtime.console import bar
from cluster.runtime.files import write_atomically
from configs.derive import is_unified
from configs.schema import Config
from rl.data.images import resize
from rl.errors import DamagedFileError
from rl.measure.statistics import BICUBIC, REAL_ESRGAN, ROUND_TRIP, summarise_eval
from rl.restoration.names import DEGRADED, degraded_of, truth_of
from rl.types import Chain, Floats, JsonDict, Pixels, Prompt, ScoredGroup

logger = logging.getLogger(__name__)

Column = list[float | None]
Rows = dict[str, dict[str, Column]]
"""``row -> metric -> a value a prompt``."""
Model = Literal["start", "now"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way of answering every held-out prompt."""

    name: str
    """A sampler, or ``drawn``."""
    num_chains: int = 1
    noise_level: float | None
    """Of pictures; None is the policy's."""
    temperature: float | None
    """Of text; None is the policy's."""

    def request(self, prompt: Prompt) -> GroupRequest:
        """Return what a chain runner is asked."""
        return GroupRequest(
            prompt=prompt,
            draw=0,
            num_chains=self.num_chains,
            noise_level=self.noise_level,
            temperature=self.temperature,
        )


@dataclass(slots=True)
class Evaluator:
    """Evaluates weights as they are in the rollout workers now, and keeps what it saw."""

    config: Config
    prompts: Sequence[Prompt]
    runners: Sequence[Worker]
    picture_metrics: Worker | None
    """Serves ``rewards.experts.picture_metrics.PictureMetrics``; None where no picture is measured."""
    recorder: ChainRecorder
    codec: Worker | None = None
    """A rollout worker of a unified policy, which encodes and decodes pictures; None of other policies."""
    rows: dict[str, Rows] = field(default_factory=lambda: defaultdict(dict))
    """By way."""

    @property
    def ways(self) -> list[Way]:
        """Ways of answering; the first is that of ``eval.json``."""
        levels = {
            sampler: 0.0 if sampler == "deterministic" else None for sampler in self.config.eval.samplers
        }
        # The codes of a unified policy's pictures are drawn as its words are.
        is_whole = is_unified(self.config)
        ways = [
            Way(name=name, noise_level=level, temperature=None if is_whole and level is None else 0.0)
            for name, level in levels.items()
        ]
        if num := self.config.eval.samples:
            first = ways[0].noise_level
            ways.append(Way(name=DRAWN, num_chains=num, noise_level=first, temperature=None))
        return ways

    def baselines(self) -> None:
        """Measure what others make of the degraded photographs, where there are any: bicubic, and Real-ESRGAN.

        For a unified policy also what its picture tokenizer leaves of the truths.
        """
        self._round_trip()
        places = [i for i, prompt in enumerate(self.prompts) if DEGRADED in prompt.pictures]
        if not places or self.picture_metrics is None:
            return
        photos = [degraded_of(self.prompts[i]) for i in places]
        call = self.picture_metrics.call("restored", photos, self.config.scale)
        (restored,) = gather([call], deadline_s=self.config.deadline_s)
        made = {
            BICUBIC: [enlarged(self.prompts[i], config=self.config) for i in places],
            REAL_ESRGAN: restored,
        }
        for name, pictures in made.items():
            # None of a restorer that is not installed.
            self._baseline(name, dict(zip(places, pictures, strict=False)))

    def _round_trip(self) -> None:
        """Measure the truths, encoded and decoded."""
        truths = {
            i: truth for i, prompt in enumerate(self.prompts) if (truth := truth_of(prompt)) is not None
        }
        if self.codec is None or not truths:
            return
        deadline_s = self.config.deadline_s
        (codes,) = gather([self.codec.call("encode", list(truths.values()))], deadline_s=deadline_s)
        ((_, *pictures),) = gather([self.codec.call("decode", codes)], deadline_s=deadline_s)
        self._baseline(ROUND_TRIP, dict(zip(truths, pictures, strict=True)))

    def _baseline(self, name: str, pictures: Mapping[int, Pixels]) -> None:
        """Measure pictures, by place of their prompt, as a row of every way."""
        measured = self._measure([pictures.get(i) for i in range(len(self.prompts))], self.prompts)
        for way in self.ways:
            if measured:
                self.rows[way.name][name] = measured

    def policies(self, model: Model, *, step: int) -> None:
        """Have the present weights answer every held-out prompt in every way; score and measure the answers."""
        first, *_ = ways = self.ways
        for way in ways:
            requests = [way.request(prompt) for prompt in self.prompts]
            with bar(f"evaluate {model}, {way.name}", len(requests)) as show:
                groups = run_groups(self.runners, requests, deadline_s=self.config.deadline_s, on_done=show)
            answers = [(group, index) for group in groups for index in range(way.num_chains)]
            pictures = [resolve_pictures(group.chains[index], self.config) for group, index in answers]
            last = final_picture_block(self.config)
            prompts = [prompt for prompt in self.prompts for _ in range(way.num_chains)]
            scored = {
                name: [score_of(group, name, index) for group, index in answers]
                for name in self.config.rewards
            }
            measured = self._measure([named.get(last) for named in pictures], prompts)
            values = {**scored, "total": self._totals(scored), **measured}
            self.rows[way.name][model] = {
                name: by_prompt(column, way.num_chains) for name, column in values.items()
            }
            if way is first:
                for prompt, group, named in zip(self.prompts, groups, pictures, strict=True):
                    scores = {name: score_of(group, name) for name in self.config.rewards}
                    self.recorder.record(step, "eval", model, group.chains[0], named, prompt, scores)

    def write(self, run: RunDir) -> JsonDict:
        """Write one file a sampler and return the content of ``eval.json``, which has the drawn answers too."""
        ids = [prompt.prompt_id for prompt in self.prompts]
        summaries = {way.name: summarise_eval(ids, self.rows[way.name]) for way in self.ways}
        content = summaries[self.ways[0].name]
        content["rewards"] = list(self.config.rewards)
        if drawn := summaries.pop(DRAWN, None):
            content[DRAWN] = drawn | {"num_samples": self.config.eval.samples}
        for sampler, summary in summaries.items():
            write_atomically(self._path(run, sampler), json.dumps(summary, indent=1))
        return content

    def read(self, run: RunDir) -> None:
        """Take up the rows that were measured before on the same prompts and in the same ways, if any were."""
        for sampler in self.config.eval.samplers:
            path = self._path(run, sampler)
            try:
                content = read_evaluation(path) if path.exists() else {}
            except DamagedFileError as error:
                logger.warning("%s; what was measured before is left out from here on", error)
                continue
            self._take_up(sampler, content)
            drawn = content.get(DRAWN, {})
            if drawn.get("num_samples") == self.config.eval.samples:
                self._take_up(DRAWN, drawn)

    def _take_up(self, way: str, content: JsonDict) -> None:
        prompts = content.get("prompts", {})
        if set(prompts) == {prompt.prompt_id for prompt in self.prompts}:
            self.rows[way] = _columns([prompts[prompt.prompt_id] for prompt in self.prompts])

    def _path(self, run: RunDir, sampler: str) -> Path:
        is_first = sampler == self.config.eval.samplers[0]
        return run.evaluation if is_first else run.path / f"eval_{sampler}.json"

    def _totals(self, scored: Mapping[str, Column]) -> Column:
        weights = {name: reward.weight for name, reward in self.config.rewards.items() if reward.weight}
        rows = zip(*(scored[name] for name in weights), strict=True)
        return [weighted(row, list(weights.values())) for row in rows]

    def _measure(self, pictures: Sequence[Pixels | None], prompts: Sequence[Prompt]) -> dict[str, Column]:
        """Measure pictures against their prompts' truths: None where one of them is missing, {} where all are."""
        pairs = [
            (index, picture, truth)
            for index, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True))
            if picture is not None and (truth := truth_of(prompt)) is not None
        ]
        if not pairs or self.picture_metrics is None:
            return {}
        places, painted, truths = zip(*pairs, strict=True)
        call = self.picture_metrics.call("score", list(painted), list(truths))
        (values,) = gather([call], deadline_s=self.config.deadline_s)
        columns: dict[str, Column] = {}
        for name, measured in values.items():
            columns[name] = [None] * len(pictures)
            for index, value in zip(places, np.asarray(measured, dtype=np.float64), strict=True):
                columns[name][index] = float(value)
        return columns


def by_prompt(values: Column, num_chains: int) -> Column:
    """Return the mean over each prompt's answers, of those that have a value; None where none has.

    Args:
        values: One an answer, a prompt's ``num_chains`` after one another.
        num_chains: Answers of a prompt.
    """
    return [_mean(values[start : start + num_chains]) for start in range(0, len(values), num_chains)]


def _mean(values: Column) -> float | None:
    known = [value for value in values if value is not None]
    return known[0] if len(known) == 1 else float(np.mean(known)) if known else None


def _columns(values: Sequence[Mapping[str, Mapping[str, float | None]]]) -> Rows:
    """Turn values by prompt, row and metric into columns by row and metric."""
    return {
        row: {metric: [of_prompt[row][metric] for of_prompt in values] for metric in values[0][row]}
        for row in values[0]
    }


def enlarged(prompt: Prompt, *, config: Config) -> Pixels:
    """Return the degraded photo enlarged to the output size by bicubic interpolation."""
    degraded = degraded_of(prompt)
    height, width = degraded.shape[:2]
    return resize(degraded, height * config.scale, width * config.scale)


def resolve_pictures(chain: Chain, config: Config) -> dict[str, Pixels]:
    """Fetch a chain's finished pictures by block."""
    return fetch(chain.pictures, deadline_s=config.deadline_s)


def score_of(group: ScoredGroup, name: str, index: int = 0) -> float | None:
    """Return one chain's value of a reward, or None where the scorer failed."""
    scores = group.scores[name]
    values: Floats = scores.values
    return float(values[index]) if scores.valid[index] else None


def weighted(row: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """Sum a chain's weighted scores, or None where one is missing."""
    known = [value for value in row if value is not None]
    if len(known) < len(row):
        return None
    return float(np.dot(known, weights))
