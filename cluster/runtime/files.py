"""Files: written whole and flushed to the disk, and a full disk told from what libraries say of it."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from configs.errors import leaves
from rl.errors import DiskFullError

logger = logging.getLogger(__name__)

PARTIAL = ".partial"
"""Ending of a file that is being written."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = re.compile(
    # What libraries say that lose the number: safetensors (in Rust) and torch (its own zip writer).
    r"No space left on device|Disk quota exceeded|os error (28|122)\b|PytorchStreamWriter failed writing|"
    r"unexpected pos \d+ vs \d+"
)


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a file so that no reader ever sees half of it, and nothing is left where that fails.

    Args:
        path: Where.
        text: The whole content.
        durable: Return when it would outlive a loss of power; not worth its milliseconds for what is written each
            second.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    if durable:
        _flush(path.parent)


def flush_tree(folder: Path) -> None:
    """Return when everything below a folder, and the folder's own entry, would outlive a loss of power.

    What other machines wrote to a file system they share is flushed by it when they close their files.
    """
    for directory, _, names in os.walk(folder):
        for name in names:
            _flush(Path(directory) / name)
        _flush(Path(directory))
    _flush(folder.parent)


@lru_cache(maxsize=256)
def warn_once(line: str) -> None:
    """Log a warning the first time it is said in this process."""
    logger.warning("%s", line)


def as_disk_full(
    error: BaseException, folder: Path, what: str, *, num_bytes: int = 0
) -> DiskFullError | None:
    """Return one line on a full disk, where that is what an error comes from; else None.

    Args:
        error: Anything that was caught.
        folder: Where was written.
        what: What was written, as the line's subject.
        num_bytes: What that needs, where it is known.
    """
    if isinstance(error, DiskFullError):
        return error
    causes = [cause for leaf in leaves(error) for cause in _causes(leaf)]
    if not any(_is_full(cause) for cause in causes):
        return None
    files = [cause.filename for cause in causes if isinstance(cause, OSError) and cause.filename]
    if files and isinstance(files[0], str | os.PathLike):
        folder = Path(files[0]).absolute().parent
    needs = f"needs about {_size(num_bytes)}, " if num_bytes else ""
    free = _size(shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free)
    return DiskFullError(f"no space left in {folder}: {what} {needs}{free} free; make room")


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return _FULL_WORDS.search(str(error)) is not None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems have nothing to flush of a folder, and say so.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)
