"""The starting point of a run: made by supervised Ray Train jobs, reused where it is there already.

A cold start is a directory with one checkpoint a policy, the learned expert, and ``coldstart.json``, which is
written last: without it the directory is half-made and is gone on with.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID

from actors.policies.tokenizer import load_vocabulary
from cluster.calls import Call, Worker, gather, is_answered
from cluster.coldstart_job import EXPERT, Job
from cluster.progress import CONSOLE
from cluster.rundir import write_atomically
from cluster.runner import TextContext
from cluster.spawn import kill, spawn
from configs.derive import COLDSTART, COLDSTART_DONE, coldstart_directory
from configs.load import digest
from configs.schema import Config
from rl.chain import ChainGrammar
from rl.errors import CallTimeoutError, ConfigError

LOOK_S = 1.0
"""How often the progress bars move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where the policies start."""

    directory: Path
    """The cold start; need not exist where every policy has a source of its own."""
    sources: Mapping[str, Path]
    """Checkpoint directory by policy."""

    def with_experts(self, config: Config) -> Config:
        """Return the configuration with the learned expert's weights in the place of ``coldstart``."""
        weights = str(self.directory / EXPERT / "expert.pth")
        rewards = {
            name: replace(reward, options=_replaced(reward.options, COLDSTART, weights))
            for name, reward in config.rewards.items()
        }
        return replace(config, rewards=rewards)


def ensure_start(config: Config) -> Start:
    """Return the starting point; make the cold start first where it is wanted and not there.

    Raises:
        ConfigError: If ``coldstart.directory`` holds a cold start of another configuration.
    """
    directory = Path(coldstart_directory(config)).resolve()
    taught = {name: p for name, p in config.policies.items() if p.source == COLDSTART}
    done = directory / COLDSTART_DONE
    if taught and not done.exists():
        _make(config, directory, {name: policy.kind for name, policy in taught.items()})
        write_atomically(done, json.dumps({"digest": digest(config)}))
    elif taught and json.loads(done.read_text())["digest"] != digest(config):
        raise ConfigError(
            f"{directory} holds the cold start of another configuration; name another coldstart.directory "
            "or leave it empty"
        )
    sources = {n: directory / n if n in taught else Path(p.source) for n, p in config.policies.items()}
    return Start(directory=directory, sources=sources)


def has_start(config: Config) -> bool:
    """Whether the policies have something to start from without a cold start being made."""
    taught = any(policy.source == COLDSTART for policy in config.policies.values())
    return not taught or (Path(coldstart_directory(config)) / COLDSTART_DONE).exists()


def text_context(config: Config, sources: Mapping[str, Path]) -> TextContext:
    """Read what the chain needs to know of its text policy."""
    name = next((b.policy for b in config.chain.values() if b.kind == "text"), None)
    if name is None:
        grammar = ChainGrammar(config.chain)
        return TextContext(grammar=grammar, prompt=(), forbidden_ids=(), decode=_no_text)
    vocabulary = load_vocabulary(sources[name], tuple(config.chain))
    return TextContext(
        grammar=ChainGrammar(config.chain, vocabulary.tags),
        prompt=vocabulary.prompt,
        forbidden_ids=vocabulary.forbidden_ids,
        decode=vocabulary.decode,
    )


def _no_text(ids: object) -> str:
    return ""


def _make(config: Config, directory: Path, kinds: Mapping[str, str]) -> None:
    """Teach all policies at once; the expert follows the image policy, from whose outputs it learns.

    What a job makes appears under its name when it is whole, and is not made again.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lessons = {name: [kind] for name, kind in kinds.items()}
    painter = next((name for name, kind in kinds.items() if kind == "denoising"), None)
    if config.coldstart.expert_steps and painter is not None:
        lessons[painter].append(EXPERT)
    running: dict[str, _Running] = {}
    with Progress(console=CONSOLE) as progress, _ended(running):
        while lessons or running:
            for policy in [p for p in lessons if p not in running]:
                kind = lessons[policy].pop(0)
                if not lessons[policy]:
                    del lessons[policy]
                if not (directory / (EXPERT if kind == EXPERT else policy)).exists():
                    running[policy] = _start(config, directory, policy, kind, progress)
            for policy, job in list(running.items()):
                if _follow(job, directory, progress, config.deadline_s):
                    kill(running.pop(policy).worker)
            time.sleep(LOOK_S)
    shutil.rmtree(directory / "work", ignore_errors=True)


@dataclass(slots=True)
class _Running:
    """A job under way."""

    name: str
    worker: Worker
    fit: Call
    task: TaskID
    num_steps: int
    done: int = 0
    """Steps, when last asked."""
    moved_s: float = field(default_factory=time.monotonic)
    """When that was less."""


@contextmanager
def _ended(running: Mapping[str, _Running]) -> Iterator[None]:
    """End the jobs that still run when the block is left: by Ctrl-C, or because one of them failed."""
    try:
        yield
    finally:
        for job in running.values():
            kill(job.worker)


def _start(config: Config, directory: Path, policy: str, kind: str, progress: Progress) -> _Running:
    """Have Ray Train begin one job."""
    name = EXPERT if kind == EXPERT else policy
    work = directory / "work" / name
    num_steps = {
        "token": config.coldstart.text_steps,
        "denoising": config.coldstart.image_steps,
        EXPERT: config.coldstart.expert_steps,
    }[kind]
    worker = spawn(Job, f"coldstart-{name}", num_cpus=0, max_concurrency=2, kwargs={})
    settings = {
        "config": config,
        "name": name,
        "policy": policy,
        "kind": kind,
        "num_steps": num_steps,
        "directory": str(work / "made"),
        "made": str(directory),
        "work": str(work),
        "job": worker,
    }
    num_workers = 1 if kind == EXPERT else config.coldstart.num_workers
    fit = worker.call("fit", settings, num_workers, directory / "work" / "ray")
    return _Running(name, worker, fit, progress.add_task(f"cold start: {name}", total=num_steps), num_steps)


def _follow(job: _Running, directory: Path, progress: Progress, deadline_s: float) -> bool:
    """Move a job's progress bar; return whether it is done, and what it made in its place.

    Raises:
        CallTimeoutError: If it makes no step within ``deadline_s``.
    """
    if not is_answered(job.fit):
        (done,) = gather([job.worker.call("read")], deadline_s=deadline_s)
        if done > job.done:
            job.done, job.moved_s = done, time.monotonic()
        elif time.monotonic() - job.moved_s > deadline_s:
            raise CallTimeoutError(f"{job.worker.name}: no step within {deadline_s:g} s (deadline_s)")
        progress.update(job.task, completed=done)
        return False
    gather([job.fit], deadline_s=deadline_s)
    (directory / "work" / job.name / "made").rename(directory / job.name)
    progress.update(job.task, completed=job.num_steps)
    return True


def _replaced(value: Any, old: str, new: str) -> Any:
    """Replace a string anywhere in a nested mapping."""
    if isinstance(value, Mapping):
        return {key: _replaced(item, old, new) for key, item in value.items()}
    return new if value == old else value
