"""Recorder of sampled chains: which ones, and their texts, pictures and scores in the run directory.

For people to look at. Chains are recorded before any filter sees them, a bounded number a step. Knows nothing of how
they were made; the report reads what is written here and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from PIL import Image

from cluster.record.run_files import RENAMED, ChainRecord, OldChainRecord, read_as
from configs.schema import Config
from rl.chain.json_form import chain_to_json
from rl.data.pictures import decoded
from rl.errors import DamagedFileError
from rl.types import Chain, FinishedChain, JsonDict, Pixels, Prompt, ScoredGroup

Kind = Literal["train", "eval"]
Model = Literal["start", "now", "train"]
FORMAT = 2
"""Of ``chain.json``. Records without a number, of before, are read too."""
RECORD = "chain.json"
PICTURE_MARK = "<|image|>"
"""What stands for a picture in a chain's text."""
_BLOCK = re.compile(r"<(\w+)>(.*?)</\1>", re.DOTALL)
_LONGEST_NAME = 120


class ChainRecorder:
    """Records chains under ``<run_dir>/chains/step_000012/<group>__<index>/``.

    A chain's folder holds ``chain.json`` and a PNG a picture; it appears whole or not at all. Recording a
    chain again (a resumed run) replaces it. Chains of an evaluation are told apart by their model.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        weights: Mapping[str, float] | None = None,
        final_block: str = "",
        max_chains_per_step: int = 16,
        max_eval_chains: int = 48,
    ) -> None:
        """Remember where and how much; nothing is written before the first chain.

        Args:
            run_dir: The run directory.
            weights: Weight of each reward in ``total``; None weights all by 1.
            final_block: Name of the chain's last picture block; '' where it paints none.
            max_chains_per_step: Most training chains kept of a step.
            max_eval_chains: Most chains kept of an evaluated model and step.
        """
        self._root = run_dir / "chains"
        self._weights = weights
        self._final_block = final_block
        self._limits: Mapping[Kind, int] = {"train": max_chains_per_step, "eval": max_eval_chains}
        self._counts: Counter[tuple[int, Kind, Model]] = Counter()
        for leftover in self._root.glob(".new-*"):
            shutil.rmtree(leftover)

    def record(
        self,
        step: int,
        kind: Kind,
        model: Model,
        chain: Chain,
        pictures: Mapping[str, Pixels],
        prompt: Prompt[Any],
        scores: Mapping[str, float | None],
    ) -> Path | None:
        """Write one chain.

        Args:
            step: Training step, or the step whose weights are evaluated.
            kind: ``train`` or ``eval``.
            model: Which weights wrote it.
            chain: The record.
            pictures: Finished pictures by block.
            prompt: What it answers, with its own pictures.
            scores: Value of each reward in its own unit; None where it has none.

        Returns:
            Its folder, or None where the step has its share already.
        """
        key = (step, kind, model)
        if self._counts[key] >= self._limits[kind]:
            return None
        self._counts[key] += 1
        finished = FinishedChain(
            chain_id=chain.chain_id,
            group_id=chain.group_id,
            prompt=decoded(prompt),
            finish=chain.finish,
            text=chain.text,
            block_text=chain.block_text,
            pictures=pictures,
            final_block=self._final_block,
        )
        record = in_files(finished) | {
            "format": FORMAT,
            "index": chain.index,
            "step": step,
            "kind": kind,
            "model": model,
            "error": chain.error,
            "versions": {policy: list(versions) for policy, versions in chain.versions.items()},
            "rewards": dict(scores),
            "total": _total(scores, self._weights),
        }
        prefix = "" if kind == "train" else f"eval-{model}__"
        folder = self._root / f"step_{step:06d}" / f"{prefix}{file_name(chain.group_id)}__{chain.index}"
        self._write(folder, record, finished.named_pictures)
        return folder

    def _write(self, folder: Path, record: JsonDict, pictures: Mapping[str, Pixels]) -> None:
        """Fill a hidden folder, then move it into place in one step."""
        hidden = self._root / f".new-{os.getpid()}-{folder.name}"
        hidden.mkdir(parents=True)
        for name, pixels in pictures.items():
            Image.fromarray(pixels).save(hidden / picture_file(name))
        (hidden / RECORD).write_text(json.dumps(record, indent=1, allow_nan=False), encoding="utf-8")
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
        hidden.rename(folder)


def chains_to_record(groups: Sequence[ScoredGroup], names: Sequence[str]) -> list[tuple[int, int]]:
    """Choose chains: the first group, so that a group can be looked at, then each reward's best and worst chain.

    Args:
        groups: As scored.
        names: Rewards, in order of importance.

    Returns:
        Group and chain of each, once. Among equals the first chain; invalid scores are no extreme.
    """
    places = [(0, index) for index in range(len(groups[0].chains))] if groups else []
    for name in names:
        scored = [
            (float(group.scores[name].values[index]), (number, index))
            for number, group in enumerate(groups)
            for index in range(len(group.chains))
            if group.scores[name].valid[index]
        ]
        if scored:
            places.append(min(scored, key=lambda entry: (-entry[0], entry[1]))[1])
            places.append(min(scored)[1])
    return list(dict.fromkeys(places))


def most_recorded(config: Config) -> int:
    """Return the most training chains that are recorded of a step."""
    return config.group_size + 2 * len(config.rewards)


def file_name(name: str) -> str:
    """Return a name that is safe as a file's: ``/`` becomes ``+``, equal only for equal names."""
    safe = quote(name, safe="").replace("%2F", "+")
    if len(safe) <= _LONGEST_NAME:
        return safe
    digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    return f"{safe[: _LONGEST_NAME - 17]}-{digest}"


