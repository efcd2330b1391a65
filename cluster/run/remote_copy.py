"""Remote copy of a run, at ``storage_path``: sent there so that it outlives its machine, and fetched back.

Any place that pyarrow opens, which is what Ray's own storage takes. A checkpoint's ``state.json`` goes last, as on
disk, so half a copy is no checkpoint there either. Files that did not change are not sent again.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

from pyarrow import fs

from cluster.record.rundir import CHECKPOINTS, STATE, RunDir
from cluster.run.coldstart import WORK
from cluster.runtime.console import stage
from cluster.runtime.files import PARTIAL
from cluster.runtime.ownership import OWNER, owned
from configs.derive import COLDSTART_DONE, coldstart_directory, shared_coldstart, taught_policies
from configs.errors import first_line
from configs.schema import Config
from rl.errors import ConfigError, OwnedError, StorageError, UntrustedFileError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
ATTEMPTS = 3
"""How often a transfer is tried."""
PAUSE_S = 1.0
"""Pause before the second attempt, doubled before every other."""
CHUNK_BYTES = 8 << 20
_LAST = (STATE, COLDSTART_DONE)
"""Files that say that what lies beside them is whole."""


@dataclass(slots=True)
class RemoteCopy:
    """A run's copy elsewhere; without ``storage_path`` there is none, and nothing is done."""

    config: Config
    run: RunDir
    storage: Storage | None

    def fetch(self) -> None:
        """Fetch the cold start, and for ``resume`` the run, where they are there and not here.

        Raises:
            ConfigError: If nothing can be written there.
            StorageError: If they are there and cannot be read.
        """
        if self.storage is None:
            return
        with stage("look at the storage"):
            self.storage.check()
            if self.config.resume and not self.run.resolved.exists():
                self.storage.pull(self.config.name, self.run.path)
            start = coldstart_directory(self.config)
            if taught_policies(self.config) and not (start / COLDSTART_DONE).exists():
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
        begin, num_bytes = time.perf_counter(), 0
        if taught_policies(self.config):
            start = shared_coldstart(self.config)
            if (start / COLDSTART_DONE).exists():
                num_bytes += self.storage.push(start, start.name, skip=(WORK,))
        num_bytes += self.storage.push(self.run.path, self.config.name)
        logger.info("copied %.1f MB to storage_path in %.1f s", num_bytes / 1e6, time.perf_counter() - begin)


