"""The plan of a run: its processes in their bundles, what each holds, what a step moves, and what does not fit.

A pure function of the configuration and the sizes of its models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from configs.planning.adapters import num_updated
from configs.planning.memory import (
    FIXED_GPU_BYTES,
    GIB,
    Memory,
    learner_memory,
    offloaded_bytes,
    reward_memory,
    rollout_memory,
)
from configs.planning.models import Model
from configs.planning.placement import Bundle, Placement, Process, place
from configs.planning.workload import DTYPE_BYTES, Workload, cache_bytes_a_token, text_shape, workload
from configs.schema import Config, WriterConfig

STORE_BYTES = GIB
"""Least object store of a private Ray."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that does not fit, or will be slow."""

    what: str
    remedy: str
    """Names keys."""
    is_fatal: bool = True
    """False where the run works and only waits more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run will take."""

    placement: Placement
    models: Mapping[str, Model | None]
    """By policy; None where nothing is known of its size."""
    memory: Mapping[str, Memory]
    """By process name; processes of unknown size are missing."""
    work: Workload
    published_bytes: Mapping[str, int]
    """By policy: weights that each of its rollout workers receives a step."""
    offloaded_bytes: Mapping[str, int]
    """By policy: what each of its learner ranks on a GPU keeps on the host."""
    findings: tuple[Finding, ...]
    in_turns: bool = False
    """Whether learner and rollout worker of a policy take turns (``colocate``)."""

    def bundle_bytes(self, bundle: Bundle) -> int:
        """Return the most memory a bundle's GPU (or, without one, the host) has to hold."""
        by_key: dict[str, list[int]] = {}
        for process in bundle.processes:
            if process.name in self.memory:
                key = (
                    process.key if self.in_turns and process.role in ("rollout", "learner") else process.name
                )
                by_key.setdefault(key, []).append(self.memory[process.name].total)
        # Who sleeps leaves its CUDA context behind.
        return sum(max(totals) + FIXED_GPU_BYTES * (len(totals) - 1) for totals in by_key.values())

    @property
    def store_bytes(self) -> int:
        """Return the object store that a step needs: its latents, and one publication of every policy."""
        return max(STORE_BYTES, 3 * (self.work.latent_bytes + sum(self.published_bytes.values())) // 2)


def make_plan(config: Config, models: Mapping[str, Model | None], *, host_bytes: int | None = None) -> Plan:
    """Plan a valid configuration.

    Args:
        config: The run.
        models: By policy, as ``actors.policies.model_size.find_models`` found them.
        host_bytes: Memory of this machine, where the run will be on this machine alone; None is not compared.

    Returns:
        The plan, findings included: nothing is raised because something does not fit.
    """
    placement = place(config)
    memory = {p.name: m for p in placement.processes() if (m := _memory(config, p, models)) is not None}
    published = {
        name: DTYPE_BYTES[config.policies[name].dtype] * num_updated(config.policies[name], model)
        for name, model in models.items()
        if model is not None
    }
    plan = Plan(
        placement=placement,
        models=models,
        memory=memory,
        work=workload(config, models),
        published_bytes=published,
        offloaded_bytes={
            name: num_bytes
            for name, model in models.items()
            if model is not None and (num_bytes := offloaded_bytes(config, name, model))
        },
        findings=(),
        in_turns=config.colocate,
    )
    findings = (
        *_unknown(config, models),
        *_gpu_findings(config, plan),
        *_cache_findings(config, models, memory),
        *_host_findings(plan, host_bytes),
    )
    return replace(plan, findings=findings)


def _memory(config: Config, process: Process, models: Mapping[str, Model | None]) -> Memory | None:
    if process.role == "reward":
        return reward_memory(config.rewards[process.key])
    model = models.get(process.key)
    if model is None:
        return None
    estimate = learner_memory if process.role == "learner" else rollout_memory
    return estimate(config, process.key, model)


# --------------------------------------------------------------------------------- findings


def _unknown(config: Config, models: Mapping[str, Model | None]) -> Iterator[Finding]:
    for name, model in models.items():
        if model is None:
            yield Finding(
                what=f"policy {name}: nothing is known of {config.policies[name].source}",
                remedy=f"give a folder as policies.{name}.source, and its memory is planned too",
                is_fatal=False,
            )


def _gpu_findings(config: Config, plan: Plan) -> Iterator[Finding]:
    named: set[tuple[str, ...]] = set()
    for node in plan.placement.nodes:
        for bundle in node.bundles:
            room, needed = int(bundle.num_gpus * config.gpu_gib * GIB), plan.bundle_bytes(bundle)
            kinds = tuple(f"{process.role} {process.key}" for process in bundle.processes)
            if not room or needed <= room or kinds in named:
                continue
            named.add(kinds)
            yield Finding(
                what=f"a GPU with {' and '.join(kinds)} needs {needed / GIB:.1f} GiB of {room / GIB:.0f}",
                remedy="; ".join(
                    dict.fromkeys(_remedy(config, process, plan) for process in bundle.processes)
                ),
            )


def _remedy(config: Config, process: Process, plan: Plan) -> str:
    """Say what would help a process most: look at its largest part."""
    memory, key = plan.memory.get(process.name), f"policies.{process.key}"
    if process.role == "reward":
        return f"raise rewards.{process.key}.num_gpus to share a GPU with fewer"
    if memory is None or process.role not in ("learner", "rollout"):
        return "give it a GPU of its own"
    if process.role == "rollout":
        return f"raise {key}.num_gpus, or lower {key}.learner.micro_batch_size"
    policy = config.policies[process.key]
    if memory.activations > memory.optimizer + memory.weights:
        if isinstance(policy, WriterConfig) and policy.learner.max_tokens:
            return f"lower {key}.learner.max_tokens (now {policy.learner.max_tokens})"
        if policy.learner.micro_batch_size > 1:
            return f"lower {key}.learner.micro_batch_size (now {policy.learner.micro_batch_size})"
        if not policy.learner.gradient_checkpointing:
            return f"set {key}.learner.gradient_checkpointing=true"
    if policy.learner.zero_stage < 3:
        return f"raise {key}.learner.zero_stage to 3, or {key}.learner.num_ranks (now {policy.learner.num_ranks})"
    more = "" if policy.learner.offload_optimizer else f", or set {key}.learner.offload_optimizer=true"
    return f"raise {key}.learner.num_ranks (now {policy.learner.num_ranks}){more}"


def _cache_findings(
    config: Config, models: Mapping[str, Model | None], memory: Mapping[str, Memory]
) -> Iterator[Finding]:
    for name, policy in config.policies.items():
        model, held = models[name], memory.get(f"rollout-{name}-0")
        if not isinstance(policy, WriterConfig) or model is None or held is None:
            continue
        chain = text_shape(config, name, model).tokens * cache_bytes_a_token(model.fields, policy.dtype)
        wanted = -(-config.prompts_per_step * config.group_size // policy.rollout.num_workers)
        room = held.cache // chain
        if room < 1:
            yield Finding(
                what=f"rollout {name}: {held.cache / GIB:.1f} GiB of cache, a chain needs {chain / GIB:.2f}",
                remedy=f"raise gpu_gib or policies.{name}.num_gpus, or shorten the chain (chain.*.max_tokens)",
            )
        elif room < wanted:
            yield Finding(
                what=f"rollout {name}: its cache holds {room} chains of the {wanted} it is given a step; others wait",
                remedy=f"raise policies.{name}.rollout.num_workers for speed",
                is_fatal=False,
            )


def _host_findings(plan: Plan, host_bytes: int | None) -> Iterator[Finding]:
    """Compare what runs on the host with its memory; a run without GPUs only."""
    if host_bytes is None or any(node.num_gpus for node in plan.placement.nodes):
        return
    needed = plan.store_bytes + sum(memory.total for memory in plan.memory.values())
    if needed > host_bytes:
        yield Finding(
            what=f"the processes need {needed / GIB:.1f} GiB, this machine has {host_bytes / GIB:.1f}",
            remedy="lower learner.micro_batch_size, learner.num_ranks or rollout.num_workers of policies, or set "
            "ray_address",
        )
