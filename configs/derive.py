"""Derived values: what follows from a valid configuration, stated nowhere twice and printed before the start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from configs.load import DIGEST_FORMAT, RESOLVED, digest, load_config
from configs.methods import CISPO, PPO, DualClip, Guard, OnPolicy, SequenceMask
from configs.schema import (
    BlockConfig,
    Config,
    DenoisingPolicyConfig,
    LossConfig,
    Photographs,
    PolicyConfig,
    UnifiedPolicyConfig,
    WriterConfig,
)

COLDSTART = "coldstart"
"""The policy source that stands for what ``vlcot coldstart`` trains."""
REWARD_ATTEMPTS = 2
"""How often a chain is sent to a reward whose actors hang or die on it: beside others, then alone."""
COLDSTART_DONE = "coldstart.json"
"""Written last: a cold start without it is half-made."""
CHUNK_ACTIONS = 1024
"""Most actions whose logits a learner holds at once: with 150,000 ids a table of 0.6 GB."""
START = "start"
"""Folder of a run that keeps the cold start it was made from."""


def derived(config: Config) -> dict[str, str]:
    """Say what follows from a valid configuration, for a person to read before the start.

    Returns:
        Short name -> value with its unit, in reading order.
    """
    chains = config.prompts_per_step * config.group_size
    text = [block for block in config.chain.values() if block.kind == "text"]
    images = {name: block for name, block in config.chain.items() if block.kind == "image"}
    lines = {
        "run directory": str(Path(config.output_dir) / config.name),
        "chains a step": f"{chains} ({config.prompts_per_step} prompts x {config.group_size})",
        "optimizer steps a batch": str(config.updates_per_batch),
        "blocks": " > ".join(config.chain),
    }
    if text:
        lines["sampled tokens a chain"] = f"{sum(block.max_tokens for block in text)} at most"
    if images:
        if isinstance(config.data, Photographs):
            lines["degraded photo"] = f"{degraded_px(config)} px"
            lines["output"] = f"{final_px(config.chain)} px ({config.scale} x)"
        lines["pictures"] = ", ".join(f"{name} {_size(block)} px" for name, block in images.items())
        policies = {name: config.policies[block.policy] for name, block in images.items()}
        trained = [
            policy.rollout.trained_steps.num_trained(images[name].num_steps - 1)
            for name, policy in policies.items()
            if isinstance(policy, DenoisingPolicyConfig)
        ]
        if trained:
            lines["trained denoising steps a chain"] = str(sum(trained))
        codes = [
            num_codes(images[name], policy.stride_px)
            for name, policy in policies.items()
            if isinstance(policy, UnifiedPolicyConfig)
        ]
        if codes:
            lines["picture codes a chain"] = str(sum(codes))
    for name, policy in config.policies.items():
        ranks, workers = policy.learner.num_ranks, policy.rollout.num_workers
        rows = -(-chains // (config.updates_per_batch * ranks))
        lines[f"policy {name}"] = (
            f"learner ranks {ranks}, rollout workers {workers}, {rows} chains a rank and optimizer step"
        )
    if unrewarded := measured_only(config):
        lines["measured only"] = f"{', '.join(unrewarded)} (never trained on)"
    lines["GPUs"] = f"{num_gpus(config):g}"
    if taught_policies(config):
        lines["cold start"] = f"{coldstart_directory(config)} ({_coldstart_state(config)})"
    return lines


def _size(block: BlockConfig) -> str:
    """Say how large a block's picture is: its edge, or width x height."""
    return f"{block.size_px} x {block.height_px}" if block.height_px else str(block.size_px)


CANARY_TOLERANCE_NATS = {"float32": 1e-4, "bfloat16": 0.1}
"""Of a policy that names none, by its dtype."""


def canary_tolerance(policy: PolicyConfig) -> float:
    """Return the largest log-prob difference between rollout worker and learner, nats."""
    return policy.rollout.canary_tolerance_nats or CANARY_TOLERANCE_NATS[policy.dtype]


def worker_processes(policy: PolicyConfig) -> int:
    """Return the processes of one rollout worker."""
    return policy.rollout.tensor_parallel if isinstance(policy, WriterConfig) else 1


def taught_policies(config: Config) -> list[str]:
    """Return the policies that start from the cold start, by name."""
    return [
        name
        for name, policy in config.policies.items()
        if policy.source == COLDSTART or (isinstance(policy, WriterConfig) and policy.coldstart)
    ]


def uses_expert(config: Config) -> bool:
    """Whether a reward takes the learned expert of the cold start."""
    return any(mentions(reward.options, COLDSTART) for reward in config.rewards.values())


def mentions(value: object, word: str) -> bool:
    """Whether a nested mapping holds the word as a value."""
    return any(mentions(v, word) for v in value.values()) if isinstance(value, Mapping) else value == word


def run_directory(config: Config) -> Path:
    """Where everything of the run lies."""
    return Path(config.output_dir) / config.name


def has_weights(run: Path) -> bool:
    """Whether a run has made a checkpoint."""
    return any(run.glob("checkpoints/step_*/state.json"))


