"""Checkpoints of unified policies: which are taken, told from their JSON alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actors.policies.token.checkpoint import check_language_model, load_config, sees_pictures
from actors.policies.unified.codec_files import read_codec
from actors.policies.unified.picture_tokens import FILE, read_picture_tokens
from configs.schema import Config, UnifiedPolicyConfig
from rl.errors import ConfigError


def check_settings(name: str, config: Config, directory: Path, shown: Sequence[str]) -> None:
    """Refuse a stride that is not the checkpoint's.

    Raises:
        ConfigError: Names the key and the checkpoint's stride.
    """
    del shown
    policy, stride = config.policies[name], read_codec(directory).stride
    if isinstance(policy, UnifiedPolicyConfig) and policy.stride_px != stride:
        raise ConfigError(
            f"policies.{name}.stride_px: a code of {directory} stands for {stride} px, got {policy.stride_px}; set "
            f"{stride}"
        )


def check_unified(directory: Path) -> None:
    """Refuse a checkpoint that is not a causal language model over text and codes with a codec; nothing is loaded.

    Raises:
        ConfigError: Says what is wrong and what is possible.
    """
    check_language_model(directory)
    codec = read_codec(directory)
    config = load_config(directory)
    if sees_pictures(config):
        raise ConfigError(
            f"{directory} holds a whole {config.model_type} model; a unified policy is its causal language model. "
            "Write that as a checkpoint of its own (Emu3's has Llama's layers), with the tokenizer, and the picture "
            "codec in codec/"
        )
    if not (directory / FILE).is_file():  # Emu3's tokenizer says it
        return
    tokens = read_picture_tokens(directory)
    if (tokens.num_codes, tokens.stride_px) != (codec.num_codes, codec.stride):
        raise ConfigError(
            f"{directory}: {FILE} says {tokens.num_codes} codes of {tokens.stride_px} px, and the codec has "
            f"{codec.num_codes} of {codec.stride} px"
        )
    if (most := max(stop for _, stop in tokens.codes)) > (num_ids := int(config.vocab_size)):
        raise ConfigError(
            f"{directory}: {FILE} says that code ids go up to {most - 1}, and the model has {num_ids} ids"
        )
