"""Low-rank adapters: put beside a net's linear layers, switched off, named, merged, written down.

Where a language model's tags are new, their rows of the embeddings go with the adapters (``actors.shared.token_rows``).
peft computes with them in the learner. Rollout workers and exports compute with merged weights instead, always from
the starting weights: ``W = W0 + alpha / rank * B A`` has no drift, and an engine needs no adapter of its own.

Source:
    Hu et al. 2021 (LoRA), eq. 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from actors.shared.token_rows import (
    PEFT_ROWS,
    ROWS,
    add_token_rows,
    peft_rows,
    switch_token_rows,
    with_rows,
)
from configs.methods import Adapter
from rl.compat.torchvision import ensure_torchvision
from rl.errors import ConfigError, WeightSyncError

A, B = ".lora_A", ".lora_B"
WEIGHT = ".weight"
BASE = ".base_layer."
"""What peft puts into the name of an adapted layer's own weight."""
NAME = "default"
"""peft's name of the only adapter."""
PEFT_PREFIX = "base_model.model."
"""What peft puts before every name in an adapter's file."""


def with_targets(lora: Adapter, default: Sequence[str]) -> Adapter:
    """Name the layers to adapt where the configuration does not."""
    return lora if lora.targets else replace(lora, targets=list(default))


def add_adapter(net: nn.Module, lora: Adapter, *, key: str, seed: int, row_ids: Sequence[int] = ()) -> None:
    """Put adapters beside the chosen layers, in place; everything else is frozen, but rows of the embeddings.

    They begin at 0 (B is), and rows as they are, so the net computes what it did.

    Args:
        net: What is trained and published of a policy.
        lora: Rank, alpha and targets.
        key: The configuration key of ``lora``, for messages.
        seed: Of A; the same on all ranks.
        row_ids: Rows of the embeddings that are trained too; for language models of transformers.

    Raises:
        ConfigError: If a target is no linear layer, or there is none of its name.
    """
    ensure_torchvision()
    from peft import inject_adapter_in_model

    if row_ids:
        add_token_rows(net, row_ids, key=key)
    _check_targets(net, lora.targets, key)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(_peft_config(lora), net, adapter_name=NAME)
    for name, parameter in net.named_parameters():
        if name.endswith(ROWS):  # peft froze them
            parameter.requires_grad_()


def _peft_config(lora: Adapter, rows: dict[str, list[int]] | None = None) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        target_modules=list(lora.targets),
        lora_dropout=0.0,
        trainable_token_indices=rows,
    )


def _check_targets(net: nn.Module, targets: Sequence[str], key: str) -> None:
    for target in targets:
        kinds = {type(module) for name, module in net.named_modules() if f".{name}".endswith(f".{target}")}
        if not kinds:
            linear = {name.rpartition(".")[2] for name, m in net.named_modules() if isinstance(m, nn.Linear)}
            raise ConfigError(
                f"{key}.targets: the net has no layer {target!r}; linear layers end in {', '.join(sorted(linear))}"
            )
        if odd := [kind.__name__ for kind in kinds if not issubclass(kind, nn.Linear)]:
            raise ConfigError(f"{key}.targets: {target!r} is a {odd[0]}, and only linear layers are adapted")


@contextmanager
def switched_off(net: nn.Module) -> Iterator[None]:
    """Have the net compute with its starting weights alone: the reference policy."""
    layers: list[Any] = [module for module in net.modules() if hasattr(module, "lora_A")]
    for layer in layers:
        # peft's own switch also freezes the adapters, on whose gradients DeepSpeed's hooks wait.
        layer._disable_adapters = True
    switch_token_rows(net, on=False)
    try:
        yield
    finally:
        switch_token_rows(net, on=True)
        for layer in layers:
            layer._disable_adapters = False


# --------------------------------------------------------------------------------- names


def adapters_only(named: Iterable[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, nn.Parameter]]:
    """Keep the adapters and rows of published parameters: ``<layer>.lora_A.weight``, as peft writes it."""
    for name, parameter in named:
        if _is_trained(name):
            yield name.replace(f".{NAME}.", "."), parameter


