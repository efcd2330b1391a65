"""Weights & Biases, through its own variables (WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE, WANDB_API_KEY, ...)."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from typing import Any

from cluster.record.run_data import RecordedChain, picture_names
from cluster.record.trackers.base import Outcome, RunFacts, Tracker
from rl.errors import ConfigError
from rl.types import JsonDict, Metrics

PROJECT = "vlcot"
"""Unless WANDB_PROJECT names another."""
_WITHOUT_LOGIN = ("offline", "dryrun", "disabled")


class WandbTracker(Tracker):
    """Logs scalars over ``step``, the configuration, and a table of chains with pictures a step."""

    def check(self) -> None:
        """Refuse a machine that is not logged in: the library would ask a question in the middle of a run.

        Raises:
            ConfigError: Names the ways out.
        """
        if os.environ.get("WANDB_MODE", "online").lower() in _WITHOUT_LOGIN:
            return
        import wandb

        if not wandb.login(verify=False, prompt=False):
            raise ConfigError(
                "trackers: wandb is not logged in; run `wandb login`, set WANDB_API_KEY, or WANDB_MODE=offline"
            )

    def begin(self, run: RunFacts, kept: JsonDict) -> JsonDict:
        """Open the run, or go on with the one of an earlier attempt."""
        # The pictures of tables wait there to be sent; an offline run needs them until `wandb sync`.
        os.environ.setdefault("WANDB_DATA_DIR", str(run.run_dir / "wandb"))
        os.environ.setdefault("WANDB_CACHE_DIR", str(run.run_dir / "wandb"))
        import wandb

        self._wandb: Any = wandb
        run_id = kept.get("id") or uuid.uuid4().hex[:12]
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", run.name),
            id=run_id,
            resume="allow",
            dir=str(run.run_dir),
            config=run.config | {"code": str(run.code)},
            settings=wandb.Settings(console="off", quiet=True, x_disable_stats=True),
        )
        # Held-out means come after their step's metrics, and a resumed run does steps again: the x axis is ours.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return {"id": run_id, "url": str(self._run.dir) if self._run.offline else self._run.url}

    def log(self, step: int, metrics: Metrics) -> None:
        """Log the scalars."""
        self._run.log({"step": step, **metrics})

    def chains(self, step: int, chains: Sequence[RecordedChain]) -> None:
        """Log a table: a chain a row, a column a reward and a picture."""
        rewards = list(dict.fromkeys(name for chain in chains for name in chain.record["rewards"]))
        pictures = list(dict.fromkeys(n for c in chains for n in (*c.shown, *picture_names(c), *c.hidden)))
        table = self._wandb.Table(columns=["chain", "text", "finish", "total", *rewards, *pictures])
        for chain in chains:
            record = chain.record
            shown = [self._wandb.Image(chain.open(n)) if chain.has(n) else None for n in pictures]
            scores = [chain.score(name) for name in rewards]
            table.add_data(record["chain_id"], record["text"], record["finish"], chain.total, *scores, *shown)
        self._run.log({"step": step, "chains": table})

    def end(self, outcome: Outcome) -> None:
        """Send what is left."""
        self._run.finish(exit_code=0 if outcome == "finished" else 1)
