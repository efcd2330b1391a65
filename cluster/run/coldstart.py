"""Cold start, the starting point of a run: made by supervised Ray Train jobs, reused where it is there already.

A cold start is a directory with one checkpoint a policy, the learned expert, and ``coldstart.json``, which is
written last: without it the directory is half-made and is gone on with.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from actors.policies.family import PICTURE_TOKENIZER, family_of
from actors.policies.token.vocabulary import TextVocabulary
from actors.policies.unified.vocabulary import UnifiedVocabulary
from cluster.pools.chain_runner import TextContext
from cluster.pools.whole_chains import WholeChains
from cluster.record.run_files import read_as
from cluster.run.coldstart_job import EXPERT, EXPERT_TRAINER, ColdstartJob
from cluster.runtime.calls import Worker, gather, is_answered
from cluster.runtime.console import CONSOLE, Bars, bars, stage
from cluster.runtime.files import PARTIAL, flush_tree, write_atomically
from cluster.runtime.ownership import OWNER, Owner, last_sign_ns, owned, owner_of, refusal, stay_owner
from cluster.runtime.spawn import kill, spawn
from configs.derive import (
    COLDSTART,
    COLDSTART_DONE,
    START,
    coldstart_digest,
    coldstart_directory,
    has_weights,
    run_directory,
    taught_policies,
    token_policy,
)
from configs.load import DIGEST_FORMAT, digest
from configs.schema import Config, WriterConfig
from rl.chain.grammar import ChainGrammar
from rl.chain.plan import make_plan
from rl.errors import CallTimeoutError, ConfigError, OwnedError
from rl.spans import Detail, span

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often the progress bars move."""
WORK = "work"
"""Folder of a cold start that is being made: scratch."""
BAR = "cold start: "
"""Before the name of a job, on its bar."""


