"""Model families of policies: the record each declares, where records are found, what checkpoints they read.

Light at import: a record holds names, which are imported where they are used. A further family is a folder with a
record and one line in ``FAMILIES``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from configs.schema import PolicyConfig
from configs.suggest import suggest
from rl.errors import ConfigError
from rl.targets import load_target

FAMILIES: Mapping[str, str] = {
    "language_model": "actors.policies.token.family:LANGUAGE_MODEL",
    "unified": "actors.policies.unified.family:UNIFIED",
    "diffusers": "actors.policies.denoising.family:DIFFUSERS",
}
"""``package.module:RECORD`` of the families that come with vlcot."""
Part = Literal["learner", "rollout", "coldstart", "settings", "vocabulary", "codec"]
PARTS: tuple[Part, ...] = get_args(Part)
OF_KIND: Mapping[str, str] = {"token": "language_model", "unified": "unified", "denoising": "diffusers"}
"""The family of a policy that names none, by its kind."""


PICTURE_TOKENIZER = "picture_tokenizer"
"""Folder of a cold start that holds what a unified policy's pictures are encoded and decoded with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointMark:
    """How a checkpoint's folder says which model it holds."""

    file: str
    """A JSON file in it."""
    key: str
    """Of that file."""
    value: str
    """What stands there, or last in the list that stands there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFamily:
    """What a policy of one model family is made of. Targets are ``package.module:Name``."""

    name: str
    """What messages call it."""
    kind: Literal["token", "unified", "denoising"]
    """Of the policies it can be: what they write."""
    checkpoint: CheckpointMark | str
    """The checkpoints it reads: how to tell, or the target of a function of the folder that refuses others."""
    learner: str
    """Target: the ``TrainablePolicy`` that a learner rank trains."""
    rollout: str
    """Target: the rollout worker, made from a ``RolloutSpec``."""
    coldstart: str
    """Target: function of a ``ColdstartTask`` that makes a small model from nothing, trains it and writes it."""
    coldstart_steps: str
    """Key of ``coldstart`` that says how many steps that function reports."""
    lora_targets: tuple[str, ...]
    """Layers that are adapted where ``lora.targets`` is empty."""
    settings: str = ""
    """Target: function of policy's name, configuration, checkpoint folder and the names of the pictures that prompts
    show, which refuses what the checkpoint cannot do before anything starts."""
    codec: str = ""
    """Target, of unified families: function of a ``ColdstartTask`` that makes the picture tokenizer from nothing, in
    ``codec_steps`` steps, before the policy's own cold start."""
    vocabulary: str = ""
    """Target, of families that write tokens: function of checkpoint, block names and ``chat_options`` that returns the
    ``TextVocabulary``."""

    def load(self, part: Part) -> Any:
        """Import what one of the targets names.

        Raises:
            ConfigError: If there is no such thing.
        """
        return load_target(getattr(self, part), key=f"model family {self.name}, {part}")

    def check(self) -> None:
        """Find everything that the record names, which imports all of it.

        Raises:
            ConfigError: If there is no such thing.
        """
        for part in PARTS:
            if getattr(self, part):
                self.load(part)
        if isinstance(self.checkpoint, str):
            self._refuse()

    def _refuse(self) -> Callable[[Path], None]:
        refuse: Callable[[Path], None] = load_target(
            str(self.checkpoint), key=f"model family {self.name}, checkpoint"
        )
        return refuse

    def check_checkpoint(self, directory: Path) -> None:
        """Refuse a checkpoint that the family does not read; from its JSON alone, nothing is loaded.

        Raises:
            ConfigError: If the file is missing, damaged or names another architecture.
        """
        if isinstance(self.checkpoint, str):
            self._refuse()(directory)
            return
        mark = self.checkpoint
        path = directory / mark.file
        wants = f"a {self.kind} policy of family {self.name} starts from a {mark.value} checkpoint"
        if not path.is_file():
            raise ConfigError(f"{directory}: no {mark.file} in it; {wants}")
        try:
            stored = json.loads(path.read_text())[mark.key]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise ConfigError(f"{path} is damaged or names no {mark.key}; {wants}") from error
        architecture = stored[-1] if isinstance(stored, list) and stored else stored
        if architecture != mark.value:
            raise ConfigError(f"{directory} holds a {architecture} model; {wants}")


def family_of(name: str, policy: PolicyConfig) -> PolicyFamily:
    """Return the family of a policy.

    Args:
        name: Of the policy, for messages.
        policy: Its configuration.

    Raises:
        ConfigError: If there is no such family, or its policies are of another kind.
    """
    key, wanted = f"policies.{name}.family", policy.family or OF_KIND[policy.kind]
    if wanted not in FAMILIES and ":" not in wanted:
        raise ConfigError(f"{key}: no model family {wanted!r}{suggest(wanted, FAMILIES)}")
    family = load_target(FAMILIES.get(wanted, wanted), key=key)
    if not isinstance(family, PolicyFamily):
        raise ConfigError(f"{key}: {wanted} is an {type(family).__name__}, want a PolicyFamily")
    if family.kind != policy.kind:
        raise ConfigError(
            f"{key}: {family.name} is a family of {family.kind} policies, and policies.{name}.kind is {policy.kind}"
        )
    return family
