"""Checks of the chain: its tags, limits and sizes, and how its batches are split."""

from __future__ import annotations

from itertools import pairwise

from configs.errors import ConfigError
from configs.fields import TAG
from configs.schema import BlockConfig, Config, Photographs, UnifiedPolicyConfig

PIXEL_STEP = 16
"""Edges of painted pictures are multiples of this: what autoencoders and vision towers divide by."""
_RESERVED = frozenset({"degraded", "truth"})
FITTING = {"text": ("token", "unified"), "image": ("denoising", "unified")}
"""Kinds of the policies that write a block, by its kind."""


def check_chain(config: Config) -> None:
    """Raise ``ConfigError`` for the first block whose tag, policy or limits cannot be."""
    if not config.chain:
        raise ConfigError("chain: has no block; add at least one, as configs/demo.yaml does")
    for name, block in config.chain.items():
        key = f"chain.{name}"
        if not TAG.fullmatch(name) or name in _RESERVED:
            raise ConfigError(
                f"{key}: no usable tag; use at most 64 lower-case letters, digits and '_', not {name!r}"
            )
        policy = config.policies.get(block.policy)
        if policy is None:
            known = ", ".join(config.policies) or "none"
            raise ConfigError(f"{key}.policy: no policy {block.policy!r}; policies are {known}")
        fitting = FITTING[block.kind]
        if policy.kind not in fitting:
            raise ConfigError(
                f"{key}.policy: {block.kind} is written by a {' or '.join(fitting)} policy, "
                f"but policies.{block.policy}.kind is {policy.kind}"
            )
        _check_limits(key, block, policy.kind)
        if isinstance(policy, UnifiedPolicyConfig) and block.kind == "image":
            _check_codes(name, block, policy.stride_px)
    writers = list(dict.fromkeys(block.policy for block in config.chain.values() if block.kind == "text"))
    if len(writers) > 1:
        raise ConfigError(
            f"chain: one policy writes all text of a chain, got {', '.join(writers)}; name one of them in every text "
            "block's policy"
        )
    _check_unified(config)


def _check_unified(config: Config) -> None:
    """A unified policy writes a whole chain in one request: nobody else writes in it."""
    unified = next((name for name, policy in config.policies.items() if policy.kind == "unified"), None)
    for name, block in config.chain.items():
        if unified is not None and block.policy != unified:
            raise ConfigError(
                f"chain.{name}.policy: policy {unified} is unified and writes every block of its chain, got "
                f"{block.policy}; name {unified}"
            )


def _check_codes(name: str, block: BlockConfig, stride_px: int) -> None:
    """A picture is whole codes."""
    for key, edge in {"size_px": block.size_px, "height_px": block.height_px or block.size_px}.items():
        if edge < stride_px or edge % stride_px:
            raise ConfigError(
                f"chain.{name}.{key}: want a multiple of policies.{block.policy}.stride_px ({stride_px}), got {edge}"
            )


def _check_limits(key: str, block: BlockConfig, kind: str) -> None:
    if block.kind == "text":
        if block.max_tokens < 8:
            raise ConfigError(
                f"{key}.max_tokens: want at least 8 (its two tags count), got {block.max_tokens}"
            )
        foreign = {"size_px": block.size_px, "height_px": block.height_px, "num_steps": block.num_steps}
    else:
        if kind == "denoising" and block.num_steps < 2:
            raise ConfigError(
                f"{key}.num_steps: want at least 2 (the last step is not trained), got {block.num_steps}"
            )
        for name, edge in {"size_px": block.size_px, "height_px": block.height_px or block.size_px}.items():
            if kind == "denoising" and (edge < PIXEL_STEP or edge % PIXEL_STEP):
                raise ConfigError(f"{key}.{name}: want a multiple of {PIXEL_STEP}, got {edge}")
        foreign = {"max_tokens": block.max_tokens}
        if kind == "unified":
            foreign["num_steps"] = block.num_steps
    for name, value in foreign.items():
        if value:
            whose = " of a unified policy" if kind == "unified" else ""
            raise ConfigError(f"{key}.{name}: has no meaning in a {block.kind} block{whose}; take it out")


def check_sizes(config: Config) -> None:
    """Raise ``ConfigError`` where a picture's size does not fit to the others."""
    images = [(name, block.size_px) for name, block in config.chain.items() if block.kind == "image"]
    if not images:
        return
    last, final_px = images[-1]
    for (before, small), (name, large) in pairwise(images):
        if small >= large:
            raise ConfigError(f"chain.{name}.size_px: want more than chain.{before}'s {small}, got {large}")
    for name, size_px in images:
        if final_px % size_px:
            raise ConfigError(
                f"chain.{name}.size_px: want a divisor of chain.{last}'s {final_px}, got {size_px}"
            )
    if isinstance(config.data, Photographs) and final_px % config.scale:
        raise ConfigError(f"scale: want a divisor of chain.{last}.size_px {final_px}, got {config.scale}")


def check_batches(config: Config) -> None:
    """Raise ``ConfigError`` where a step cannot be split into updates and ranks."""
    if config.prompts_per_step < config.updates_per_batch:
        raise ConfigError(
            f"updates_per_batch: a batch is split by group, so at most prompts_per_step "
            f"({config.prompts_per_step}), got {config.updates_per_batch}"
        )
    chains = config.prompts_per_step // config.updates_per_batch * config.group_size
    for name, policy in config.policies.items():
        if chains < policy.learner.num_ranks:
            raise ConfigError(
                f"policies.{name}.learner.num_ranks: {policy.learner.num_ranks} ranks for {chains} chains an "
                "optimizer step leave some idle; lower it, or raise prompts_per_step"
            )
