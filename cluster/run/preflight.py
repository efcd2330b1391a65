"""Preflight: everything that can be wrong with a run and be found without starting it; ``vlcot check`` prints it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actors.policies.denoising.checks import check_restored
from actors.policies.family import family_of
from cluster.record.trackers.base import check_trackers
from cluster.run.coldstart import check_made
from cluster.runtime.console import CONSOLE, make_table, tracked
from cluster.runtime.plugins import use_plugins
from configs.checks.effects import idle_keys
from configs.checks.validate import validate
from configs.derive import COLDSTART, derived, eval_metrics, final_px, taught_policies
from configs.errors import prefixed
from configs.schema import Config
from rewards.experts.picture_metrics import PictureMetrics
from rewards.load import load_reward, reward_terms
from rl.advantage.baselines import find_baseline
from rl.data.images import load_picture
from rl.data.pictures import decoded
from rl.data.source import PromptSource, prompt_source
from rl.denoising.samplers import find_sampler
from rl.errors import ConfigError
from rl.loss.surrogates import find_surrogate
from rl.types import PREVIOUS, Pixels, Prompt

MANY = 50
"""Pictures, or prompts, from which on reading them shows a bar."""
MOST_TRIED = 2000
"""Prompts that are made before a run starts; what is wrong with a later one is said when it is drawn."""


def preflight(config: Config) -> PromptSource:
    """Refuse what would fail later: before Ray, before a cold start of minutes, before a run directory.

    Returns:
        The source of prompts, every picture file of it decoded once.

    Raises:
        ConfigError: With one line that names the key or file and the remedy.
    """
    validate(config)
    use_plugins(config.plugins)
    for name, policy in config.policies.items():
        family = family_of(name, policy)
        if ":" in policy.family:
            family.check()
        if (source_dir := Path(policy.source)).is_dir():
            family.check_checkpoint(source_dir)
    check_made(config)
    source = prompt_source(config)
    known = _names(first := source.train(0))
    if clash := sorted(first.pictures.keys() & {*config.chain, PREVIOUS}):
        raise ConfigError(f"data: prompts carry a picture {clash[0]!r}, a name of the chain's own; rename it")
    for name, policy in config.policies.items():
        family, source_dir = family_of(name, policy), Path(policy.source)
        if family.settings and source_dir.is_dir():
            family.load("settings")(name, config, source_dir, first.shown)
    _check_start(config, source, first)
    _check_restored(config, decoded(first))
    reward_terms(config)
    check_methods(config)
    for name, reward in config.rewards.items():
        loaded = load_reward(name, reward)
        with prefixed(f"rewards.{name}.options: "):
            loaded.check()
            loaded.check_chain(config.chain)
            loaded.check_prompt(known)
        if reward.cache and not loaded.deterministic:
            raise ConfigError(f"rewards.{name}.cache: its scores differ from call to call; take it out")
    check_trackers(config.trackers)
    PictureMetrics(eval_metrics(config)).check(final_px(config.chain) or None)
    files = source.files()
    for path in tracked("read the pictures", files, len(files), least=MANY):
        load_picture(path)
    _try_prompts(source, config)
    return source


def _check_start(config: Config, source: PromptSource, first: Prompt[Any]) -> None:
    """Refuse a painter made from nothing whose prompts neither show photographs nor say which picture is right.

    Raises:
        ConfigError: If it would have to paint more than one picture a chain, or beside text.
        DataError: If the source knows no right picture.
    """
    made = [name for name in taught_policies(config) if config.policies[name].kind == "denoising"]
    if not made or first.shown:
        return
    if len(config.chain) > 1:
        raise ConfigError(
            f"policies.{made[0]}.source: from prompts without pictures {COLDSTART} makes a painter for a chain of one "
            f"image block, and this one has {len(config.chain)} blocks; name a checkpoint"
        )
    source.answer(decoded(first), config.chain, config.seed)


def _check_restored(config: Config, prompt: Prompt[Pixels]) -> None:
    """Refuse a prompt whose pictures a painter's call wants restored as they cannot be."""
    for name, policy in config.policies.items():
        if policy.kind == "denoising":
            check_restored(name, policy, prompt)


def _try_prompts(source: PromptSource, config: Config) -> None:
    """Make the first prompts of a source that has so many and no more, as the run will draw them."""
    if (num_train := source.num_train()) is None:
        return
    num = min(num_train, MOST_TRIED, config.num_steps * config.prompts_per_step * (1 + config.max_refills))
    for index in tracked("read the prompts", range(num), num, least=MANY):
        _check_restored(config, decoded(source.train(index)))
    for prompt in source.held_out(min(config.eval.num_prompts, MOST_TRIED)):
        _check_restored(config, decoded(prompt))


def check_methods(config: Config) -> None:
    """Find the surrogates, baselines and samplers of the user's own, and look at how they can be called.

    Raises:
        ConfigError: For the first that cannot be used; names its key and the signature wanted.
    """
    find_baseline(config.advantage.baseline)
    for name, policy in config.policies.items():
        find_surrogate(policy.loss.surrogate, key=f"policies.{name}.loss.surrogate")
        if policy.kind == "denoising":
            find_sampler(policy.rollout.sampler, f"policies.{name}.rollout.sampler")


def _names(prompt: Prompt[Any]) -> set[str]:
    """Return the names of a prompt's pictures and reference values.

    Raises:
        ConfigError: If a reference value is not JSON.
    """
    try:
        json.dumps(dict(prompt.reference), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"data: {prompt.prompt_id} has a reference value that is not JSON: {error}"
        ) from error
    return {*prompt.pictures, *prompt.reference}


def check(config: Config) -> None:
    """Run the checks and print what follows from the configuration.

    Raises:
        ConfigError: With one line that names the key or file and the remedy.
    """
    source = preflight(config)
    table = make_table(f"{config.name}: fine")
    for key, value in derived(config).items():
        table.add_row(key, value)
    if files := source.files():
        table.add_row("pictures of prompts", str(len(files)))
    for key, value in source.about().items():
        table.add_row(key, value)
    wanted = config.eval.num_prompts
    table.add_row("held-out prompts", str(len(source.held_out(wanted)) if wanted <= MOST_TRIED else wanted))
    CONSOLE.print(table)
    say_idle(config)


def say_idle(config: Config) -> None:
    """Print a line for each key that is set and has no effect."""
    for key, why in idle_keys(config).items():
        CONSOLE.print(f"{key} has no effect here: {why}", markup=False)
