"""Chains as a reader sees them: each text beside the picture it led to, the prompt before and the truth behind.

A chain without pictures shows what was asked, what was written and what is known of the answer. The scores shown are
those that were recorded.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from PIL import Image

from cluster.record.recorder import PICTURE_MARK
from cluster.record.run_data import RecordedChain, Run, data_uri, picture_names
from cluster.record.tables import number
from cluster.report.restoration import Slot, mark_note, named_tags
from cluster.report.spans import Span, mark_markup
from rl.measure.statistics import BICUBIC, NOW, START
from rl.restoration.names import DEGRADED, TRUTH
from rl.types import JsonDict

_MOST_STRIPS = 8
ASKED = "prompt"
"""Reference value that is what the data file asks: the messages say it."""
_LONGEST_VALUE = 400
"""Characters of a reference value that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One text."""

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
    """A picture and what was written before it, or texts alone."""

    title: str
    picture: Picture | None = None
    has_frame: bool = True
    """Whether a picture belongs here: one that is missing leaves an empty frame."""
    notes: list[Note] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One chain."""

    heading: str
    chain: RecordedChain
    columns: Sequence[Column]
    tags: Sequence[tuple[str, bool]]
    """Things in the photo, and whether the text names them."""
    raw: Sequence[Span]
    """Everything written, tags marked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Answers to one prompt, side by side."""

    title: str
    columns: Sequence[Column]


# --------------------------------------------------------------------------------- which chains


def chain_cards(run: Run) -> list[Card]:
    """Return the newest step's best and worst chain, the first step's, and the run's, each once."""
    scored = [chain for chain in run.training if chain.total is not None] or run.training
    if not scored:
        return []
    first, newest = scored[0].step, max(chain.step for chain in scored)
    pools = {
        f"newest step ({newest})": [chain for chain in scored if chain.step == newest],
        f"first step ({first})": [chain for chain in scored if chain.step == first],
        "run": scored,
    }
    cards: dict[str, Card] = {}
    for name, pool in pools.items():
        ranked = rank(pool, lambda chain: chain.total)
        for word, chain in (("Best", ranked[-1]), ("Worst", ranked[0])):
            cards.setdefault(str(chain.folder), _card(run, f"{word} of the {name}", chain))
    return list(cards.values())


def group_strip(run: Run) -> Strip | None:
    """Return the answers of one group of the newest step, best first: what GRPO compares."""
    if not run.training:
        return None
    newest = max(chain.step for chain in run.training)
    groups: dict[str, list[RecordedChain]] = {}
    for chain in run.training:
        if chain.step == newest:
            groups.setdefault(chain.record["group_id"], []).append(chain)
    name, group = max(groups.items(), key=lambda item: (len(item[1]), item[0]))
    ranked = rank(group, lambda chain: chain.total)
    columns = [answer_column(run, chain, number(chain.total)) for chain in reversed(ranked)]
    return Strip(title=f"{name}, step {newest}", columns=columns) if len(columns) > 1 else None


def held_out_strips(run: Run) -> list[Strip]:
    """Return prompt | bicubic | start | now | truth for held-out prompts, as far as they are there, each in turn."""
    models: dict[str, dict[str, RecordedChain]] = {}
    for chain in sorted(run.chains, key=lambda chain: chain.step):
        if chain.record.get("kind") == "eval":
            models.setdefault(chain.prompt_id, {})[chain.record["model"]] = chain
    measured = run.evaluation.get("prompts", {})
    return [
        _held_out(run, prompt_id, models[prompt_id], measured.get(prompt_id, {}))
        for prompt_id in take_turns(sorted(models))[:_MOST_STRIPS]
    ]


def rank(
    chains: Sequence[RecordedChain], value_of: Callable[[RecordedChain], float | None]
) -> list[RecordedChain]:
    """Return chains from the worst to the best by some value; those that have none come first."""

    def key(chain: RecordedChain) -> tuple[float, str]:
        value = value_of(chain)
        return (-math.inf if value is None else value, chain.record["chain_id"])

    return sorted(chains, key=key)


def take_turns(prompt_ids: Sequence[str]) -> list[str]:
    """Order prompts so that each photograph (the part before the first ``/``) shows one crop in turn."""
    seen: Counter[str] = Counter()
    turns = []
    for prompt_id in prompt_ids:
        photo = prompt_id.split("/", 1)[0]
        turns.append((seen[photo], prompt_id))
        seen[photo] += 1
    return [prompt_id for _, prompt_id in sorted(turns)]


# --------------------------------------------------------------------------------- how they are laid out


def _card(run: Run, heading: str, chain: RecordedChain) -> Card:
    return Card(
        heading=heading,
        chain=chain,
        columns=_columns(run, chain),
        tags=named_tags(chain, " ".join(body or "" for _, body in split_blocks(chain.text))),
        raw=mark_markup(chain.text),
    )


