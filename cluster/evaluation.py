"""Held-out evaluation: the same prompts for bicubic, the cold start and the trained policies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cluster.calls import Worker, fetch, gather
from cluster.collector import run_jobs
from cluster.progress import bar
from cluster.recorder import ChainRecorder
from cluster.rundir import RunDir, write_atomically
from cluster.runner import Job, final_picture_block
from configs.schema import Config
from rl.data.images import resize
from rl.statistics import summarise_eval
from rl.types import Chain, Floats, JsonDict, Pixels, Prompt, ScoredGroup

Column = list[float | None]
Sampler = Literal["deterministic", "trained"]
"""Noise-free pictures, or the stochastic sampler that is trained. Text is sampled in both."""


@dataclass(slots=True)
class Evaluator:
    """Evaluates weights as they are in the rollout workers now, and keeps what it saw."""

    config: Config
    prompts: Sequence[Prompt]
    runners: Sequence[Worker]
    judges: Worker
    recorder: ChainRecorder
    rows: dict[str, dict[str, Column]] = field(default_factory=dict)

    def bicubic(self) -> None:
        """Measure the enlarged degraded photo: the judges' floor."""
        pictures = [enlarged(p, config=self.config) for p in self.prompts]
        self.rows["bicubic"] = self._judge(pictures)

    def policies(self, model: Literal["coldstart", "grpo"], *, step: int, sampler: Sampler) -> None:
        """Sample one chain a held-out prompt with the present weights, score and judge it."""
        noise_level = 0.0 if sampler == "deterministic" else None
        jobs = [Job(prompt=p, draw=0, num_chains=1, noise_level=noise_level) for p in self.prompts]
        with bar(f"evaluate {model}", len(jobs)) as told:
            groups = run_jobs(self.runners, jobs, deadline_s=self.config.deadline_s, on_done=told)
        pictures = [self._record(job, group, model, step) for job, group in zip(jobs, groups, strict=True)]
        last = final_picture_block(self.config)
        judged = self._judge([named.get(last) for named in pictures])
        scored = {name: [score_of(g, name) for g in groups] for name in self.config.rewards}
        self.rows[model] = {**scored, "total": self._totals(scored), **judged}

    def write(self, run: RunDir) -> JsonDict:
        """Write ``eval.json`` and return its content."""
        summary = summarise_eval([p.prompt_id for p in self.prompts], self.rows)
        write_atomically(run.path / "eval.json", json.dumps(summary, indent=1))
        return summary

    def read(self, run: RunDir) -> None:
        """Take up the rows that an earlier attempt of the run measured."""
        prompts = json.loads((run.path / "eval.json").read_text())["prompts"]
        for model in ("bicubic", "coldstart"):
            metrics = {name for values in prompts.values() for name in values.get(model, {})}
            self.rows[model] = {
                name: [prompts[p.prompt_id][model].get(name) for p in self.prompts]
                for name in sorted(metrics)
            }

    def _record(
        self, job: Job, group: ScoredGroup, model: Literal["coldstart", "grpo"], step: int
    ) -> Mapping[str, Pixels]:
        (chain,) = group.chains
        pictures = resolve_pictures(chain, self.config)
        scores = {name: score_of(group, name) for name in self.config.rewards}
        self.recorder.record(step, "eval", model, chain, pictures, job.prompt, scores)
        return pictures

    def _totals(self, scored: Mapping[str, Column]) -> Column:
        weights = {name: reward.weight for name, reward in self.config.rewards.items() if reward.weight}
        rows = zip(*(scored[name] for name in weights), strict=True)
        return [weighted(row, list(weights.values())) for row in rows]

    def _judge(self, pictures: Sequence[Pixels | None]) -> dict[str, Column]:
        """Measure pictures against the truth; None where one of them is missing."""
        pairs = [(q, p.reference.photo) for q, p in zip(pictures, self.prompts, strict=True)]
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


def enlarged(prompt: Prompt, *, config: Config) -> Pixels:
    """Return the degraded photo enlarged to the output size by bicubic interpolation."""
    height, width = prompt.degraded.shape[:2]
    return resize(prompt.degraded, height * config.scale, width * config.scale)


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
