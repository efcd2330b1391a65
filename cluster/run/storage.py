"""Copies a run to where it outlives its machine, and back: ``storage_path``.

Any place that pyarrow opens, which is what Ray's own storage takes. A checkpoint's ``state.json`` goes last, as on
disk, so half a copy is no checkpoint there either. Files that did not change are not sent again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from pyarrow import fs

from cluster.record.rundir import STATE
from cluster.runtime.files import PARTIAL
from cluster.runtime.ownership import OWNER
from configs.derive import COLDSTART_DONE
from configs.errors import first_line
from rl.errors import ConfigError, StorageError, UntrustedFileError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
ATTEMPTS = 3
"""How often a transfer is tried."""
PAUSE_S = 1.0
"""Pause before the second attempt, doubled before every other."""
CHUNK_BYTES = 8 << 20
CHECKPOINTS = "checkpoints"
_LAST = (STATE, COLDSTART_DONE)
"""Files that say that what lies beside them is whole."""


@dataclass(slots=True)
class Storage:
    """One place, and what is known to lie there as it is here."""

    filesystem: fs.FileSystem
    root: str
    """Folder of all runs there."""
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Size and modification time (ns) of files that were sent, by their path there."""
    pause_s: float = PAUSE_S

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
        sent = 0
        for path in _in_order(folder, skip):
            place = f"{self.root}/{name}/{path.relative_to(folder).as_posix()}"
            stat = path.stat()
            if self.sent.get(place) != (stat.st_size, stat.st_mtime_ns):
                self._try(f"write {place}", partial(self._send, path, place))
                self.sent[place] = (stat.st_size, stat.st_mtime_ns)
                sent += stat.st_size
        self._remove_old(folder, name)
        return sent

    def pull(self, name: str, folder: Path) -> bool:
        """Fetch a folder that is not here; of its checkpoints the newest whole one only.

        Returns:
            Whether there was one.

        Raises:
            StorageError: If it cannot be read after ``ATTEMPTS`` attempts.
            UntrustedFileError: If it lists a file that would be written outside the folder.
        """
        base = f"{self.root}/{name}"
        selector = fs.FileSelector(base, recursive=True, allow_not_found=True)
        listing = self._try(f"list {base}", lambda: self.filesystem.get_file_info(selector))
        files = [info for info in listing if info.type == fs.FileType.File]
        relative = sorted((_inside(info.path, base) for info in files), key=_rank)
        newest = max((path.split("/")[1] for path in relative if _is_state(path)), default="")
        for path in relative:
            parts = path.split("/")
            if parts[0] == CHECKPOINTS and parts[1] != newest:
                continue
            target = folder / path
            self._try(f"read {base}/{path}", partial(self._fetch, f"{base}/{path}", target))
            stat = target.stat()
            self.sent[f"{base}/{path}"] = (stat.st_size, stat.st_mtime_ns)
        return bool(files)

    # ------------------------------------------------------------------ one file

    def _send(self, path: Path, place: str) -> None:
        """Write under another name first: a reader there never sees half a file."""
        self.filesystem.create_dir(place.rpartition("/")[0], recursive=True)
        unfinished = f"{place}.partial"
        with path.open("rb") as source, self.filesystem.open_output_stream(unfinished) as target:
            while chunk := source.read(CHUNK_BYTES):
                target.write(chunk)
        self.filesystem.move(unfinished, place)

    def _fetch(self, place: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(target.name + ".partial")
        with self.filesystem.open_input_stream(place) as source, unfinished.open("wb") as sink:
            while chunk := source.read(CHUNK_BYTES):
                sink.write(chunk)
        unfinished.replace(target)

    def _remove_old(self, folder: Path, name: str) -> None:
        base = f"{self.root}/{name}/{CHECKPOINTS}"
        selector = fs.FileSelector(base, allow_not_found=True)
        there = self._try(f"list {base}", lambda: self.filesystem.get_file_info(selector))
        kept = {path.name for path in (folder / CHECKPOINTS).glob("*")}
        for info in there if kept else ():
            if info.type == fs.FileType.Directory and info.base_name not in kept:
                # First what makes it count: half a removal leaves no checkpoint that looks whole.
                self._try(f"remove {info.path}", partial(self._remove, info.path))

    def _remove(self, path: str) -> None:
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
        filesystem, root = fs.FileSystem.from_uri(str(Path(uri).expanduser()) if "://" not in uri else uri)
    except (OSError, ValueError, NotImplementedError) as error:
        raise ConfigError(f"storage_path: {uri!r} cannot be opened: {first_line(error)}") from error
    return Storage(filesystem=filesystem, root=root.rstrip("/"))


def _in_order(folder: Path, skip: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files of a folder: what makes others count comes after them."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(PARTIAL) and p.name != OWNER]
    kept = [path for path in files if not set(path.relative_to(folder).parts) & set(skip)]
    yield from sorted(kept, key=lambda path: _rank(path.relative_to(folder).as_posix()))


def _rank(path: str) -> tuple[bool, str]:
    return path.rpartition("/")[2] in _LAST, path


def _inside(path: str, base: str) -> str:
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
    return relative


def _is_state(path: str) -> bool:
    parts = path.split("/")
    return len(parts) == 3 and parts[0] == CHECKPOINTS and parts[2] == STATE