class Made(TypedDict):
    """``coldstart.json``."""

    digest: str
    format: NotRequired[int]
    """``DIGEST_FORMAT``; older versions of vlcot wrote none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where the policies start."""

    directory: Path
    """The cold start; need not exist where every policy has a source of its own, or nothing is scored."""
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
        ConfigError: If that of a run with weights is not there, or ``coldstart.directory`` holds the cold start of
            another configuration, or a damaged one.
    """
    directory = coldstart_directory(config).resolve()
    taught = taught_policies(config)
    if taught:
        _ensure_made(config, directory, taught)
    sources = {n: directory / n if n in taught else Path(p.source) for n, p in config.policies.items()}
    return Start(directory=directory, sources=sources)


def _ensure_made(config: Config, directory: Path, policies: Sequence[str]) -> None:
    run, done = run_directory(config), directory / COLDSTART_DONE
    if not done.exists() and has_weights(run):
        raise ConfigError(
            f"{run} has weights, and the cold start that they were made from is not in {directory}; put it back, "
            "or say where it is with coldstart.directory"
        )
    while not done.exists():
        _make_or_wait(config, directory, policies)
    check_made(config)


def check_made(config: Config) -> None:
    """Refuse a cold start that is there and is not the run's.

    Raises:
        ConfigError: If it is that of another configuration, or its record is damaged.
    """
    directory, run = coldstart_directory(config).resolve(), run_directory(config)
    done = directory / COLDSTART_DONE
    if not taught_policies(config) or not done.exists() or directory == (run / START).resolve():
        return  # the run's own was made for it, whatever is asked of the run now
    made = read_as(done, Made)
    if made.get("format") != DIGEST_FORMAT and not has_weights(run):
        logger.warning(
            "%s was made by an older vlcot, whose settings cannot be compared with these; it is taken as it is",
            directory,
        )
        return
    if made["digest"] != coldstart_digest(config):
        raise ConfigError(
            f"{directory} holds the cold start of another configuration; name another coldstart.directory "
            "or leave it empty"
        )


def keep_start(config: Config) -> None:
    """Keep the cold start that a run is made from in its directory; links take no room, copies where they must be.

    From then on nothing else is taken for it, wherever the run is moved and whatever is asked of it.
    """
    source, own = coldstart_directory(config).resolve(), (run_directory(config) / START).resolve()
    if source == own or not taught_policies(config):
        return
    partial = own.with_name(own.name + PARTIAL)
    for leftover in (partial, own):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns(WORK, OWNER), copy_function=_link_or_copy)
    flush_tree(partial)
    partial.rename(own)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def has_start(config: Config) -> bool:
    """Whether the policies have something to start from without a cold start being made."""
    return not taught_policies(config) or (coldstart_directory(config) / COLDSTART_DONE).exists()


def text_context(config: Config, sources: Mapping[str, Path]) -> TextContext:
    """Read what the chain needs to know of its text policy."""
    name = next((n for n, policy in config.policies.items() if isinstance(policy, WriterConfig)), None)
    if name is None:
        grammar = ChainGrammar(config.chain)
        return TextContext(grammar=grammar, encode=_no_prompt, forbidden_ids=(), decode=_no_text)
    policy = config.policies[name]
    settings, load = token_policy(policy), family_of(name, policy).load("vocabulary")
    vocabulary: TextVocabulary = load(sources[name], tuple(config.chain), settings.chat_options)
    grammar = ChainGrammar(config.chain, vocabulary.tags, writer=name)
    return TextContext(
        grammar=grammar,
        whole=_whole_chains(name, grammar, vocabulary),
        encode=vocabulary.encode,
        forbidden_ids=vocabulary.forbidden_ids,
        decode=vocabulary.decode,
        max_context=min(settings.rollout.max_context or vocabulary.max_context, vocabulary.max_context),
    )


def _whole_chains(policy: str, grammar: ChainGrammar, vocabulary: TextVocabulary) -> WholeChains | None:
    """Lay out the chains of a policy that writes them whole; None of one that does not."""
    if not isinstance(vocabulary, UnifiedVocabulary):
        return None
    return WholeChains(
        policy=policy,
        plan=make_plan(grammar, vocabulary.pictures),
        pictures=vocabulary.pictures,
        placeholder=vocabulary.tags.placeholder,
        spell=vocabulary.encode.spell,
    )


def _no_text(ids: object) -> str:
    return ""


def _no_prompt(messages: object) -> tuple[int, ...]:
    return ()


def _make_or_wait(config: Config, directory: Path, policies: Sequence[str]) -> None:
    """Make the cold start, or wait while another process does; it may have to be asked again then.

    Raises:
        OwnedError: If the other gives no sign of life for twice ``deadline_s``.
    """
    try:
        with owned(directory, "make the cold start"):
            if not (directory / COLDSTART_DONE).exists():
                _make(config, directory, policies)
                flush_tree(directory)
                write_atomically(
                    directory / COLDSTART_DONE,
                    json.dumps({"format": DIGEST_FORMAT, "digest": digest(config)}),
                )
    except OwnedError:
        if (owner := owner_of(directory)) is not None:
            _wait_for(owner, directory, 2 * config.deadline_s)


def _wait_for(owner: Owner, directory: Path, silence_s: float) -> None:
    """Return when a cold start that another process makes is made, or given up."""
    CONSOLE.print(f"cold start: {owner} is making {directory}; waiting for it", soft_wrap=True)
    alive_ns, alive_s = 0, time.monotonic()
    with stage("wait for the cold start"):
        while not (directory / COLDSTART_DONE).exists() and not owner.is_gone:
            if (last_ns := last_sign_ns(directory)) is None:
                return
            if last_ns != alive_ns:
                alive_ns, alive_s = last_ns, time.monotonic()
            elif time.monotonic() - alive_s > silence_s:
                raise refusal(directory, owner, "use the cold start")
            time.sleep(LOOK_S)


def _make(config: Config, directory: Path, policies: Sequence[str]) -> None:
    """Train all policies at once; the expert follows the image policy, from whose outputs it learns.

    What a job makes appears under its name when it is whole, and is not made again.
    """
    directory.mkdir(parents=True, exist_ok=True)
    jobs = {
        name: [*([PICTURE_TOKENIZER] if makes_picture_tokenizer(config, name) else []), name]
        for name in policies
    }
    painter = next((name for name in policies if config.policies[name].kind != "token"), None)
    if config.coldstart.expert_steps and painter is not None:
        jobs[painter].append(EXPERT)
    with span("train") as how_far, bars() as shown, ExitStack() as stack:
        running = [
            stack.enter_context(closing(_train(config, directory, policy, names, shown)))
            for policy, names in jobs.items()
        ]
        while running:
            running = [jobs_of_policy for jobs_of_policy in running if not next(jobs_of_policy, True)]
            _say(how_far, shown)
            stay_owner(directory)
            time.sleep(LOOK_S)
    shutil.rmtree(directory / WORK, ignore_errors=True)


def makes_picture_tokenizer(config: Config, policy: str) -> bool:
    """Whether a policy is made from nothing with a picture tokenizer of its own."""
    settings = config.policies[policy]
    return settings.source == COLDSTART and bool(family_of(policy, settings).codec)


def _say(how_far: dict[str, Detail], shown: Bars) -> None:
    """Tell the run's status how far each job is."""
    now = {what.removeprefix(BAR): done for what, done in shown.under_way().items()}
    how_far.update(now)
    for ended in how_far.keys() - now.keys():
        del how_far[ended]


