"""Plug-in folders of the user's own modules: importable by the driver, and shipped to every node."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from configs.checks.resources import plugin_modules


def use_plugins(folders: Sequence[str]) -> None:
    """Make the modules of plug-in folders importable in this process."""
    for folder in folders:
        for path in plugin_modules(Path(folder)).values():
            if str(path.parent) not in sys.path:
                sys.path.append(str(path.parent))


def shipped_modules(folders: Sequence[str]) -> list[str]:
    """Return what Ray is to ship to every node (``py_modules`` of the job's ``runtime_env``)."""
    return [str(p) for folder in folders for p in plugin_modules(Path(folder)).values()]
