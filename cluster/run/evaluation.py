"""Held-out evaluation: the same prompts for bicubic, the cold start and the trained policies."""

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
from cluster.record.run_files import read_evaluation
from cluster.record.rundir import RunDir
from cluster.runtime.calls import Worker, fetch, gather
from cluster.runtime.console import bar
from cluster.runtime.files import write_atomically
from configs.schema import Config
from rl.data.images import resize
from rl.errors import DamagedFileError
from rl.measure.statistics import summarise_eval
from rl.restoration.names import degraded_of, truth_of
from rl.types import Chain, Floats, JsonDict, Pixels, Prompt, ScoredGroup

logger = logging.getLogger(__name__)

Column = list[float | None]
Rows = dict[str, dict[str, Column]]
"""``row -> metric -> a value a prompt``."""
Model = Literal["coldstart", "grpo"]


@dataclass(slots=True)
class Evaluator:
    """Evaluates weights as they are in the rollout workers now, and keeps what it saw.

    Text is sampled as in training, pictures as ``eval.samplers`` says, each chain with the same seed whenever
    its prompt is evaluated.
    """

    config: Config
    prompts: Sequence[Prompt]
    runners: Sequence[Worker]
    judges: Worker
    recorder: ChainRecorder
    rows: dict[str, Rows] = field(default_factory=lambda: defaultdict(dict))
    """By sampler."""

    def bicubic(self) -> None:
        """Measure the enlarged degraded photo: the judges' floor."""
        judged = self._judge([enlarged(p, config=self.config) for p in self.prompts])
        for sampler in self.config.eval.samplers:
            self.rows[sampler]["bicubic"] = judged

    def policies(self, model: Model, *, step: int) -> None:
        """Sample one chain a held-out prompt with the present weights, score and judge it, for every sampler."""
        for sampler in self.config.eval.samplers:
            noise_level = 0.0 if sampler == "deterministic" else None
            requests = [
                GroupRequest(prompt=p, draw=0, num_chains=1, noise_level=noise_level) for p in self.prompts
            ]
            with bar(f"evaluate {model}, {sampler}", len(requests)) as told:
                groups = run_groups(self.runners, requests, deadline_s=self.config.deadline_s, on_done=told)
            pictures = [resolve_pictures(group.chains[0], self.config) for group in groups]
            last = final_picture_block(self.config)
            judged = self._judge([named.get(last) for named in pictures])
            scored = {name: [score_of(g, name) for g in groups] for name in self.config.rewards}
            self.rows[sampler][model] = {**scored, "total": self._totals(scored), **judged}
            if sampler == self.config.eval.samplers[0]:
                for request, group, named in zip(requests, groups, pictures, strict=True):
                    self._record(request, group, named, model, step)

    def write(self, run: RunDir) -> JsonDict:
        """Write one file a sampler and return the content of ``eval.json``."""
        ids = [prompt.prompt_id for prompt in self.prompts]
        summaries = {s: summarise_eval(ids, self.rows[s]) for s in self.config.eval.samplers}
        for sampler, summary in summaries.items():
            write_atomically(self._path(run, sampler), json.dumps(summary, indent=1))
        return summaries[self.config.eval.samplers[0]]

    def read(self, run: RunDir) -> None:
        """Take up the rows that were measured before on the same prompts, if any were."""
        for sampler in self.config.eval.samplers:
            path = self._path(run, sampler)
            try:
                prompts = read_evaluation(path)["prompts"] if path.exists() else {}
            except DamagedFileError as error:
                logger.warning("%s; what was measured before is left out from here on", error)
                prompts = {}
            if set(prompts) == {prompt.prompt_id for prompt in self.prompts}:
                self.rows[sampler] = _columns([prompts[prompt.prompt_id] for prompt in self.prompts])

    def _path(self, run: RunDir, sampler: str) -> Path:
        is_first = sampler == self.config.eval.samplers[0]
        return run.path / ("eval.json" if is_first else f"eval_{sampler}.json")

    def _record(
        self,
        request: GroupRequest,
        group: ScoredGroup,
        pictures: Mapping[str, Pixels],
        model: Model,
        step: int,
    ) -> None:
        scores = {name: score_of(group, name) for name in self.config.rewards}
        self.recorder.record(step, "eval", model, group.chains[0], pictures, request.prompt, scores)

    def _totals(self, scored: Mapping[str, Column]) -> Column:
        weights = {name: reward.weight for name, reward in self.config.rewards.items() if reward.weight}
        rows = zip(*(scored[name] for name in weights), strict=True)
        return [weighted(row, list(weights.values())) for row in rows]

    def _judge(self, pictures: Sequence[Pixels | None]) -> dict[str, Column]:
        """Measure pictures against the truth; None where one of them is missing."""
        pairs = [(q, truth_of(p)) for q, p in zip(pictures, self.prompts, strict=True)]
        usable = [i for i, (picture, truth) in enumerate(pairs) if picture is not None and truth is not None]
        if not usable:
            return {}
        call = self.judges.call("score", [pairs[i][0] for i in usable], [pairs[i][1] for i in usable])
        (values,) = gather([call], deadline_s=self.config.deadline_s)
        out: dict[str, Column] = {}
        for name, found in values.items():
            column: Column = [None] * len(pictures)
            for index, value in zip(usable, np.asarray(found, dtype=np.float64), strict=True):
                column[index] = float(value)
            out[name] = column
        return out


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
