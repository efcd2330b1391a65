"""Chains as a reader sees them: each text beside the picture it led to, right and wrong words marked.

Pure but for opening pictures. Which words are right is said by the rewards' own rules; the scores shown are
those that were recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from cluster.record.run_data import RecordedChain, Run, data_uri, picture_names
from cluster.record.tables import number
from cluster.report.text import Slot, Span, mark_markup, mark_tags, pair_slots, split_blocks
from rl.measure.statistics import BICUBIC, NOW, START
from rl.restoration.names import DEGRADED, LABELS, TAGS, TRUTH
from rl.types import JsonDict

DEGRADATION = "degradation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One text block."""

    name: str
    spans: Sequence[Span] = ()
    slots: Sequence[Slot] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture to show, at its own size in pixels and as data."""

    uri: str
    width: int
    height: int
    notes: Sequence[str] = ()


@dataclass(slots=True, kw_only=True)
class Column:
    """A picture and what was written before it."""

    title: str
    picture: Picture | None = None
    notes: list[Note] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One chain."""

    heading: str
    chain_id: str
    step: int
    finish: str
    error: str
    total: str
    rewards: Sequence[tuple[str, str]]
    columns: Sequence[Column]
    tags: Sequence[tuple[str, bool]]
    """Things in the photo, and whether the text names them."""
    raw: Sequence[Span]
    """Everything written, tags marked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Pictures of one photograph, side by side."""

    title: str
    columns: Sequence[Column]


def chain_cards(run: Run) -> list[Card]:
    """Return the newest step's best and worst chain, the first step's, and the run's, each once."""
    scored = [chain for chain in run.training if chain.total is not None] or run.training
    if not scored:
        return []
    first, newest = scored[0].step, max(chain.step for chain in scored)
    chosen: dict[str, RecordedChain] = {}
    pools = {
        f"newest step ({newest})": [chain for chain in scored if chain.step == newest],
        f"first step ({first})": [chain for chain in scored if chain.step == first],
        "run": scored,
    }
    for name, pool in pools.items():
        ranked = sorted(pool, key=_rank)
        chosen.setdefault(f"Best of the {name}", ranked[-1])
        chosen.setdefault(f"Worst of the {name}", ranked[0])
    cards, seen = [], set()
    for heading, chain in chosen.items():
        if chain.folder not in seen:
            seen.add(chain.folder)
            cards.append(_card(run, heading, chain))
    return cards


def group_strip(run: Run) -> Strip | None:
    """Return the final pictures of one group of the newest step, best first: what GRPO compares."""
    if not run.training:
        return None
    newest = max(chain.step for chain in run.training)
    groups: dict[str, list[RecordedChain]] = {}
    for chain in run.training:
        if chain.step == newest:
            groups.setdefault(chain.record["group_id"], []).append(chain)
    name, group = max(groups.items(), key=lambda item: (len(item[1]), item[0]))
    columns = [
        Column(title=number(chain.total), picture=last_picture(run, chain, ()))
        for chain in sorted(group, key=_rank, reverse=True)
    ]
    return Strip(title=f"{name}, step {newest}", columns=columns) if len(columns) > 1 else None


def held_out_strips(run: Run, most: int = 8) -> list[Strip]:
    """Return degraded | bicubic | start | now | truth for held-out photographs, each in turn."""
    models: dict[str, dict[str, RecordedChain]] = {}
    for chain in sorted(run.chains, key=lambda chain: chain.step):
        if chain.record.get("kind") == "eval":
            models.setdefault(chain.prompt_id, {})[chain.record["model"]] = chain
    measured = run.evaluation.get("prompts", {})
    return [
        _held_out(run, prompt_id, models[prompt_id], measured.get(prompt_id, {}))
        for prompt_id in take_turns(sorted(models))[:most]
    ]


def take_turns(prompt_ids: Sequence[str]) -> list[str]:
    """Order prompts so that each photograph (the part before the first ``/``) shows one crop in turn."""
    seen: Counter[str] = Counter()
    turns = []
    for prompt_id in prompt_ids:
        photo = prompt_id.split("/", 1)[0]
        turns.append((seen[photo], prompt_id))
        seen[photo] += 1
    return [prompt_id for _, prompt_id in sorted(turns)]


