"""Gradient checkpointing: a net keeps its layers' inputs, and computes the rest again in the backward pass."""

from __future__ import annotations

from typing import Any

from torch import nn

from rl.errors import ConfigError


def recompute_activations(net: nn.Module, *, key: str) -> None:
    """Have a net's own library checkpoint its layers, in place; scores and gradients stay what they were.

    Args:
        net: In evaluation mode: a transformers or a diffusers model, or one that has the method of either.
        key: The configuration key, for messages.

    Raises:
        ConfigError: If the net has no such method, or refuses, or would drop out what it computes.
    """
    try:
        _switch_on(net)
    except ValueError as error:
        name, reason = type(net).__name__, str(error).rstrip(".")
        raise ConfigError(
            f"{key}: {name} cannot compute its activations again: {reason}; set it to false"
        ) from error


def _switch_on(net: Any) -> None:
    if hasattr(net, "gradient_checkpointing_enable"):
        net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        _train_layers(net)
    elif hasattr(net, "enable_gradient_checkpointing"):
        net.enable_gradient_checkpointing()
    else:
        raise ValueError("it is neither a transformers nor a diffusers model")


def _train_layers(net: nn.Module) -> None:
    """Set the layers to training, without which transformers recomputes none; what is in them stays as it is."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in net.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError("none of its modules is a GradientCheckpointingLayer")
    for layer in layers:
        dropouts = [k for k, v in vars(layer).items() if "drop" in k and isinstance(v, float) and v > 0]
        if dropouts:
            raise ValueError(
                f"its {type(layer).__name__} has {dropouts[0]} above 0 and would drop out what it computes"
            )
        layer.training = True
