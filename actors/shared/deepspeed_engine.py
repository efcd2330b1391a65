"""DeepSpeed behind a few plain functions: process group, engine, learning rate, whole parameters.

The only file that knows DeepSpeed's settings. DeepSpeed is imported inside the functions: it is slow to
import and picks its device from the environment when it is first asked. Gradients add up over any number of
``backward`` calls until ``step``; DeepSpeed averages them over ranks and divides by nothing else.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from actors.shared.network import interface_towards
from configs.errors import first_line
from rl.compat.light_imports import import_light
from rl.errors import LearnerError

SHM_OP = "deepspeed_shm_comm"
"""DeepSpeed compiles this when the process group starts (a minute), and uses it in inference only."""
MAX_BUCKET_ELEMENTS = 200_000_000
"""Elements sent in one collective call."""
BUCKET_UNIT = 1000
"""Bucket sizes are multiples of it; DeepSpeed refuses odd ones."""
PERSISTENCE_ELEMENTS = 100_000
"""ZeRO-3 keeps parameters of fewer elements whole: gathering them costs more than it saves."""


def start_process_group(
    *, rank: int, world_size: int, master_addr: str, master_port: int, device: torch.device
) -> None:
    """Make the process group of a learner: gloo on the CPU, NCCL on GPUs. A world of one needs no address.

    Args:
        rank: Of this process, ``0 .. world_size - 1``.
        world_size: Processes in all.
        master_addr: Host of rank 0.
        master_port: Free port there.
        device: What this rank computes on.

    Raises:
        LearnerError: If the port is taken, or there is no way to that host.
    """
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(device.index or 0),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": master_addr,
        "MASTER_PORT": str(master_port),
    }
    if device.type == "cpu" and world_size > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface_towards(master_addr, master_port))
    try:
        join_process_group(device)
    except torch.distributed.DistNetworkError as error:
        raise LearnerError(
            f"learner rank {rank} cannot meet the others at {master_addr}:{master_port}: "
            f"{first_line(error)}; free the port or start again, which takes another"
        ) from error


def join_process_group(device: torch.device) -> None:
    """Use the process group that exists, or make the one the environment describes; else one of one rank."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ.setdefault("LOCAL_RANK", "0")
    import_light("accelerate")  # transformers and diffusers import it
    import_light("deepspeed")
    import deepspeed

    backend = "nccl" if device.type == "cuda" else "gloo"
    if not torch.distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        torch.distributed.init_process_group(backend, init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    # torch renamed collectives that DeepSpeed calls; said once a call site it would bury everything else.
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    deepspeed.ops.__compatible_ops__[SHM_OP] = False
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def stop_process_group() -> None:
    """Leave the process group, if there is one.

    Through DeepSpeed: it remembers groups of its own, and an engine of the next process group would be given them.
    """
    import deepspeed

    if deepspeed.comm.is_initialized():
        deepspeed.comm.destroy_process_group()


def make_engine(
    module: nn.Module,
    *,
    zero_stage: int,
    learning_rate: float,
    weight_decay: float,
    max_grad_norm: float,
    dtype: str,
    offload_optimizer: bool = False,
) -> Any:
    """Wrap a module for ZeRO training with AdamW.

    Args:
        module: On the CPU or the rank's device; the same weights on every rank. Whole at first, also for
            stage 3, which shards it here.
        zero_stage: 0 (none) to 3.
        learning_rate: AdamW's, changed at will with ``set_learning_rate``.
        weight_decay: AdamW's.
        max_grad_norm: Gradients of a larger norm are scaled down.
        dtype: ``float32`` or ``bfloat16`` (with float32 master weights).
        offload_optimizer: Keep masters and optimizer states on the host, and make AdamW's step there: torch's own,
            as elsewhere, for DeepSpeed's would have to be compiled at the start.

    Returns:
        The DeepSpeed engine.
    """
    import deepspeed

    # An engine's finalizer imports this. Python 3.11 breaks off an import (KeyError) in whose midst the garbage
    # collector runs a finalizer that imports something for the first time.
    import deepspeed.utils.pin_memory

    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=torch.optim.AdamW(trained, lr=learning_rate, weight_decay=weight_decay, fused=True),
        dist_init_required=False,
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "managed_gradient_accumulation": False,
            "gradient_clipping": max_grad_norm,
            "steps_per_print": 1 << 62,
            "wall_clock_breakdown": False,
            "bf16": {"enabled": dtype == "bfloat16"},
            "zero_optimization": _zero_settings(module, zero_stage, offload_optimizer=offload_optimizer),
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        },
    )
    return engine


