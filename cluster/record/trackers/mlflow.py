"""MLflow: the server of MLFLOW_TRACKING_URI, or a database and files in the run directory.

Look at the local ones with ``mlflow ui --backend-store-uri sqlite:///runs/demo/mlflow/mlflow.db``.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from typing import Any

from cluster.record.run_data import RecordedChain
from cluster.record.trackers.base import Outcome, RunFacts, Tracker, flat
from rl.types import JsonDict, Metrics

EXPERIMENT = "vlcot"
"""Unless MLFLOW_EXPERIMENT_NAME names another."""
MOST_PARAMS = 100
"""Parameters in one call; MLflow refuses more."""
LONGEST = 500
"""Characters of a parameter's value that are kept there; all are in the config artifact."""


class MlflowTracker(Tracker):
    """Logs scalars, the configuration as parameters and artifact, and a step's chains as artifacts."""

    def begin(self, run: RunFacts, kept: JsonDict) -> JsonDict:
        """Open the run, or go on with the one of an earlier attempt."""
        from mlflow.entities import Param, RunTag
        from mlflow.tracking import MlflowClient

        uri, artifacts = os.environ.get("MLFLOW_TRACKING_URI", ""), None
        if not uri:
            folder = run.run_dir / "mlflow"
            folder.mkdir(exist_ok=True)
            uri, artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
        self._client: Any = MlflowClient(tracking_uri=uri)
        if kept.get("run_id") and kept.get("uri") == uri:
            self._run_id = str(kept["run_id"])
            self._client.update_run(self._run_id, status="RUNNING")
            return kept
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name, artifacts)
        self._run_id = self._client.create_run(experiment, run_name=run.name).info.run_id
        params = [Param(key, value[:LONGEST]) for key, value in flat(run.config).items()]
        tags = [RunTag("mlflow.source.git.commit", run.code.commit), RunTag("code", str(run.code))]
        for start in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self._run_id, params=params[start : start + MOST_PARAMS])
        self._client.log_batch(self._run_id, tags=tags)
        self._client.log_dict(self._run_id, run.config, "config.yaml")
        return {"run_id": self._run_id, "uri": uri, "url": uri}

    def log(self, step: int, metrics: Metrics) -> None:
        """Log the scalars; those that are not finite are left out, databases do not take them all."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(name, float(v), now, step) for name, v in metrics.items() if math.isfinite(v)]
        self._client.log_batch(self._run_id, metrics=points)

    def chains(self, step: int, chains: Sequence[RecordedChain]) -> None:
        """Log a table of the step's chains, and their pictures, under ``chains/step_000012``."""
        place = f"chains/step_{step:06d}"
        rows = [
            {
                "chain": chain.record["chain_id"],
                "text": chain.record["text"],
                "finish": chain.record["finish"],
                "total": chain.total,
                "rewards": chain.record["rewards"],
                "pictures": f"{place}/{chain.folder.name}",
            }
            for chain in chains
        ]
        self._client.log_dict(self._run_id, {"chains": rows}, f"{place}/chains.json")
        for chain in chains:
            self._client.log_artifacts(self._run_id, str(chain.folder), f"{place}/{chain.folder.name}")

    def end(self, outcome: Outcome) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._run_id, "FINISHED" if outcome == "finished" else "FAILED")