def _card(run: Run, heading: str, chain: RecordedChain) -> Card:
    record = chain.record
    written = " ".join(body or "" for _, body in split_blocks(record["text"]))
    tags = chain.words(TAGS)
    found = {span.text.lower() for span in mark_tags(written, tags) if span.mark}
    return Card(
        heading=heading,
        chain_id=record["chain_id"],
        step=chain.step,
        finish=record["finish"],
        error=record["error"],
        total=number(chain.total),
        rewards=[(name, number(value)) for name, value in record["rewards"].items()],
        columns=_columns(run, chain),
        tags=[(tag, tag.lower() in found) for tag in tags],
        raw=mark_markup(record["text"]),
    )


def _columns(run: Run, chain: RecordedChain) -> list[Column]:
    """Lay the chain out: a text block goes under the picture that follows it, all others under the input."""
    record = chain.record
    columns = [Column(title=DEGRADED, picture=_picture(run, chain, DEGRADED))]
    waiting: list[Note] = []
    for name, body in split_blocks(record["text"]):
        if body is not None:
            waiting.append(_note(name, body, chain))
            continue
        columns[-1 if len(columns) > 1 else 0].notes += waiting[:-1]
        picture = _picture(run, chain, name)
        columns.append(Column(title=name.replace("_", " "), picture=picture, notes=waiting[-1:]))
        waiting = []
    if waiting:
        columns[0].notes += waiting[:1] if len(columns) == 1 else []
        rest = waiting[1:] if len(columns) == 1 else waiting
        columns += [Column(title="no picture", notes=rest)] if rest else []
    if chain.has(TRUTH):
        columns.append(Column(title=TRUTH, picture=_picture(run, chain, TRUTH)))
    return columns


def _note(name: str, body: str, chain: RecordedChain) -> Note:
    if name == DEGRADATION:
        return Note(name=name, slots=pair_slots(body, chain.words(LABELS)))
    return Note(name=name or "outside any block", spans=mark_tags(body, chain.words(TAGS)))


def _held_out(run: Run, prompt_id: str, chains: dict[str, RecordedChain], measured: JsonDict) -> Strip:
    some = next(iter(chains.values()))
    columns = [Column(title=DEGRADED, picture=_picture(run, some, DEGRADED))]
    degraded, truth = run.picture(some, DEGRADED), run.picture(some, TRUTH)
    if degraded is not None and truth is not None:
        bicubic = degraded.resize(truth.size, Image.Resampling.BICUBIC)
        columns.append(Column(title=BICUBIC, picture=embed(bicubic, _quality(measured, BICUBIC))))
    for model in (START, NOW):
        picture = last_picture(run, chains[model], _quality(measured, model)) if model in chains else None
        columns.append(Column(title=model, picture=picture))
    if some.has(TRUTH):
        columns.append(Column(title=TRUTH, picture=_picture(run, some, TRUTH)))
    return Strip(title=prompt_id, columns=columns)


def last_picture(run: Run, chain: RecordedChain, quality: Sequence[str]) -> Picture | None:
    """Return the chain's last picture; a chain that ended early says so instead of its quality."""
    pictures = picture_names(chain)
    if not pictures:
        return None
    is_whole = chain.record["finish"] == "stop"
    return _picture(run, chain, pictures[-1], quality if is_whole else ("ended early",))


def _quality(measured: JsonDict, row: str) -> list[str]:
    values = measured.get(row, {})
    forms = {"psnr": "{:.1f} dB", "ssim": "SSIM {:.3f}"}
    return [form.format(values[name]) for name, form in forms.items() if values.get(name) is not None]


def _picture(run: Run, chain: RecordedChain, name: str, notes: Sequence[str] = ()) -> Picture | None:
    image = run.picture(chain, name)
    return None if image is None else embed(image, notes)


def embed(image: Image.Image, notes: Sequence[str] = ()) -> Picture:
    """Return a picture to show, with lines to stand under it."""
    return Picture(uri=data_uri(image), width=image.width, height=image.height, notes=notes)


def _rank(chain: RecordedChain) -> tuple[float, str]:
    return (float("-inf") if chain.total is None else chain.total, chain.record["chain_id"])
