"""TensorBoard: event files in ``<run>/tensorboard``; look with ``tensorboard --logdir runs``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cluster.record.run_data import RecordedChain, picture_names
from cluster.record.trackers.base import Outcome, RunFacts, Tracker
from rl.types import JsonDict, Metrics


class TensorBoardTracker(Tracker):
    """Writes scalars, the configuration as text, and a step's chains as a table and pictures."""

    def begin(self, run: RunFacts, kept: JsonDict) -> JsonDict:
        """Open the event files; steps of an earlier attempt from here on are purged."""
        from torch.utils.tensorboard import SummaryWriter

        folder = run.run_dir / "tensorboard"
        purge = run.first_step if kept else None
        self._writer: Any = SummaryWriter(str(folder), purge_step=purge)
        if not kept:
            rows = "\n".join(f"    {line}" for line in _yaml(run.config).splitlines())
            self._writer.add_text("config", rows, 0)
            self._writer.add_text("code", str(run.code), 0)
        self._writer.flush()
        return {"url": str(folder)}

    def log(self, step: int, metrics: Metrics) -> None:
        """Write the scalars."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def chains(self, step: int, chains: Sequence[RecordedChain]) -> None:
        """Write a table of the chains, and each one's pictures side by side."""
        rows = ["| chain | total | rewards | finish | text |", "|---|---|---|---|---|"]
        for chain in chains:
            record = chain.record
            rewards = ", ".join(f"{k} {_number(v)}" for k, v in record["rewards"].items())
            cells = [record["chain_id"], _number(chain.total), rewards, record["finish"], record["text"]]
            rows.append("| " + " | ".join(_cell(text) for text in cells) + " |")
        self._writer.add_text("chains", "\n".join(rows), step)
        for index, chain in enumerate(chains):
            self._writer.add_image(f"chains/{index:02d}", _strip(chain), step, dataformats="HWC")
        self._writer.flush()

    def end(self, outcome: Outcome) -> None:
        """Close the files."""
        self._writer.close()


def _strip(chain: RecordedChain) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the prompt's and the chain's pictures in a row, ``[H, W, 3]``, on white."""
    names = [name for name in (*chain.shown, *picture_names(chain), *chain.hidden) if chain.has(name)]
    pictures = [np.asarray(chain.open(name)) for name in names]
    height = max(picture.shape[0] for picture in pictures)
    padded = [np.pad(p, ((0, height - p.shape[0]), (0, 2), (0, 0)), constant_values=255) for p in pictures]
    return np.concatenate(padded, axis=1)


def _yaml(config: JsonDict) -> str:
    import yaml

    return yaml.safe_dump(config, sort_keys=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _cell(text: str) -> str:
    """Escape what Markdown and HTML would take for their own."""
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return safe.replace("|", "\\|").replace("\n", " ")
