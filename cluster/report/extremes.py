"""Extremes in a report: best and worst chains by reward, at the start and at the end: what each reward really likes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.record.run_data import RecordedChain, Run
from cluster.record.tables import number
from cluster.report.chains import Column, Strip, answer_column, truth_columns
from cluster.report.components import components, is_judge
from cluster.report.spans import Span, mark_markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Extreme:
    """A reward's best and worst recorded chains."""

    name: str
    is_judge: bool
    strip: Strip
    texts: Sequence[tuple[str, Sequence[Span]]]
    """Title of each chain and everything it wrote."""


def extremes(run: Run) -> list[Extreme]:
    """Return every reward's best and worst chain of the first and of the newest recorded step."""
    return [extreme for name in components(run) if (extreme := _extreme(run, name))]


def _extreme(run: Run, name: str) -> Extreme | None:
    scored = [chain for chain in run.training if chain.score(name) is not None]
    if not scored:
        return None
    columns, texts = list[Column](), []
    for step in dict.fromkeys((scored[0].step, scored[-1].step)):
        ranked = sorted((c for c in scored if c.step == step), key=lambda chain: _rank(chain, name))
        for word, chain in (("best", ranked[-1]), ("worst", ranked[0])):
            title, value = f"{word}, step {step}", number(chain.score(name))
            notes = [value, f"total {number(chain.total)}"]
            columns += [answer_column(run, chain, title, notes), *truth_columns(run, chain)]
            texts.append(
                (f"{title}: {value} · {chain.record['chain_id']}", mark_markup(chain.record["text"]))
            )
    strip = Strip(title=name, columns=columns)
    return Extreme(name=name, is_judge=is_judge(run, name), strip=strip, texts=texts)


def _rank(chain: RecordedChain, name: str) -> tuple[float, str]:
    return (chain.score(name) or 0.0, chain.record["chain_id"])
