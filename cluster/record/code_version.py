"""Version of the code that runs: the distribution's version and, in a checkout, the commit."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

GIT_S = 10.0
"""Longest wait for git."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeVersion:
    """Version of the code of a run."""

    version: str
    """Of the installed distribution; '' where it is run from a folder."""
    commit: str = ""
    """'' outside of a checkout."""
    has_changes: bool = False
    """Whether tracked files differ from the commit."""

    def __str__(self) -> str:
        """Return it in one line."""
        commit = f" commit {self.commit[:12]}" if self.commit else ""
        return f"vlcot {self.version or 'not installed'}{commit}{' with changes' if self.has_changes else ''}"


def code_version() -> CodeVersion:
    """Ask the installed metadata, and git where there is a checkout."""
    try:
        version = metadata.version("vlcot")
    except metadata.PackageNotFoundError:
        version = ""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no") if commit else ""
    return CodeVersion(version=version, commit=commit, has_changes=bool(changes))


def _git(*words: str) -> str:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=GIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