def _columns(run: Run, chain: RecordedChain) -> list[Column]:
    """Lay the chain out: a text block goes under the picture that follows it, all others under the prompt."""
    columns = prompt_columns(run, chain)
    if not chain.paints:
        return [*columns, answer_column(run, chain, "answer"), *truth_columns(run, chain)]
    num_shown = len(columns)
    waiting: list[Note] = []
    for name, body in split_blocks(chain.text):
        if body is not None:
            spans, slots = mark_note(name, body, chain)
            waiting.append(Note(name=name or "outside any block", spans=spans, slots=slots))
            continue
        columns[-1 if len(columns) > num_shown else 0].notes += waiting[:-1]
        picture = _picture(run, chain, name)
        columns.append(Column(title=name.replace("_", " "), picture=picture, notes=waiting[-1:]))
        waiting = []
    if waiting and len(columns) == num_shown:
        columns[0].notes.append(waiting.pop(0))
    if waiting:
        columns.append(Column(title="no picture", notes=waiting))
    return columns + truth_columns(run, chain)


def prompt_columns(run: Run, chain: RecordedChain) -> list[Column]:
    """Return what the policies saw: the pictures that the prompt shows, and what it asks where the answer is text."""
    pictures = [Column(title=name, picture=_picture(run, chain, name)) for name in chain.shown]
    if pictures and chain.paints:
        return pictures
    asked = [Note(name=role, spans=[Span(text)]) for role, text in chain.messages]
    return [*pictures, Column(title="prompt", has_frame=False, notes=asked)]


def truth_columns(run: Run, chain: RecordedChain) -> list[Column]:
    """Return what is known of the answer: the prompt's other pictures; its values where nothing is painted."""
    pictures = [Column(title=name, picture=_picture(run, chain, name)) for name in chain.hidden]
    if chain.paints or not chain.references:
        return pictures
    known = [
        Note(name=name, spans=[Span(_cut(value))])
        for name, value in chain.references.items()
        if name != ASKED and value is not None
    ]
    return [*pictures, Column(title="known", has_frame=False, notes=known)]


def answer_column(run: Run, chain: RecordedChain, title: str, notes: Sequence[str] = ()) -> Column:
    """Return a chain's last picture with lines under it, or its text where it paints none.

    A chain that ended early says so.
    """
    if not chain.paints:
        lines = [Note(name=line) for line in notes]
        return Column(
            title=title, has_frame=False, notes=[*lines, Note(name="", spans=mark_markup(chain.text))]
        )
    pictures = picture_names(chain)
    early = [] if chain.record["finish"] == "stop" else ["ended early"]
    picture = _picture(run, chain, pictures[-1], [*notes, *early]) if pictures else None
    return Column(title=title, picture=picture)


def _held_out(run: Run, prompt_id: str, chains: dict[str, RecordedChain], measured: JsonDict) -> Strip:
    some = next(iter(chains.values()))
    columns = prompt_columns(run, some)
    degraded, truth = run.picture(some, DEGRADED), run.picture(some, TRUTH)
    if degraded is not None and truth is not None:
        bicubic = degraded.resize(truth.size, Image.Resampling.BICUBIC)
        columns.append(Column(title=BICUBIC, picture=embed(bicubic, _quality(measured, BICUBIC))))
    for model in (START, NOW):
        if model in chains:
            is_whole = chains[model].record["finish"] == "stop"
            quality = _quality(measured, model) if is_whole else ()
            columns.append(answer_column(run, chains[model], model, quality))
    return Strip(title=prompt_id, columns=columns + truth_columns(run, some))


def split_blocks(text: str) -> list[tuple[str, str | None]]:
    """Return (name, body) of each block in order; the body of a picture block, None.

    An unclosed block keeps what was written of it; text outside blocks has no name.
    """
    blocks: list[tuple[str, str | None]] = []
    rest = text
    while rest:
        match = re.match(r"<(\w+)>", rest)
        if match is None:
            end = rest.find("<", 1)
            outside, rest = (rest, "") if end < 0 else (rest[:end], rest[end:])
            blocks.append(("", outside))
            continue
        name = match.group(1)
        inside, _, rest = rest[match.end() :].partition(f"</{name}>")
        blocks.append((name, None if PICTURE_MARK in inside else inside))
    return [(name, body) for name, body in blocks if name or (body or "").strip()]


def _quality(measured: JsonDict, row: str) -> list[str]:
    values = measured.get(row, {})
    forms = {"psnr": "{:.1f} dB", "ssim": "SSIM {:.3f}"}
    return [form.format(values[name]) for name, form in forms.items() if values.get(name) is not None]


def _picture(run: Run, chain: RecordedChain, name: str, notes: Sequence[str] = ()) -> Picture | None:
    image = run.picture(chain, name)
    return None if image is None else embed(image, notes)


def embed(image: Image.Image, notes: Sequence[str]) -> Picture:
    """Return a picture to show, with lines to stand under it."""
    return Picture(uri=data_uri(image), width=image.width, height=image.height, notes=notes)


def _cut(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
