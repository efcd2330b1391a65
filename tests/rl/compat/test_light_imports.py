"""Imports that leave mlflow out, and let it be imported afterwards."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from rl.compat.light_imports import import_light
import_light("accelerate")
import_light("deepspeed")
assert "mlflow" not in sys.modules and "deepspeed" in sys.modules
import mlflow
assert mlflow.__version__
"""


def test_mlflow_is_not_imported_and_can_be() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], check=True, timeout=120)
