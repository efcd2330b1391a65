"""Tables of ``vlcot rewards``: of rewards, experts and scores."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from cluster.runtime.console import CONSOLE, make_table
from rewards.base import Reward
from rewards.experts.catalogue import Metric, catalogue
from rl.errors import ConfigError

Row = tuple[str, float | None, str]
"""Picture, its score in the reward's own unit, and why there is none."""


def row_of(metric: Metric) -> tuple[str, ...]:
    """Say what pyiqa says of a metric, in the words of the list."""
    return (
        metric.name,
        "folders" if metric.of_sets else "the truth" if metric.full_reference else "nothing",
        "smaller" if metric.lower_better else "larger",
        metric.range_text,
        metric.colours,
        "needed" if metric.has_weights else "none",
    )


def expert_info(name: str, options: Mapping[str, Any]) -> None:
    """Print what a metric is, whether it can be used here, and its smallest picture."""
    from rewards.experts.expert import LARGEST_PX, Expert, smallest_px
    from rewards.experts.picture_metrics import METRIC_OPTIONS

    metric = catalogue()[name]
    table = make_table(f"pyiqa {name} ({metric.architecture})")
    head = ("compares with", "better", "range", "measures", "weights")
    for key, value in zip(head, row_of(metric)[1:], strict=True):
        table.add_row(key, value)
    table.add_row("options", json.dumps({**metric.options, **METRIC_OPTIONS.get(name, {})}))
    weights = options.get("weights")
    expert = Expert(
        name, weights=weights, options=options.get("options") or METRIC_OPTIONS.get(name), device="cpu"
    )
    try:
        expert.check()
        smallest = smallest_px(expert)
        table.add_row("here", "loads")
        table.add_row(
            "smallest picture", f"{smallest} px (measured)" if smallest else f"above {LARGEST_PX} px"
        )
    except ConfigError as error:
        table.add_row("here", f"cannot be used: {error}")
        table.add_row("smallest picture", "not measured")
    CONSOLE.print(table)


def declarations(reward: Any) -> dict[str, str]:
    """What a reward or its class declares; a property of the class is only known of an instance."""
    rows = {
        "needs": words(reward.needs),
        "unit": reward.unit,
        "range": f"{reward.low:g} to {reward.high:g}",
        "better": "larger" if reward.larger_is_better else "smaller",
        "deterministic": "yes" if reward.deterministic else "no",
    }
    if isinstance(reward, Reward):
        rows["missing"] = f"{reward.missing:g}"
    return rows


def print_scores(reward: Reward, name: str, rows: Iterable[Row]) -> None:
    """Print a table of scores with their mean."""
    better = "larger" if reward.larger_is_better else "smaller"
    table = make_table("", "picture", f"{name} ({reward.unit}, {better} is better)", "")
    values = []
    for picture, value, why in rows:
        table.add_row(picture, "-" if value is None else f"{value:.4f}", why)
        values += [] if value is None else [value]
    if values:
        mean = math.fsum(values) / len(values)
        table.add_section()
        table.add_row(f"mean of {len(values)}", f"{mean:.4f}", "")
    CONSOLE.print(table)


def words(needs: Iterable[str]) -> str:
    """List needs, sorted."""
    return ", ".join(sorted(needs))


def first_line(thing: Any) -> str:
    """Return the summary of a docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]