def coldstart_directory(config: Config) -> Path:
    """Where the cold start lies that the run is made from.

    A run with weights has one, whatever is asked of it: its own, or (where that is gone) the one it began with.
    """
    run = run_directory(config)
    if (run / START / COLDSTART_DONE).exists():
        return run / START
    if config.coldstart.directory or not (has_weights(run) and (run / RESOLVED).is_file()):
        return shared_coldstart(config)
    recorded = shared_coldstart(load_config(str(run)))
    return recorded if (recorded / COLDSTART_DONE).exists() else run.parent / recorded.name


def shared_coldstart(config: Config) -> Path:
    """Where runs of equal settings share a cold start: as configured, or under the digest of what makes it."""
    if config.coldstart.directory:
        return Path(config.coldstart.directory)
    return Path(config.output_dir) / f"coldstart-{digest(config)}"


def coldstart_digest(config: Config) -> str:
    """Return the digest of the cold start that the run is made from."""
    run = run_directory(config)
    recorded = has_weights(run) and (run / RESOLVED).is_file()
    return digest(load_config(str(run)) if recorded else config)


def _coldstart_state(config: Config) -> str:
    directory = coldstart_directory(config)
    if directory == run_directory(config) / START:
        return "the run's own"
    if (directory / COLDSTART_DONE).exists():
        return "made"
    if has_weights(run_directory(config)):
        return "missing"
    marks = sorted(directory.parent.glob(f"coldstart-*/{COLDSTART_DONE}"))
    older = [mark.parent for mark in marks if _is_old(mark)]
    hint = f"; {older[0]} is an older vlcot's: coldstart.directory takes it" if older else ""
    return f"to be made{hint}"


def _is_old(mark: Path) -> bool:
    """Whether a cold start's digest was made in another way, so that none of now can find it."""
    return f'"format": {DIGEST_FORMAT}' not in mark.read_text(errors="replace")


def token_policy(policy: PolicyConfig) -> WriterConfig:
    """Return a policy that must write tokens, of text alone or of pictures too.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(policy, WriterConfig):
        raise TypeError(f"want a token policy, got a {policy.kind} policy")
    return policy


def denoising_policy(policy: PolicyConfig) -> DenoisingPolicyConfig:
    """Return a policy that must be one of denoising steps.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(policy, DenoisingPolicyConfig):
        raise TypeError(f"want a denoising policy, got a {policy.kind} policy")
    return policy


STEPWISE = (PPO, DualClip, CISPO, Guard, OnPolicy)
"""Surrogates of one action each: what they say of a denoising step needs no other step of its picture."""


def is_stepwise(loss: LossConfig) -> bool:
    """Whether a picture's denoising steps may be scored in different micro-batches."""
    return (
        isinstance(loss.surrogate, STEPWISE)
        and loss.aggregation == "action_mean"
        and not isinstance(loss.correction, SequenceMask)
    )


def is_unified(config: Config) -> bool:
    """Whether one policy writes whole chains, text and pictures."""
    return any(isinstance(policy, UnifiedPolicyConfig) for policy in config.policies.values())


def num_codes(block: BlockConfig, stride_px: int) -> int:
    """Return how many codes an image block of a unified policy has."""
    return (block.height_px or block.size_px) // stride_px * (block.size_px // stride_px)


def degraded_px(config: Config) -> int:
    """Edge of the degraded photo, pixels; 0 where the chain has no picture."""
    return final_px(config.chain) // config.scale


def final_px(chain: Mapping[str, BlockConfig]) -> int:
    """Edge of the last picture, pixels; 0 where the chain paints none."""
    return next((block.size_px for block in reversed(list(chain.values())) if block.kind == "image"), 0)


def reward_deadline_s(config: Config, name: str) -> float:
    """Longest a reward actor may work without an answer, seconds."""
    return config.rewards[name].deadline_s or config.deadline_s / 4


def measured_only(config: Config) -> tuple[str, ...]:
    """Return the rewards that are measured and never trained on: weight 0, and not the gate."""
    return tuple(
        name for name, reward in config.rewards.items() if not reward.weight and name != config.advantage.gate
    )


EVAL_METRICS = ("psnr", "ssim", "gmsd", "fsim", "vsi")
"""What pictures with a truth are measured by where ``eval.metrics`` is ``auto``."""


def eval_metrics(config: Config) -> tuple[str, ...]:
    """Return the metrics that held-out pictures are measured by; () where nothing is painted."""
    if config.eval.metrics != ["auto"]:
        return tuple(config.eval.metrics)
    return EVAL_METRICS if final_px(config.chain) else ()


def num_gpus(config: Config) -> float:
    """GPUs that all processes reserve together; with ``colocate`` a policy's rank and worker share theirs."""
    policies = 0.0
    for policy in config.policies.values():
        ranks, workers = policy.learner.num_ranks, worker_processes(policy) * policy.rollout.num_workers
        policies += policy.num_gpus * (max(ranks, workers) if config.colocate else ranks + workers)
    return policies + sum(reward.num_gpus * reward.num_workers for reward in config.rewards.values())