def _train(
    config: Config, directory: Path, policy: str, names: Sequence[str], shown: Bars
) -> Generator[None]:
    """Run a policy's jobs one after another, and yield while they work; closed before its end, it ends the job."""
    for name in names:
        if (directory / name).exists():
            continue
        job = spawn(ColdstartJob, f"coldstart-{name}", num_cpus=0, max_concurrency=2, kwargs={})
        try:
            yield from _follow(job, _settings(config, directory, policy, name, job), shown)
        finally:
            kill(job)
        made = directory / WORK / name / "made"
        flush_tree(made)
        made.rename(directory / name)


def _settings(config: Config, directory: Path, policy: str, name: str, job: Worker) -> dict[str, Any]:
    """Return what ``run_job`` takes."""
    work = directory / WORK / name
    family = family_of(policy, config.policies[policy])
    trainer, steps = {
        EXPERT: (EXPERT_TRAINER, "expert_steps"),
        PICTURE_TOKENIZER: (family.codec, "codec_steps"),
    }.get(name, (family.coldstart, family.coldstart_steps))
    return {
        "config": config,
        "name": name,
        "policy": policy,
        "trainer": trainer,
        "num_steps": getattr(config.coldstart, steps),
        "directory": str(work / "made"),
        "made": str(directory),
        "work": str(work),
        "job": job,
    }


def _follow(job: Worker, settings: dict[str, Any], shown: Bars) -> Generator[None]:
    """Have Ray Train run a job and move its progress bar; yields while it works.

    Raises:
        CallTimeoutError: If it makes no step, and says of nothing else that it is done, within ``deadline_s``.
    """
    config, num_steps = settings["config"], settings["num_steps"]
    fit = job.call("fit", settings, *_workers(settings), Path(settings["made"]) / WORK / "ray")
    show = shown.add(f"{BAR}{settings['name']}", num_steps)
    progress, moved_s = (0, ""), time.monotonic()
    while not is_answered(fit):
        before = progress
        (progress,) = gather([job.call("read")], deadline_s=config.deadline_s)
        if progress != before:
            moved_s = time.monotonic()
        elif time.monotonic() - moved_s > config.deadline_s:
            raise CallTimeoutError(f"{job.name}: no step within {config.deadline_s:g} s (deadline_s)")
        show(*progress)
        yield
    gather([fit], deadline_s=config.deadline_s)
    show(num_steps)


def _workers(settings: Mapping[str, Any]) -> tuple[int, float]:
    """Return how many workers train a job, and the GPUs of each.

    A checkpoint is trained as GRPO will train it: on the ranks of its learner.
    """
    config: Config = settings["config"]
    policy = config.policies[settings["policy"]]
    if settings["name"] == EXPERT:
        return 1, 0
    if policy.source == COLDSTART:
        return config.coldstart.num_workers, 0
    return policy.learner.num_ranks, min(1.0, policy.num_gpus)


def _replaced(value: Any, old: str, new: str) -> Any:
    """Replace a string anywhere in a nested mapping."""
    if isinstance(value, Mapping):
        return {key: _replaced(item, old, new) for key, item in value.items()}
    return new if value == old else value
