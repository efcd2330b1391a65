"""Named methods: vetted settings with their papers, put under (or over) a configuration by ``algorithm=NAME``.

A name stands for what its paper changes, and says nothing of the rest, so that names can be joined:
``algorithm=dapo+mix_grpo`` takes DAPO for token policies and MixGRPO for denoising policies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from configs.build import nearest
from configs.errors import ConfigError

Layer = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """One named method."""

    paper: str
    """Where it comes from, with the equation."""
    run: Layer = field(default_factory=dict)
    """Keys of the whole run."""
    token: Layer = field(default_factory=dict)
    """Keys of every token policy."""
    denoising: Layer = field(default_factory=dict)
    """Keys of every denoising policy."""


ALGORITHMS: Mapping[str, Algorithm] = {}
"""By name."""


def algorithm_layer(content: Layer) -> dict[str, Any]:
    """Return the keys that the algorithms named in a configuration set.

    Args:
        content: The configuration's own keys: its ``algorithm`` and its policies with their kinds.

    Raises:
        ConfigError: For a name that is not known.
    """
    layer: dict[str, Any] = {}
    for name in filter(None, str(content.get("algorithm") or "").split("+")):
        algorithm = _find(name)
        layer |= algorithm.run
        policies = layer.setdefault("policies", {})
        for policy, settings in content.get("policies", {}).items():
            kind = settings.get("kind", "token")
            own = algorithm.token if kind == "token" else algorithm.denoising
            policies[policy] = {**policies.get(policy, {}), **own}
    return layer


def _find(name: str) -> Algorithm:
    if name not in ALGORITHMS:
        near = nearest(name, list(ALGORITHMS))
        hint = f"did you mean {near!r}? " if near else ""
        raise ConfigError(f"algorithm: no {name!r}; {hint}known are {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]