def picture_file(name: str) -> str:
    """Return the name of the file a picture is kept in."""
    return f"{file_name(name)}.png"


def in_files(chain: FinishedChain[Any]) -> JsonDict:
    """Return a chain's JSON form, in which a picture is the name of its file."""
    prompt = replace(chain.prompt, pictures={name: picture_file(name) for name in chain.prompt.pictures})
    pictures = {name: picture_file(name) for name in chain.pictures}
    return chain_to_json(replace(chain, prompt=prompt, pictures=pictures))


def read_record(folder: Path) -> JsonDict:
    """Read what was recorded of a chain, in the present form whatever it was written in.

    Raises:
        DamagedFileError: If it is damaged, or a newer version wrote it.
    """
    path = folder / RECORD
    number = read_as(path, dict[str, Any]).get("format")
    if number is None:
        return _modernised({**read_as(path, OldChainRecord)})
    if isinstance(number, int) and number > FORMAT:
        raise DamagedFileError(f"{path}: is of format {number}, this version reads {FORMAT}")
    return {**read_as(path, ChainRecord)}


def _modernised(record: JsonDict) -> JsonDict:
    """Bring a record of before formats were numbered, when every prompt was a photograph, to the present form."""
    files = {name: picture_file(name) for name in record.pop("pictures")}
    shown, truth = "degraded", "truth"
    record["prompt"] = {
        "prompt_id": record.pop("prompt_id"),
        "messages": [],
        "tokens": [],
        "pictures": {name: files.pop(name) for name in (shown, truth) if name in files},
        "shown": [shown],
        "reference": {key: record.pop(key) for key in ("labels", "tags")},
    }
    model = RENAMED.get(record["model"], record["model"])
    return record | {"format": FORMAT, "pictures": files, "model": model}


def block_texts(text: str) -> dict[str, str]:
    """Return the body of every closed text block of a chain, in order."""
    return {name: body for name, body in _BLOCK.findall(text) if PICTURE_MARK not in body}


def _total(scores: Mapping[str, float | None], weights: Mapping[str, float] | None) -> float | None:
    """Add weighted scores; undefined (None) where one that counts is not there."""
    total = 0.0
    for name, value in scores.items():
        weight = 1.0 if weights is None else weights.get(name, 0.0)
        if weight == 0.0:
            continue
        if value is None:
            return None
        total += weight * value
    return total
