"""Owner of a folder: the one process that writes in it, named in a file that is there while it does.

Works on any file system that all machines share: the file is created exclusively, which NFS does atomically too,
and no lock of it is relied upon. An owner whose process is gone is taken over on its own machine; of a process on
another machine nobody here can tell, so its folder is refused with a line that says what to remove.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from rl.errors import ConfigError, OwnedError

OWNER = "owner.json"
"""In a folder that is being worked in."""
WRITE_S = 5.0
"""Longest that an owner file may be empty or half-written, being new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who works in a folder."""

    host: str
    pid: int
    pid_begin_s: float
    """When the process began: numbers of processes are used again."""
    pid_space: str
    """Containers of one host name may count their processes apart; empty where the system cannot tell."""
    since: str
    token: str
    """Tells this ownership from the same process's next."""

    def __str__(self) -> str:
        """Return host, process and time."""
        return f"process {self.pid} on {self.host} since {self.since}"

    @property
    def is_local(self) -> bool:
        """Whether this machine can tell what has become of the process."""
        return (self.host, self.pid_space) == (socket.gethostname(), _pid_space())

    @property
    def is_gone(self) -> bool:
        """Whether the process is known to have ended."""
        if not self.is_local:
            return False
        try:
            process = psutil.Process(self.pid)
            is_another = abs(process.create_time() - self.pid_begin_s) > 1.0
            return is_another or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False


@contextmanager
def owned(folder: Path, doing: str) -> Iterator[None]:
    """Be the one who works in a folder while the block runs; the folder is made, and removed again if left empty.

    Args:
        folder: The folder.
        doing: What the others are refused, e.g. ``train``.

    Raises:
        OwnedError: If another process works in it; the line names it.
        ConfigError: If the folder cannot be made or written in.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        me = _claim(folder, doing)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written in ({error.strerror})") from error
    try:
        yield
    finally:
        with suppress(OSError, ValueError, TypeError):
            if _read(folder / OWNER) == me:
                (folder / OWNER).unlink()
        with suppress(OSError):
            for path in made:
                path.rmdir()


def owner_of(folder: Path) -> Owner | None:
    """Return who works in a folder; None where nobody does.

    Raises:
        OwnedError: If the file that should say it is damaged.
    """
    path = folder / OWNER
    end = time.monotonic() + WRITE_S
    while True:
        try:
            return _read(path)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            if time.monotonic() > end:
                remedy = f"remove it if no other process works in {folder}"
                raise OwnedError(f"{path} is damaged; {remedy}") from error
            time.sleep(0.05)


def _read(path: Path) -> Owner:
    return Owner(**json.loads(path.read_text(encoding="utf-8")))


def stay_owner(folder: Path) -> None:
    """Give those who wait for a folder a sign of life (the owner file's time)."""
    with suppress(FileNotFoundError):
        (folder / OWNER).touch(exist_ok=True)


def last_sign_ns(folder: Path) -> int | None:
    """Return the time of the owner's last sign of life by the file system's clock; None where there is no owner."""
    with suppress(FileNotFoundError):
        return (folder / OWNER).stat().st_mtime_ns
    return None


def refusal(folder: Path, owner: Owner, doing: str) -> OwnedError:
    """Return the line for who comes second."""
    remedy = (
        "wait until it ends, or choose another name"
        if owner.is_local
        else f"wait until it ends; if it is gone, remove {folder / OWNER}"
    )
    return OwnedError(f"{folder}: cannot {doing}: {owner} works in it; {remedy}")


def _claim(folder: Path, doing: str) -> Owner:
    """Write the owner file, exclusively."""
    process = psutil.Process()
    me = Owner(
        host=socket.gethostname(),
        pid=process.pid,
        pid_begin_s=process.create_time(),
        pid_space=_pid_space(),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
        token=secrets.token_hex(8),
    )
    content = json.dumps(asdict(me)).encode()
    while True:
        try:
            descriptor = os.open(folder / OWNER, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            owner = owner_of(folder)
            if owner is not None and not owner.is_gone:
                raise refusal(folder, owner, doing) from None
            if owner is not None:
                _remove_stale(folder, owner)
            continue
        try:
            os.write(descriptor, content)
            os.fsync(descriptor)
        except OSError:
            (folder / OWNER).unlink()
            raise
        finally:
            os.close(descriptor)
        return me


def _remove_stale(folder: Path, stale: Owner) -> None:
    """Remove the file of a process that is gone, and never that of another who was quicker to do so.

    Only processes of the gone one's machine come here, among whom a lock of the file works.
    """
    with suppress(FileNotFoundError), (folder / OWNER).open() as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_ino == (folder / OWNER).stat().st_ino and json.load(file) == asdict(
            stale
        ):
            (folder / OWNER).unlink()


def _pid_space() -> str:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""
