"""Plan of a search, the ``search:`` section of a configuration: what is searched, for what, and how long.

It is no part of a run's ``Config``: every other command leaves it alone. What its values must be together is
``configs.checks.search``'s job.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from omegaconf import OmegaConf
from pydantic import ConfigDict, Field

from configs.build import build
from configs.errors import ConfigError
from configs.fields import STRICT, Count, Flag, Natural, Text, Whole
from configs.load import SEARCH, find_config, layered, parse_override, read_yaml
from configs.schema import Config
from configs.suggest import suggest

PLAN = "search.yaml"
"""The file in a search's directory that holds the whole plan; it marks the directory as a search's."""
GROWS = ("num_trials", "max_concurrent")
"""What may be changed when a search goes on."""

Kind = Literal["choice", "grid", "uniform", "log_uniform", "int"]
KINDS: tuple[Kind, ...] = get_args(Kind)
RANGES: tuple[Kind, ...] = ("uniform", "log_uniform", "int")
"""Kinds with a low and a high end."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """What ``vlcot search`` does with a configuration."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    space: dict[str, Any] = field(default_factory=dict)
    """What is searched: keys of the run, each with ``{choice: [a, b]}``, ``{grid: [a, b]}`` (every value with every
    other grid's), ``{uniform: [low, high]}``, ``{log_uniform: [low, high]}`` or ``{int: [low, high]}``. Ranges hold
    both their ends."""
    metric: Text = "total"
    """Held-out mean that is sought: ``total``, a reward's name, or one of ``eval.metrics``. The largest wins, or the
    smallest where less is better."""
    num_trials: Count = 16
    """Runs in all. With grids it is rounded up to whole grids; nothing but grids is walked through once."""
    max_concurrent: Count = 1
    """Runs at a time, each with processes of its own."""
    grace_steps: Natural = 0
    """GRPO steps before a run may be stopped; 0 is its first evaluation. Runs are compared where they are evaluated:
    ``eval.every=0`` takes all to their end."""
    reduction_factor: Annotated[Whole, Field(ge=2)] = 3
    """Of the runs that were evaluated after ``grace_steps``, and after this many times as many steps, and so on, about
    one in ``reduction_factor`` goes on (ASHA). Larger stops more."""
    share_rewards: Flag = False
    """All runs are scored by the same reward actors, which are started once."""
    seed: Natural = 0
    """Seed of the searcher (Optuna's TPE)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """The values of one key."""

    kind: Kind
    values: tuple[Any, ...]
    """All of them, or the two ends of a range."""

    def __contains__(self, value: object) -> bool:
        """Whether a value may be drawn."""
        if self.kind not in RANGES:
            return value in self.values
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and self.values[0] <= value <= self.values[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """A search: its settings, and how the configuration of a trial is made."""

    content: Mapping[str, Any]
    """What the file says of a run."""
    overrides: Sequence[str]
    """``key=value`` of the command line that are for every run."""
    settings: SearchConfig
    space: Mapping[str, Domain]

    def config(self, values: Mapping[str, Any] | None = None) -> Config:
        """Return the configuration of a run, as if a user had written the values behind the command.

        Raises:
            ConfigError: For a key or value that cannot be.
        """
        drawn = [f"{key}={json.dumps(value)}" for key, value in (values or {}).items()]
        return layered(self.content, [*self.overrides, *drawn])

    @property
    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the grids' values; one empty one where there is no grid."""
        return list(combinations({key: d.values for key, d in self.space.items() if d.kind == "grid"}))

    @property
    def num_trials(self) -> int:
        """Trials in all, in whole grids."""
        if all(domain.kind == "grid" for domain in self.space.values()):
            return len(self.grid)
        return -(-self.settings.num_trials // len(self.grid)) * len(self.grid)

    def to_yaml(self) -> str:
        """Write the whole plan; ``read_plan`` of the file gives an equal one."""
        plan = {"search": asdict(self.settings), "overrides": list(self.overrides), "run": dict(self.content)}
        return OmegaConf.to_yaml(OmegaConf.create(plan))


def load_plan(name_or_path: str, overrides: Sequence[str] = ()) -> SearchPlan:
    """Read a configuration with a search, or a search's directory.

    Args:
        name_or_path: As for ``configs.load.load_config``, or the directory of a search that goes on.
        overrides: ``key=value`` of runs, and ``search.key=value``.

    Raises:
        ConfigError: For a file, key or value that cannot be; one line.
    """
    ours = [override for override in overrides if _is_ours(override)]
    others = [override for override in overrides if not _is_ours(override)]
    if (file := Path(name_or_path) / PLAN).is_file():
        return _gone_on(read_yaml(file), ours, others)
    content = read_yaml(find_config(name_or_path))
    return _plan(content, content.pop(SEARCH, None) or {}, ours, others)


def _gone_on(plan: Mapping[str, Any], ours: Sequence[str], others: Sequence[str]) -> SearchPlan:
    for override in [*others, *ours]:
        key = override.partition("=")[0]
        if key not in [f"{SEARCH}.{name}" for name in GROWS]:
            raise ConfigError(
                f"{key}: a search goes on as it began; only {' and '.join(f'{SEARCH}.{n}' for n in GROWS)} may change"
            )
    return _plan(plan["run"], plan["search"], ours, plan["overrides"])


def _plan(content: Mapping[str, Any], section: Any, ours: Sequence[str], others: Sequence[str]) -> SearchPlan:
    if not isinstance(section, Mapping):
        raise ConfigError(f"{SEARCH}: want keys and values below it, got {section!r}")
    space = _flat(section.get("space") or {}, "")
    merged = dict(section)
    for override in ours:
        layer = parse_override(override)[SEARCH]
        if not isinstance(layer, Mapping):
            raise ConfigError(f"{SEARCH}: want {SEARCH}.key=value, got {override!r}")
        space |= _flat(layer.get("space", {}), "")
        merged |= layer
    settings: SearchConfig = build(SearchConfig, merged | {"space": space}, SEARCH)
    domains = {key: _domain(value, f"{SEARCH}.space.{key}") for key, value in settings.space.items()}
    return SearchPlan(content=content, overrides=others, settings=settings, space=domains)


def with_place(plan: SearchPlan, output_dir: Path, name: str) -> SearchPlan:
    """Return the plan for where its directory lies now."""
    place = [f"output_dir={json.dumps(str(output_dir))}", f"name={json.dumps(name)}"]
    others = [o for o in plan.overrides if o.partition("=")[0] not in ("output_dir", "name")]
    return replace(plan, overrides=[*others, *place])


def combinations(values: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of some keys' values."""
    for row in itertools.product(*values.values()):
        yield dict(zip(values, row, strict=True))


def _is_ours(override: str) -> bool:
    return override.partition("=")[0].split(".")[0] == SEARCH


def _flat(tree: Any, prefix: str) -> dict[str, Any]:
    """Join nested keys with dots, down to what tells a domain."""
    if not isinstance(tree, Mapping) or (prefix and _looks_like_domain(tree)):
        return {prefix: tree}
    out: dict[str, Any] = {}
    for name, value in tree.items():
        out |= _flat(value, f"{prefix}.{name}" if prefix else str(name))
    return out


def _looks_like_domain(tree: Mapping[Any, Any]) -> bool:
    return len(tree) == 1 and isinstance(next(iter(tree.values())), list)


def _domain(value: Any, key: str) -> Domain:
    if not isinstance(value, Mapping) or not _looks_like_domain(value):
        raise ConfigError(
            f"{key}: want one of {', '.join(KINDS)} with a list, e.g. {{log_uniform: [1e-6, 1e-4]}}, got {value!r}"
        )
    ((kind, values),) = value.items()
    if kind not in KINDS:
        raise ConfigError(f"{key}: want one of {', '.join(KINDS)}, got {kind!r}{suggest(str(kind), KINDS)}")
    return Domain(kind=kind, values=tuple(values))
