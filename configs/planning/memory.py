"""Memory of each kind of process at its fullest, by part. Bytes; formulas with their sources in docs/placement.md.

Letters: P trained parameters, F frozen ones, b bytes of a number of ``dtype``, N learner ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from configs.derive import worker_processes
from configs.planning.activations import logit_elements, painting_elements, picture_elements, text_elements
from configs.planning.adapters import has_adapter, num_updated
from configs.planning.models import Model
from configs.planning.workload import DTYPE_BYTES, LATENT_BYTES, picture_shape, text_shape
from configs.schema import Config, RewardConfig, WriterConfig

GIB = 1 << 30
ENGINE_SHARE = 0.9
"""Share of its part of a GPU that vLLM takes, weights and cache together (``actors.rollout.text_engine``)."""
CPU_CACHE_BYTES = GIB
"""vLLM's cache on a CPU (``rl.compat.vllm``)."""
MAX_BUCKET_ELEMENTS = 200_000_000
"""Most elements of DeepSpeed's reduction bucket (``actors.shared.deepspeed_engine``)."""
MAX_LIVE_ELEMENTS = 1_000_000_000
"""Most elements that ZeRO-3 keeps gathered at once (DeepSpeed's ``stage3_max_live_parameters``)."""
FIXED_CPU_BYTES = {"learner": 365 << 20, "text": 1136 << 20, "image": 350 << 20, "reward": 350 << 20}
"""Anonymous memory of a process that has imported its libraries and loaded nothing, on a CPU; measured."""
HEAP_FACTOR = 1.75
"""On a CPU: glibc's heap beside the activations in it, as it keeps what was freed between them; measured."""
FIXED_GPU_BYTES = 3 * GIB // 2
"""CUDA context, kernels and NCCL's buffers of a process, and what allocators waste; assumed."""
EXPERT_ACTIVATION_BYTES = GIB // 2
"""What a reward's experts hold while they score a batch; assumed."""
EXPERT_PARAMETERS: Mapping[str, int] = {
    "cnniqa": 730_000, "topiq_nr": 45_200_000, "musiq": 27_100_000, "maniqa-pipal": 135_700_000,
    "clipiqa": 102_000_000,
}  # fmt: skip
"""Parameters of pyiqa metrics."""
UNKNOWN_EXPERT_PARAMETERS = 100_000_000
"""What a metric that is not in the table is taken for."""
REALSR_R1 = ("topiq_nr", "musiq", "maniqa-pipal", "clipiqa")
"""What ``experts: realsr_r1`` stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of one process at its fullest, bytes by part; the parts add up."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    """Master weights and moments; the moving average too."""
    activations: int = 0
    """Of forward and backward pass, logits included; of painting; of scoring."""
    cache: int = 0
    """Keys and values."""
    latents: int = 0
    experts: int = 0
    buffers: int = 0
    """Buckets of gradients and of weights."""
    fixed: int = 0
    """What the process costs before it holds anything of the model."""

    @property
    def total(self) -> int:
        """Sum of the parts."""
        return sum(getattr(self, field.name) for field in fields(self))


PARTS = tuple(field.name for field in fields(Memory))
"""Names of the parts, in the order of tables."""


def learner_memory(config: Config, policy: str, model: Model) -> Memory:
    """Return what a learner rank holds.

    Source:
        Rajbhandari et al. 2020 (ZeRO), section 5 and figure 1: with K = 12 bytes of AdamW a parameter,
        weights b P, gradients b P, optimizer K P; stage 1 divides the last by N, stage 2 the last two, stage 3 all.
    Differs from the paper:
        DeepSpeed keeps float32 master weights for float32 models too, and reduces gradients in a bucket of at most
        ``MAX_BUCKET_ELEMENTS``.
    """
    spec = config.policies[policy]
    size, ranks, trained = DTYPE_BYTES[spec.dtype], spec.learner.num_ranks, num_updated(spec, model)
    whole = model.num_trained + (trained if has_adapter(spec) else 0)
    held = whole // ranks if spec.learner.zero_stage == 3 else whole
    weights = size * held
    if spec.loss.kl_weight > 0 and not has_adapter(spec):
        # A picture policy is read in float32 and only the trained copy is cast.
        weights += (size if isinstance(spec, WriterConfig) else 4) * model.num_trained
    is_cut = spec.learner.zero_stage > 1
    # A bucket is filled from gradients that autograd still holds.
    buckets = 2 * min(MAX_BUCKET_ELEMENTS, trained)
    gathered = min(MAX_LIVE_ELEMENTS, whole) if spec.learner.zero_stage == 3 else 0
    # The optimizer is given its gradients as one float32 copy.
    optimizer, copied = _optimizer_bytes(config, policy, model), 4 * trained // ranks
    if offloaded_bytes(config, policy, model):
        optimizer = copied = 0
    return Memory(
        weights=weights,
        gradients=size * (trained // ranks if is_cut else trained),
        optimizer=optimizer,
        activations=_learning_bytes(config, policy, model),
        buffers=size * (buckets + gathered) + copied,
        fixed=FIXED_GPU_BYTES if spec.num_gpus else FIXED_CPU_BYTES["learner"],
    )


def offloaded_bytes(config: Config, policy: str, model: Model) -> int:
    """Return what a learner rank on a GPU keeps on the host (``offload_optimizer``): states, gradients, new weights."""
    spec = config.policies[policy]
    if not (spec.learner.offload_optimizer and spec.num_gpus):
        return 0
    copied = (4 + DTYPE_BYTES[spec.dtype]) * num_updated(spec, model) // spec.learner.num_ranks
    return _optimizer_bytes(config, policy, model) + copied


def _optimizer_bytes(config: Config, policy: str, model: Model) -> int:
    spec = config.policies[policy]
    return (16 if spec.learner.ema_decay else 12) * num_updated(spec, model) // spec.learner.num_ranks


def rollout_memory(config: Config, policy: str, model: Model) -> Memory:
    """Return what a rollout worker holds."""
    if isinstance(config.policies[policy], WriterConfig):
        return _text_rollout(config, policy, model)
    return _image_rollout(config, policy, model)


def reward_memory(reward: RewardConfig) -> Memory:
    """Return what a reward actor holds: its experts, as far as their names tell."""
    return Memory(
        experts=sum(
            4 * EXPERT_PARAMETERS.get(name, UNKNOWN_EXPERT_PARAMETERS) for name in experts_of(reward)
        ),
        activations=EXPERT_ACTIVATION_BYTES if experts_of(reward) else 0,
        fixed=FIXED_GPU_BYTES if reward.num_gpus else FIXED_CPU_BYTES["reward"],
    )


def experts_of(reward: RewardConfig) -> tuple[str, ...]:
    """Return the names of the visual experts that a reward's options mention."""
    experts = reward.options.get("experts", ())
    if experts == "realsr_r1":
        return REALSR_R1
    return tuple(experts) if isinstance(experts, dict) else ()


