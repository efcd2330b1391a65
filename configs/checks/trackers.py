"""What ``trackers`` may hold, found out before anything starts; called by ``configs.checks.validate``."""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Mapping, Sequence

from configs.errors import ConfigError

KNOWN: Mapping[str, tuple[Sequence[str], str]] = {
    "tensorboard": (("tensorboard",), "tensorboard"),
    "wandb": (("wandb",), "wandb"),
    "mlflow": (("mlflow", "sqlalchemy", "alembic"), "'mlflow-skinny>=3' sqlalchemy alembic"),
}
"""Name -> modules that must be there, and what pip is to install where one is not."""
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def check_trackers(trackers: Sequence[str]) -> None:
    """Refuse unknown names, double ones, and trackers whose package is not installed.

    Whether a class of the user's own is there and fits is found out by ``vlcot check`` and before the start.

    Raises:
        ConfigError: Names the entry and the remedy.
    """
    for index, name in enumerate(trackers):
        if name in trackers[:index]:
            raise ConfigError(f"trackers: {name!r} is there twice; take one out")
        if ":" in name:
            if not _TARGET.fullmatch(name):
                raise ConfigError(f"trackers: want package.module:Class, got {name!r}")
        elif name in KNOWN:
            _check_installed(name)
        else:
            near = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KNOWN)}"
            raise ConfigError(f"trackers: no tracker {name!r}; {hint} Your own is package.module:Class")


def _check_installed(name: str) -> None:
    modules, packages = KNOWN[name]
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"trackers: {name!r} needs the module {module!r}, which is not installed; pip install {packages}"
            )
