"""Imports without what nothing needs.

DeepSpeed and accelerate import mlflow, and with it pandas, only to see whether it is there, which costs every learner
rank more than a second.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import cast

UNWANTED = ("mlflow",)


def import_light(name: str) -> None:
    """Import a module that finds none of the unwanted ones; they can be imported afterwards as ever."""
    hidden = [module for module in UNWANTED if module not in sys.modules]
    for module in hidden:
        sys.modules[module] = cast(ModuleType, None)  # what Python reads as: not there
    try:
        importlib.import_module(name)
    finally:
        for module in hidden:
            del sys.modules[module]