def _zero_settings(module: nn.Module, zero_stage: int, *, offload_optimizer: bool) -> dict[str, Any]:
    # DeepSpeed reserves whole communication buckets, by default of 5e8 elements, also for a small model.
    num_elements = sum(parameter.numel() for parameter in module.parameters())
    bucket_elements = min(MAX_BUCKET_ELEMENTS, num_elements // BUCKET_UNIT * BUCKET_UNIT + BUCKET_UNIT)
    return {
        "stage": zero_stage,
        "overlap_comm": False,
        "reduce_bucket_size": bucket_elements,
        "allgather_bucket_size": bucket_elements,
        "stage3_prefetch_bucket_size": bucket_elements,
        "contiguous_gradients": zero_stage > 1,
        "stage3_param_persistence_threshold": PERSISTENCE_ELEMENTS,
        "offload_optimizer": {"device": "cpu" if offload_optimizer else "none"},
    }


def backward(engine: Any, loss: Tensor) -> None:
    """Add a micro-batch's gradients to those of the step."""
    engine.backward(loss, scale_wrt_gas=False)


def step(engine: Any, learning_rate: float) -> float | None:
    """Apply the added-up gradients.

    Returns:
        The gradient norm before clipping, or None where it is not finite: then no weight was changed, on
        any rank.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = learning_rate
    engine.step()
    norm = float(engine.get_global_grad_norm() or 0.0)
    return norm if engine.was_step_applied() and math.isfinite(norm) else None


def any_rank(flag: bool, device: torch.device) -> bool:
    """Return on every rank whether the flag is set on any: a verdict all share, so that none waits alone."""
    return bool(largest(int(flag), device))


def largest(number: int, device: torch.device) -> int:
    """Return on every rank the largest of the ranks' numbers."""
    vote = torch.tensor([number], device=device)
    torch.distributed.all_reduce(vote, op=torch.distributed.ReduceOp.MAX)
    return int(vote.item())


def whole(parameters: Sequence[nn.Parameter], *, zero_stage: int) -> AbstractContextManager[Any]:
    """Return a context in which these parameters are whole on every rank; all ranks must enter it."""
    if zero_stage < 3:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(parameters))  # type: ignore[no-any-return]


def stream_whole(
    named: Iterable[tuple[str, nn.Parameter]], *, zero_stage: int, max_bytes: int
) -> Iterator[tuple[str, Tensor]]:
    """Yield whole parameters, gathering at most ``max_bytes`` (or one parameter) at a time.

    Args:
        named: Names and parameters, the same on every rank. All ranks must consume the whole stream.
        zero_stage: 3 gathers; below it every rank has whole weights and nothing is sent.
        max_bytes: Bound on what is gathered at once.

    Yields:
        Names and tensors; a tensor is whole until the next one is asked for.
    """
    for chunk in _chunks(named, max_bytes):
        with whole([parameter for _, parameter in chunk], zero_stage=zero_stage):
            for name, parameter in chunk:
                yield name, parameter.detach()


def _chunks(
    named: Iterable[tuple[str, nn.Parameter]], max_bytes: int
) -> Iterator[list[tuple[str, nn.Parameter]]]:
    chunk: list[tuple[str, nn.Parameter]] = []
    size = 0
    for name, parameter in named:
        num_elements = getattr(parameter, "ds_numel", parameter.numel())
        num_bytes = num_elements * parameter.element_size()
        if chunk and size + num_bytes > max_bytes:
            yield chunk
            chunk, size = [], 0
        chunk.append((name, parameter))
        size += num_bytes
    if chunk:
        yield chunk


def master_shards(engine: Any) -> list[Tensor]:
    """Return this rank's float32 shards of the trained weights, which the optimizer updates in place."""
    optimizer = engine.optimizer
    held = (
        optimizer.fp32_partitioned_groups_flat
        if engine.zero_optimization_stage() == 3
        else optimizer.single_partition_of_fp32_groups
    )
    return list(held)


def refresh_weights(engine: Any) -> None:
    """Make the weights the model computes with those of ``master_shards``; all ranks must call it."""
    optimizer = engine.optimizer
    if engine.zero_optimization_stage() < 3:
        optimizer.update_lp_params()
        return
    # Between these two DeepSpeed holds nothing whole; small parameters are gathered again from the shards.
    optimizer.checkpoint_event_prologue()
    for index in range(len(optimizer.fp16_partitioned_groups_flat)):
        optimizer._reassign_or_swap_out_partitioned_parameters(index)
    optimizer.checkpoint_event_epilogue()


def offload(engine: Any) -> None:
    """Move what learning needs to the host, until ``reload``. Only between steps.

    All of it below ZeRO stage 3. In stage 3 DeepSpeed moves its own fused Adam's states only, so the masters and
    optimizer states are moved here, and the sharded weights of the forward pass stay. What is on the host by
    ``offload_optimizer`` stays there.
    """
    host = torch.device("cpu")
    if engine.zero_optimization_stage() == 3:
        _move_masters(engine, host)
        return
    engine.offload_states(pin_memory=False)
    _move_frozen(engine, host)


def reload(engine: Any) -> None:
    """Move back what ``offload`` moved."""
    if engine.zero_optimization_stage() == 3:
        _move_masters(engine, engine.device)
        return
    engine.reload_states()
    _move_frozen(engine, engine.device)


def _move_masters(engine: Any, device: torch.device) -> None:
    """Move the float32 shards, and the optimizer states of them, unless they live on the host."""
    if engine.zero_use_cpu_optimizer():
        return
    for shard in master_shards(engine):
        shard.data = shard.data.to(device)
    for state in engine.optimizer.optimizer.state.values():
        for name, value in state.items():
            state[name] = value.to(device) if isinstance(value, Tensor) else value


def _move_frozen(engine: Any, device: torch.device) -> None:
    """Move what no optimizer holds."""
    frozen = [parameter for parameter in engine.module.parameters() if not parameter.requires_grad]
    for tensor in (*frozen, *engine.module.buffers()):
        tensor.data = tensor.data.to(device)