@dataclass(slots=True)
class Storage:
    """One place, and what is known to lie there as it is here."""

    filesystem: fs.FileSystem
    root: str
    """Folder of all runs there."""
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Size and modification time (ns) of files that were sent, by their path there."""
    pause_s: float = PAUSE_S

    def check(self) -> None:
        """Refuse a place where nothing can be written.

        Raises:
            ConfigError: With what is said of the attempt.
        """
        probe = f"{self.root}/.vlcot-{secrets.token_hex(8)}"
        try:
            self.filesystem.create_dir(self.root, recursive=True)
            self.filesystem.open_output_stream(probe).close()
            self.filesystem.delete_file(probe)
        except OSError as error:
            raise ConfigError(f"storage_path: {self.root} cannot be written: {first_line(error)}") from error

    def push(self, folder: Path, name: str, *, skip: tuple[str, ...] = ()) -> int:
        """Send what is new or changed in a folder; remove checkpoints there that are gone here.

        Args:
            folder: Here.
            name: Of the folder there, below ``root``.
            skip: Names of subfolders that stay here.

        Returns:
            Bytes sent.

        Raises:
            StorageError: If a file cannot be written there after ``ATTEMPTS`` attempts.
        """
        num_bytes = 0
        for path in _in_order(folder, skip):
            place = f"{self.root}/{name}/{path.relative_to(folder).as_posix()}"
            state = _state(path)
            if self.sent.get(place) != state:
                self._try(f"write {place}", partial(self._send, path, place))
                self.sent[place] = state
                num_bytes += state[0]
        self._remove_old(folder, name)
        return num_bytes

    def pull(self, name: str, folder: Path) -> bool:
        """Fetch a folder that is not here; of its checkpoints the newest whole one only.

        Returns:
            Whether there was one.

        Raises:
            StorageError: If it cannot be read after ``ATTEMPTS`` attempts.
            UntrustedFileError: If it lists a file that would be written outside the folder.
        """
        base = f"{self.root}/{name}"
        files = [info.path for info in self._list(base, recursive=True) if info.type == fs.FileType.File]
        paths = sorted((_inside(path, base) for path in files), key=_rank)
        checkpoints = [path for path in paths if path.parts[0] == CHECKPOINTS]
        newest = max((path.parts[1] for path in checkpoints if path.parts[2:] == (STATE,)), default="")
        for path in paths:
            if path.parts[0] != CHECKPOINTS or path.parts[1] == newest:
                place, target = f"{base}/{path}", folder / path
                self._try(f"read {place}", partial(self._fetch, place, target))
                self.sent[place] = _state(target)
        return bool(files)

    # ------------------------------------------------------------------ one file

    def _list(self, base: str, *, recursive: bool) -> list[fs.FileInfo]:
        selector = fs.FileSelector(base, recursive=recursive, allow_not_found=True)
        return self._try(f"list {base}", lambda: self.filesystem.get_file_info(selector))

    def _send(self, path: Path, place: str) -> None:
        """Write under another name first: a reader there never sees half a file."""
        self.filesystem.create_dir(place.rpartition("/")[0], recursive=True)
        unfinished = place + PARTIAL
        with path.open("rb") as source, self.filesystem.open_output_stream(unfinished) as target:
            shutil.copyfileobj(source, target, CHUNK_BYTES)
        self.filesystem.move(unfinished, place)

    def _fetch(self, place: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(target.name + PARTIAL)
        with self.filesystem.open_input_stream(place) as source, unfinished.open("wb") as sink:
            shutil.copyfileobj(source, sink, CHUNK_BYTES)
        unfinished.replace(target)

    def _remove_old(self, folder: Path, name: str) -> None:
        there = self._list(f"{self.root}/{name}/{CHECKPOINTS}", recursive=False)
        kept = {path.name for path in (folder / CHECKPOINTS).glob("*")}
        for info in there if kept else ():
            if info.type == fs.FileType.Directory and info.base_name not in kept:
                self._try(f"remove {info.path}", partial(self._remove, info.path))

    def _remove(self, path: str) -> None:
        """Remove first what makes a checkpoint count: half a removal leaves none that looks whole."""
        if self.filesystem.get_file_info(f"{path}/{STATE}").type == fs.FileType.File:
            self.filesystem.delete_file(f"{path}/{STATE}")
        self.filesystem.delete_dir(path)

    def _try(self, what: str, work: Callable[[], Result]) -> Result:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return work()
            except OSError as error:
                if attempt == ATTEMPTS:
                    raise StorageError(
                        f"storage_path: cannot {what} after {ATTEMPTS} attempts: {first_line(error)}; the run "
                        "directory here is whole: mend the storage and say resume=true"
                    ) from error
                logger.warning("storage_path: %s failed, trying again: %s", what, first_line(error))
                time.sleep(self.pause_s * 2 ** (attempt - 1))
        raise AssertionError("unreachable")


def open_storage(uri: str) -> Storage | None:
    """Open ``storage_path``; None where it is empty.

    Raises:
        ConfigError: If pyarrow cannot open it.
    """
    if not uri:
        return None
    try:
        filesystem, root = fs.FileSystem.from_uri(str(Path(uri)) if "://" not in uri else uri)
    except (OSError, ValueError, NotImplementedError) as error:
        raise ConfigError(f"storage_path: {uri!r} cannot be opened: {first_line(error)}") from error
    return Storage(filesystem=filesystem, root=root.rstrip("/"))


def _in_order(folder: Path, skip: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files of a folder: what makes others count comes after them."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(PARTIAL) and p.name != OWNER]
    kept = [path.relative_to(folder) for path in files]
    yield from (folder / path for path in sorted(kept, key=_rank) if set(path.parts).isdisjoint(skip))


def _rank(path: PurePath) -> tuple[bool, str]:
    return path.name in _LAST, path.as_posix()


def _state(path: Path) -> tuple[int, int]:
    """Return a file's size and modification time (ns)."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _inside(path: str, base: str) -> PurePosixPath:
    """Return a listed path as seen from its folder: what is written here stays in the run's own.

    Raises:
        UntrustedFileError: If it leads out of the folder.
    """
    relative = path.removeprefix(f"{base}/")
    parts = relative.split("/")
    if relative == path or not set(parts).isdisjoint(("", ".", "..")) or "\0" in relative or "\\" in relative:
        raise UntrustedFileError(
            f"storage_path: it lists {path!r}, which leads out of {base}; nothing was fetched"
        )
    return PurePosixPath(relative)
