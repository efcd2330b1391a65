"""Which folders of a run are copied to ``storage_path``, and when they are fetched from there."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.record.rundir import RunDir
from cluster.run.coldstart import WORK
from cluster.run.storage import Storage, open_storage
from cluster.runtime.console import stage
from cluster.runtime.ownership import owned
from configs.derive import COLDSTART_DONE, coldstart_directory, shared_coldstart, taught_policies
from configs.schema import Config
from rl.errors import OwnedError

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Mirror:
    """A run's copy elsewhere; without ``storage_path`` there is none, and nothing is done."""

    config: Config
    run: RunDir
    storage: Storage | None

    def fetch(self) -> None:
        """Fetch the cold start, and for ``resume`` the run, where they are there and not here.

        Raises:
            StorageError: If they are there and cannot be read.
        """
        if self.storage is None:
            return
        with stage("look at the storage"):
            if self.config.resume and not self.run.resolved.exists():
                self.storage.pull(self.config.name, self.run.path)
            start = self._start()
            if start is not None and not (start / COLDSTART_DONE).exists():
                # Who makes or fetches it already goes on; the run waits for it when it needs it.
                with suppress(OwnedError), owned(start, "fetch the cold start"):
                    self.storage.pull(start.name, start)

    def push(self) -> None:
        """Copy what changed: the cold start once, then the run.

        Raises:
            StorageError: If it cannot be written.
        """
        if self.storage is None:
            return
        begin = time.perf_counter()
        start = None if self._start() is None else shared_coldstart(self.config)
        num_bytes = 0
        if start is not None and (start / COLDSTART_DONE).exists():
            num_bytes += self.storage.push(start, start.name, skip=(WORK,))
        num_bytes += self.storage.push(self.run.path, self.config.name)
        logger.info("copied %.1f MB to storage_path in %.1f s", num_bytes / 1e6, time.perf_counter() - begin)

    def _start(self) -> Path | None:
        """Return the folder of the cold start that the run is made from, if it is made from one."""
        return coldstart_directory(self.config) if taught_policies(self.config) else None


def open_mirror(config: Config, run: RunDir) -> Mirror:
    """Open a run's storage.

    Raises:
        ConfigError: If ``storage_path`` cannot be opened.
    """
    return Mirror(config=config, run=run, storage=open_storage(config.storage_path))
