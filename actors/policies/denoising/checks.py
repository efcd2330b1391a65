"""Checks of a picture policy's settings against its checkpoint, before anything starts."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from actors.policies.denoising.checkpoint import OWN_CODE, PipelineFiles, read_pipeline
from actors.policies.denoising.stepping import PRESERVING
from configs.call import CallArgument, Shown, call_arguments
from configs.derive import denoising_policy
from configs.errors import prefixed
from configs.methods import Guard
from configs.schema import BlockConfig, Config, DenoisingPolicyConfig
from configs.suggest import suggest
from rewards.experts.real_esrgan import factor_between, load_net
from rl.errors import ConfigError
from rl.types import PREVIOUS, Pixels, Prompt


def check_settings(name: str, config: Config, directory: Path, shown: Collection[str]) -> None:
    """Refuse what the checkpoint cannot do.

    Args:
        name: Of the policy.
        config: The run.
        directory: Checkpoint.
        shown: Names of the pictures that prompts show.

    Raises:
        ConfigError: For the first fault; names the key and what to do.
    """
    key, policy = f"policies.{name}", denoising_policy(config.policies[name])
    files = read_pipeline(directory)
    if files.has_own_code and not policy.trust_code:
        raise ConfigError(
            f"{key}.trust_code: {directory} brings code of its own ({OWN_CODE}); look at it, and if it may run, set "
            "this to true"
        )
    _check_sampler(key, policy, files)
    call = call_arguments(policy.call, key=f"{key}.call")
    for argument in call:
        if argument not in files.parameters:
            raise ConfigError(
                f"{key}.call.{argument}: {files.class_name} takes no such argument{suggest(argument, files.parameters)}"
            )
    images = [(n, block) for n, block in config.chain.items() if block.kind == "image"]
    for place, (block_name, block) in enumerate(images):
        if block.policy == name:
            seen = {*shown, PREVIOUS} if place else {*shown}
            _check_pictures(f"{key}.call", call, seen, block_name)
            if "height" not in files.parameters:
                _check_size(f"{key}.call", call, files, f"chain.{block_name}", block)


def check_restored(name: str, policy: DenoisingPolicyConfig, prompt: Prompt[Pixels]) -> None:
    """Refuse a prompt whose pictures cannot be restored as ``call`` says.

    Raises:
        ConfigError: If a picture is not shown, the restorer has no such factor, or is not installed.
    """
    for argument, shown in call_arguments(policy.call, key=f"policies.{name}.call").items():
        if not isinstance(shown, Shown) or not shown.is_restored or shown.size is None:
            continue
        with prefixed(f"policies.{name}.call.{argument}.by: "):
            (picture,) = shown.names
            if picture not in prompt.shown:
                raise ConfigError(
                    f"{prompt.prompt_id} shows no picture named {picture}; it shows "
                    f"{', '.join(prompt.shown) or 'none'}, and only such can be restored"
                )
            height, width = prompt.pictures[picture].shape[:2]
            load_net(factor_between((height, width), shown.size))


def _check_sampler(key: str, policy: DenoisingPolicyConfig, files: PipelineFiles) -> None:
    if files.process.family != PRESERVING:
        return
    what = f"{files.class_name} predicts {files.process.prediction}, and is no flow"
    if policy.rollout.sampler != "ddim":
        raise ConfigError(
            f"{key}.rollout.sampler: {what}; use ddim with a noise_level of at most 1, got {policy.rollout.sampler}"
        )
    if isinstance(policy.loss.surrogate, Guard):
        raise ConfigError(f"{key}.loss.surrogate: guard divides by the steps of a flow, and {what}; use ppo")


def _check_pictures(key: str, call: Mapping[str, CallArgument], seen: Collection[str], block: str) -> None:
    for argument, shown in call.items():
        if isinstance(shown, Shown) and not any(name in seen for name in shown.names):
            raise ConfigError(
                f"{key}.{argument}: block {block} sees no picture named {' or '.join(shown.names)}; it sees "
                f"{', '.join(sorted(seen)) or 'none'}; a constant is written {{value: ...}}"
            )


def _check_size(
    key: str, call: Mapping[str, CallArgument], files: PipelineFiles, block_key: str, block: BlockConfig
) -> None:
    """A call without a height paints as large as the picture it is given, or as its autoencoder makes of that."""
    factor, size = _decoder_factor(files.directory), (block.height_px or block.size_px, block.size_px)
    for argument, shown in call.items():
        if not isinstance(shown, Shown) or (given := shown.size_for(size)) is None:
            continue
        made = {given, (given[0] * factor, given[1] * factor)}
        if size not in made:
            sizes = " or ".join(f"{height} x {width}" for height, width in sorted(made))
            raise ConfigError(
                f"{key}.{argument}: from {given[0]} x {given[1]} px it paints {sizes}, and "
                f"{block_key} has {size[0]} x {size[1]}; change either"
            )


def _decoder_factor(directory: Path) -> int:
    """Return how much larger than its latents an autoencoder's pictures are; 1 where there is none."""
    config = directory / "vae" / "config.json"
    levels = json.loads(config.read_text()).get("block_out_channels", [0]) if config.is_file() else [0]
    return int(2 ** (len(levels) - 1))
