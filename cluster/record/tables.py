"""The headline of an evaluation as a table: for the terminal, for the README, and rows for the report.

Reads the content of ``eval.json`` (``rl.measure.statistics.summarise_eval``) and knows nothing of how it came about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

from rl.types import JsonDict

ROWS = {"bicubic": "bicubic", "coldstart": "cold start", "grpo": "GRPO"}
"""Rows of ``eval.json`` in the order of the columns, with their headings."""
GAIN = "grpo-coldstart"
REWARDS = ("total", "format", "degradation", "understanding", "generation")
"""The paper's rewards, in the order they are shown; others follow, then the metrics."""
LOWER_IS_BETTER = frozenset(
    ("brisque", "dists", "fid", "gmsd", "ilniqe", "lpips", "mad", "niqe", "nlpd", "pieapp", "piqe", "stlpips")
)
"""pyiqa metrics for which less is better."""
NAMES = {"psnr": "PSNR", "psnry": "PSNR-Y", "ssim": "SSIM", "ssimc": "SSIM-C", "gmsd": "GMSD", "vsi": "VSI"}
NAMES |= {name: name.upper() for name in ("fsim", "vif", "lpips", "dists", "niqe", "piqe", "nlpd", "mad")}
Verdict = Literal["better", "worse", "open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadlineRow:
    """One metric of the table, ready to be shown."""

    metric: str
    label: str
    is_lower_better: bool
    values: tuple[str, ...]
    """Mean of each column, formatted; ``-`` where a column has none."""
    difference: str
    """GRPO minus cold start on the same prompts, with its sign, or ``-``."""
    interval: str
    """95 % interval of the difference, with ``n=`` where not every prompt has both values; or ''."""
    verdict: Verdict
    """Whether the interval lies wholly on the good side of 0, wholly on the bad one, or neither."""
    is_reward: bool

    @property
    def arrow(self) -> str:
        """Return which way is better."""
        return "↓" if self.is_lower_better else "↑"


def columns(evaluation: JsonDict) -> list[str]:
    """Return the rows of ``eval.json`` that are there, known ones first."""
    found = evaluation.get("rows", {})
    return [name for name in ROWS if name in found] + [name for name in found if name not in ROWS]


def headline(evaluation: JsonDict) -> list[HeadlineRow]:
    """Return a row for every metric: rewards first, then PSNR and SSIM, then the other judges."""
    table = evaluation.get("rows", {})
    names = columns(evaluation)
    metrics = {metric: None for name in names for metric in table[name]}
    num_prompts = evaluation.get("num_prompts", 0)
    gains = {
        metric: gain | {"is_partial": gain.get("num", num_prompts) < num_prompts}
        for metric, gain in evaluation.get("paired", {}).get(GAIN, {}).items()
    }
    rewards = _reward_names(table)
    return [
        _row(metric, [table[name].get(metric) for name in names], gains.get(metric), metric in rewards)
        for metric in sorted(metrics, key=lambda metric: _order(metric, metric in rewards))
    ]


def eval_table(evaluation: JsonDict) -> Table:
    """Return the table for a terminal."""
    table = Table(title=caption(evaluation), title_justify="left", caption=legend(), caption_justify="left")
    table.add_column("metric")
    for name in columns(evaluation):
        table.add_column(ROWS.get(name, name), justify="right")
    table.add_column("GRPO - cold start", justify="right")
    table.add_column("95 % interval", justify="right")
    styles: Mapping[Verdict, str] = {"better": "bold green", "worse": "bold red", "open": "dim"}
    was_reward = True
    for row in headline(evaluation):
        if was_reward and not row.is_reward:
            table.add_section()
        was_reward = row.is_reward
        style = styles[row.verdict]
        change = (Text(row.difference, style=style), Text(row.interval, style=style))
        table.add_row(f"{row.label} {row.arrow}", *row.values, *change)
    return table


def eval_markdown(evaluation: JsonDict) -> str:
    """Return the table as Markdown; differences whose interval excludes 0 are bold."""
    headings = ["metric", *(ROWS.get(name, name) for name in columns(evaluation))]
    headings += ["GRPO - cold start", "95 % interval"]
    lines = [_line(headings), "|---|" + "---:|" * (len(headings) - 1)]
    for row in headline(evaluation):
        difference = row.difference if row.verdict == "open" else f"**{row.difference}**"
        lines.append(_line([f"{row.label} {row.arrow}", *row.values, difference, row.interval]))
    return "\n".join([*lines, "", f"{caption(evaluation)}. {legend()}", ""])


def caption(evaluation: JsonDict) -> str:
    """Say what the table was measured on."""
    return f"Means over {evaluation.get('num_prompts', 0)} held-out prompts"


def legend() -> str:
    """Say how to read differences and arrows."""
    return (
        "Differences are paired by prompt, with Student-t intervals. ↑ larger is better, ↓ smaller is better."
    )


def number(value: float | None, like: float | None = None) -> str:
    """Format a value to the digits that matter at the size of ``like`` (the value itself)."""
    if value is None:
        return "-"
    size = abs(value if like is None else like)
    text = f"{value:.{2 if size >= 10 else 3}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _row(
    metric: str, cells: Sequence[JsonDict | None], gain: JsonDict | None, is_reward: bool
) -> HeadlineRow:
    short = metric.rsplit("/", 1)[-1]
    is_lower_better = short in LOWER_IS_BETTER
    means = [None if cell is None else cell["mean"] for cell in cells]
    size = max((abs(mean) for mean in means if mean is not None), default=0.0)
    difference, interval, verdict = _change(gain, size, is_lower_better)
    return HeadlineRow(
        metric=metric,
        label=NAMES.get(short, short.replace("_", " ")),
        is_lower_better=is_lower_better,
        values=tuple(number(mean, size) for mean in means),
        difference=difference,
        interval=interval,
        verdict=verdict,
        is_reward=is_reward,
    )


def _change(gain: JsonDict | None, size: float, is_lower_better: bool) -> tuple[str, str, Verdict]:
    if gain is None:
        return "-", "", "open"
    mean, low, high = gain["mean"], gain.get("low"), gain.get("high")
    difference = number(mean, size)
    if float(difference) > 0:
        difference = f"+{difference}"
    if low is None or high is None:
        return difference, "", "open"
    interval = f"[{number(low, size)}, {number(high, size)}]"
    if gain["is_partial"]:  # prompts whose chains ended early have no picture to judge
        interval += f" n={gain['num']}"
    if low <= 0 <= high:
        return difference, interval, "open"
    return difference, interval, "better" if (mean < 0) == is_lower_better else "worse"


def _reward_names(table: Mapping[str, JsonDict]) -> frozenset[str]:
    """Tell rewards from judges: the paper's by name, and everything under ``reward/``."""
    metrics = {metric for row in table.values() for metric in row}
    return frozenset(metric for metric in metrics if metric in REWARDS or metric.startswith("reward/"))


def _order(metric: str, is_reward: bool) -> tuple[int, int, str]:
    known = REWARDS if is_reward else ("psnr", "psnry", "ssim", "ssimc")
    short = metric.rsplit("/", 1)[-1]
    return (not is_reward, known.index(short) if short in known else len(known), short)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
