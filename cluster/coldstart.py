"""The starting point of a run: made by supervised Ray Train jobs, reused where it is there already.

A cold start is a directory with one checkpoint a policy, the learned expert, and ``coldstart.json``, which is
written last: without it the directory is half-made and is gone on with.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray.train import RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from rich.progress import Progress

from actors.policies.tokenizer import load_vocabulary
from cluster.calls import gather
from cluster.coldstart_job import EXPERT, Board, run_job
from cluster.progress import CONSOLE
from cluster.rundir import write_atomically
from cluster.runner import TextContext
from cluster.spawn import spawn
from configs.derive import COLDSTART, COLDSTART_DONE, coldstart_directory
from configs.load import digest
from configs.schema import Config
from rl.chain import ChainGrammar
from rl.errors import ConfigError, LearnerError, VlcotError


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
    """Teach all policies at once; the expert follows the image policy, from whose outputs it learns."""
    directory.mkdir(parents=True, exist_ok=True)
    lessons = {name: [kind] for name, kind in kinds.items()}
    painter = next((name for name, kind in kinds.items() if kind == "denoising"), None)
    if config.coldstart.expert_steps and painter is not None:
        lessons[painter].append(EXPERT)
    with Progress(console=CONSOLE) as progress:
        jobs = [_in_background(_teach_all, config, directory, n, k, progress) for n, k in lessons.items()]
        for job in jobs:
            job.result()
    shutil.rmtree(directory / "work", ignore_errors=True)


def _teach_all(
    config: Config, directory: Path, policy: str, kinds: Sequence[str], progress: Progress
) -> None:
    """Run jobs one after another."""
    for kind in kinds:
        _teach(config, directory, policy, kind, progress)


def _teach(config: Config, directory: Path, policy: str, kind: str, progress: Progress) -> None:
    """Run one job under Ray Train and follow it with a progress bar; nothing if it was done before.

    What it makes appears under its name when it is whole.
    """
    name = EXPERT if kind == EXPERT else policy
    if (directory / name).exists():
        return
    work = directory / "work" / name
    num_workers = 1 if kind == EXPERT else config.coldstart.num_workers
    steps = {
        "token": config.coldstart.text_steps,
        "denoising": config.coldstart.image_steps,
        EXPERT: config.coldstart.expert_steps,
    }[kind]
    board = spawn(Board, f"coldstart-{name}-board", num_cpus=0, kwargs={})
    trainer = TorchTrainer(
        run_job,
        train_loop_config={
            "config": config,
            "policy": policy,
            "kind": kind,
            "num_steps": steps,
            "directory": str(work / "made"),
            "made": str(directory),
            "work": str(work),
            "board": board,
        },
        scaling_config=ScalingConfig(num_workers=num_workers, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(name=name, storage_path=str(directory / "work" / "ray")),
    )
    task = progress.add_task(f"cold start: {name}", total=steps)
    result = _in_background(trainer.fit)
    while not result.done():
        (done,) = gather([board.call("read")], deadline_s=config.deadline_s)
        progress.update(task, completed=done)
        time.sleep(1.0)
    try:
        result.result()
    except TrainingFailedError as error:
        raise _cause(error, name) from error
    (work / "made").rename(directory / name)
    progress.update(task, completed=steps)


def _in_background(work: Callable[..., Any], *args: object) -> Future[Any]:
    """Run work in a thread that does not keep the process alive: Ctrl-C must not wait for a cold start."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work(*args))
        except BaseException as error:  # noqa: BLE001 - goes to who waits
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name=f"coldstart-{work.__name__}").start()
    return future


def _cause(error: TrainingFailedError, name: str) -> BaseException:
    """Return what one of the job's workers raised, as itself where it is of our own kind."""
    failures = list(getattr(error, "worker_failures", {}).values())
    ours = next((f for f in failures if isinstance(f, VlcotError)), None)
    if ours is not None:
        return ours
    return LearnerError(f"cold start of {name} failed: {failures[0] if failures else error}")


def _replaced(value: Any, old: str, new: str) -> Any:
    """Replace a string anywhere in a nested mapping."""
    if isinstance(value, Mapping):
        return {key: _replaced(item, old, new) for key, item in value.items()}
    return new if value == old else value
