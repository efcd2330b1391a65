"""Tables of an evaluation, with what it has and no empty columns: for the terminal, as Markdown, and for the report.

Reads the content of ``eval.json`` (``rl.measure.statistics.summarise_eval``) and knows nothing of how it came about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cluster.record.run_files import DRAWN
from rl.measure.statistics import BICUBIC, GAIN, NOW, REAL_ESRGAN, ROUND_TRIP, START
from rl.types import JsonDict

ROWS = (BICUBIC, REAL_ESRGAN, ROUND_TRIP, START, NOW)
"""Rows of ``eval.json`` in the order of the columns; others follow."""
TOTAL = "total"
REWARDS = (TOTAL, "format", "degradation", "understanding", "generation")
"""The paper's rewards, in the order they are shown; the run's own follow, then ``eval.metrics``."""
LOWER_IS_BETTER = frozenset(
    ("brisque", "dists", "fid", "gmsd", "ilniqe", "lpips", "mad", "niqe", "nlpd", "pieapp", "piqe", "stlpips")
)
"""pyiqa metrics for which less is better."""
NAMES = {"psnr": "PSNR", "psnry": "PSNR-Y", "ssim": "SSIM", "ssimc": "SSIM-C", "gmsd": "GMSD", "vsi": "VSI"}
NAMES |= {name: name.upper() for name in ("fsim", "vif", "lpips", "dists", "niqe", "piqe", "nlpd", "mad")}
LEGEND = (
    "Differences are paired by prompt, with Student-t intervals. ↑ larger is better, ↓ smaller is better."
)
Verdict = Literal["better", "worse", "open"]
_STYLES: Mapping[Verdict, str] = {"better": "bold green", "worse": "bold red", "open": "dim"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRow:
    """One metric, ready to be shown."""

    metric: str
    label: str
    """With an arrow that says which way is better."""
    values: tuple[str, ...]
    """Mean of each row of ``eval.json``, formatted; ``-`` where it has none."""
    difference: str
    """Now minus start on the same prompts, with its sign, or ``-``."""
    interval: str
    """95 % interval of the difference, with ``n=`` where not every prompt has both values; or ''."""
    verdict: Verdict
    """Whether the interval lies wholly on the good side of 0, wholly on the bad one, or neither."""
    is_reward: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalTable:
    """One way of answering the held-out prompts."""

    caption: str
    columns: tuple[str, ...]
    """Headings of ``EvalRow.values``."""
    has_gain: bool
    """Whether there is a start to be compared with."""
    rows: tuple[EvalRow, ...]
    """Rewards first, then PSNR and SSIM, then the other metrics."""

    @property
    def headings(self) -> tuple[str, ...]:
        """Headings of all columns."""
        return ("metric", *self.columns, *((f"{NOW} - {START}", "95 % interval") if self.has_gain else ()))


def eval_tables(evaluation: JsonDict) -> list[EvalTable]:
    """Return the table of greedy answers, and that of drawn ones where there were any; [] for no evaluation."""
    tables = [_table(evaluation, evaluation, "")]
    if drawn := evaluation.get(DRAWN):
        num = drawn["num_samples"]
        tables.append(_table(drawn, evaluation, f", {num} answers each, drawn at the policies' temperature"))
    return [table for table in tables if table.rows]


def terminal_tables(evaluation: JsonDict) -> Group:
    """Return the tables for a terminal."""
    shown = []
    for content in eval_tables(evaluation):
        table = Table(title=content.caption, title_justify="left", caption=LEGEND, caption_justify="left")
        for index, heading in enumerate(content.headings):
            table.add_column(heading, justify="right" if index else "left")
        was_reward = True
        for row in content.rows:
            if was_reward and not row.is_reward:
                table.add_section()
            was_reward = row.is_reward
            style = _STYLES[row.verdict]
            gain = (Text(row.difference, style=style), Text(row.interval, style=style))
            table.add_row(row.label, *row.values, *(gain if content.has_gain else ()))
        shown.append(table)
    return Group(*shown)


def eval_markdown(evaluation: JsonDict) -> str:
    """Return the tables as Markdown; differences whose interval excludes 0 are bold."""
    parts = []
    for table in eval_tables(evaluation):
        lines = [_line(table.headings), "|---|" + "---:|" * (len(table.headings) - 1)]
        for row in table.rows:
            difference = row.difference if row.verdict == "open" else f"**{row.difference}**"
            gain = (difference, row.interval) if table.has_gain else ()
            lines.append(_line([row.label, *row.values, *gain]))
        parts.append("\n".join([*lines, "", f"{table.caption}. {LEGEND}", ""]))
    return "\n".join(parts)


def number(value: float | None, like: float | None = None) -> str:
    """Format a value to the digits that matter at the size of ``like`` (the value itself)."""
    if value is None:
        return "-"
    size = abs(value if like is None else like)
    text = f"{value:.{2 if size >= 10 else 3}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _table(content: JsonDict, evaluation: JsonDict, how: str) -> EvalTable:
    """Lay out one way of answering.

    Args:
        content: Its rows and pairs.
        evaluation: The whole file, which names the rewards.
        how: What the caption adds.
    """
    cells: Mapping[str, Mapping[str, JsonDict]] = content.get("rows", {})
    names = [name for name in (*ROWS, *(cells.keys() - set(ROWS))) if cells.get(name)]
    num_prompts = content.get("num_prompts", 0)
    gains = content.get("paired", {}).get(GAIN, {})
    rewards = (*REWARDS, *evaluation.get("rewards", ()))
    metrics = dict.fromkeys(metric for name in names for metric in cells[name])
    rows = [
        _row(
            metric,
            [cells[name].get(metric) for name in names],
            gains.get(metric),
            num_prompts=num_prompts,
            is_reward=metric in rewards or metric.startswith("reward/"),
        )
        for metric in metrics
    ]
    return EvalTable(
        caption=f"Means over {num_prompts} held-out prompts{how}",
        columns=tuple(names),
        has_gain=bool(gains),
        rows=tuple(sorted(rows, key=_order)),
    )


def _row(
    metric: str, cells: Sequence[JsonDict | None], gain: JsonDict | None, *, num_prompts: int, is_reward: bool
) -> EvalRow:
    short = metric.rsplit("/", 1)[-1]
    is_lower_better = short in LOWER_IS_BETTER
    means = [None if cell is None else cell["mean"] for cell in cells]
    size = max((abs(mean) for mean in means if mean is not None), default=0.0)
    difference, interval, verdict = _change(gain, size, num_prompts, is_lower_better)
    return EvalRow(
        metric=metric,
        label=f"{NAMES.get(short, short.replace('_', ' '))} {'↓' if is_lower_better else '↑'}",
        values=tuple(number(mean, size) for mean in means),
        difference=difference,
        interval=interval,
        verdict=verdict,
        is_reward=is_reward,
    )


def _change(
    gain: JsonDict | None, size: float, num_prompts: int, is_lower_better: bool
) -> tuple[str, str, Verdict]:
    if gain is None:
        return "-", "", "open"
    mean, low, high = gain["mean"], gain.get("low"), gain.get("high")
    difference = number(mean, size)
    if float(difference) > 0:
        difference = f"+{difference}"
    if low is None or high is None:
        return difference, "", "open"
    interval = f"[{number(low, size)}, {number(high, size)}]"
    if (
        gain.get("num", num_prompts) < num_prompts
    ):  # prompts whose chains ended early have no picture to judge
        interval += f" n={gain['num']}"
    if low <= 0 <= high:
        return difference, interval, "open"
    return difference, interval, "better" if (mean < 0) == is_lower_better else "worse"


def _order(row: EvalRow) -> tuple[int, int, str]:
    known = REWARDS if row.is_reward else ("psnr", "psnry", "ssim", "ssimc")
    short = row.metric.rsplit("/", 1)[-1]
    return (not row.is_reward, known.index(short) if short in known else len(known), short)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