def _learning_bytes(config: Config, policy: str, model: Model) -> int:
    spec = config.policies[policy]
    size, recomputed = DTYPE_BYTES[spec.dtype], spec.learner.gradient_checkpointing
    if spec.kind == "denoising":
        picture = picture_shape(config, policy, model, learn=True)
        held = size * picture_elements(model.fields, picture, recomputed=recomputed)
    else:
        shape = text_shape(config, policy, model)
        kept = text_elements(model.fields, shape, recomputed=recomputed)
        held = size * kept + 4 * logit_elements(model.fields, shape)
    return held if spec.num_gpus else int(HEAP_FACTOR * held)


def _text_rollout(config: Config, policy: str, model: Model) -> Memory:
    """VLLM fills its share of a GPU: what weights leave of it is cache."""
    spec = config.policies[policy]
    size = worker_processes(spec)
    weights = DTYPE_BYTES[spec.dtype] * model.num_trained
    if not spec.num_gpus:
        # A tensor parallel worker's own process has the libraries and the publication, the others a part each.
        fixed = FIXED_CPU_BYTES["text"] * (1 if size == 1 else 1 + size)
        # oneDNN computes with a packed copy of the matrices, beside the one that publications are loaded to.
        return Memory(
            weights=2 * weights, cache=size * CPU_CACHE_BYTES, buffers=config.bucket_mib << 20, fixed=fixed
        )
    share = size * int(ENGINE_SHARE * min(1.0, spec.num_gpus) * config.gpu_gib * GIB)
    fixed = size * FIXED_GPU_BYTES
    return Memory(weights=weights, cache=max(0, share - weights - fixed), fixed=fixed)


def _image_rollout(config: Config, policy: str, model: Model) -> Memory:
    spec = config.policies[policy]
    size, shape = DTYPE_BYTES[spec.dtype], picture_shape(config, policy, model, learn=False)
    blocks = [block for block in config.chain.values() if block.policy == policy]
    largest = max(blocks, key=lambda block: block.size_px)
    states = spec.learner.micro_batch_size * (largest.num_steps + 1)
    return Memory(
        weights=size * (model.num_trained + model.num_frozen),
        activations=size * painting_elements(model.fields, shape),
        latents=int(LATENT_BYTES * model.latents_a_pixel * largest.size_px**2 * states),
        buffers=config.bucket_mib << 20,
        fixed=FIXED_GPU_BYTES if spec.num_gpus else FIXED_CPU_BYTES["image"],
    )