def split(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Part whole published weights into those of the plain net, under its plain names, and adapters and rows."""
    adapters = {n.replace(f".{NAME}.", "."): t for n, t in weights.items() if _is_trained(n)}
    plain = {n.replace(BASE, "."): t for n, t in weights.items() if not _is_trained(n)}
    return plain, adapters


def _is_trained(name: str) -> bool:
    return A in name or B in name or name.endswith(ROWS)


def scale_of(lora: Adapter) -> float:
    """Return the factor on the product of the two matrices."""
    return lora.alpha / lora.rank


def adapted_names(adapters: Iterable[str]) -> set[str]:
    """Return the plain names of the weights that some adapters and rows change."""
    names = list(adapters)
    return {
        name.removesuffix(end) + WEIGHT for end in (A + WEIGHT, ROWS) for name in names if name.endswith(end)
    }


# --------------------------------------------------------------------------------- merged weights


def merged(
    weights: Iterable[tuple[str, Tensor]],
    adapters: Mapping[str, Tensor],
    scale: float,
    row_ids: Sequence[int] = (),
) -> Iterator[tuple[str, Tensor]]:
    """Yield starting weights with their adapters added and trained rows put in; others as they are.

    Args:
        weights: Plain names and starting weights; never written to.
        adapters: ``<layer>.lora_A.weight`` ``[r, in]``, ``<layer>.lora_B.weight`` ``[out, r]``, and rows of embeddings,
            ``<layer>.token_rows`` ``[len(row_ids), width]``.
        scale: ``alpha / rank``.
        row_ids: Numbers of the rows.

    Yields:
        Names and weights, of the starting weights' dtype; the sum is made in float32.

    Raises:
        WeightSyncError: At the end, if an adapter belongs to none of the weights.
    """
    left = adapted_names(adapters)
    for name, weight in weights:
        if name not in left:
            yield name, weight
            continue
        left.remove(name)
        layer = name.removesuffix(WEIGHT)
        if (rows := adapters.get(layer + ROWS)) is not None:
            yield name, with_rows(weight, row_ids, rows)
            continue
        a, b = (adapters[layer + side + WEIGHT].to(weight.device, torch.float32) for side in (A, B))
        yield name, torch.addmm(weight.float(), b, a, alpha=scale).to(weight.dtype)
    if left:
        raise WeightSyncError(
            f"{len(left)} adapters belong to no weight of the starting checkpoint, e.g. {sorted(left)[0]}; do "
            "learner and rollout worker start from the same one?"
        )


def export_adapter(
    directory: Path,
    lora: Adapter,
    weights: Mapping[str, Tensor],
    *,
    net_name: Callable[[str], str],
    row_ids: Sequence[int] = (),
) -> dict[str, Tensor]:
    """Write an adapter by itself, and return the plain weights it is merged into.

    Args:
        directory: Of the adapter.
        lora: What it was trained with.
        weights: All that a policy publishes, whole, under the names of its parameters.
        net_name: From a published name to that in the policy's net.
        row_ids: Rows of the embeddings that were trained too.

    Returns:
        Weights under the plain net's published names.
    """
    plain, adapters = split(weights)
    write_adapter(directory, lora, {net_name(name): t for name, t in adapters.items()}, row_ids)
    return dict(merged(plain.items(), adapters, scale_of(lora), row_ids))


def write_adapter(
    directory: Path, lora: Adapter, adapters: Mapping[str, Tensor], row_ids: Sequence[int] = ()
) -> None:
    """Write an adapter as ``peft.PeftModel.from_pretrained(net, directory)`` loads it.

    Args:
        directory: Made if absent.
        lora: What it was trained with.
        adapters: By name in the net.
        row_ids: Numbers of the rows among them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = _peft_config(lora, peft_rows(adapters, row_ids))
    config.inference_mode = True
    config.save_pretrained(str(directory))
    tensors = {
        PEFT_PREFIX + name.replace(ROWS, PEFT_ROWS): tensor.contiguous() for name, tensor in adapters.items()
    }
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
