"""The wheel, installed into a folder of its own outside the checkout: whole, and good for a run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs import PACKAGES
from tests.reference.command import ROOT

pytestmark = pytest.mark.slow

IMPORT_ALL = """
import importlib, pkgutil, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from rl.compat.torchvision import ensure_torchvision
ensure_torchvision()
home, *packages = sys.argv[1:]
for package in packages:
    top = importlib.import_module(package)
    assert Path(top.__file__).parent == Path(home, package), top.__file__
    for module in pkgutil.walk_packages(top.__path__, package + "."):
        importlib.import_module(module.name)
        print(module.name)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of this checkout and install it, alone, into a folder."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-index"]
    # A copy: setuptools would leave its build folder in the checkout.
    source = folder / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [*pip, "wheel", *options, "--no-build-isolation", "-w", str(folder), str(source)], check=True
    )
    (wheel,) = folder.glob("vlcot-*.whl")
    subprocess.run([*pip, "install", *options, "--target", str(folder / "home"), str(wheel)], check=True)
    return folder / "home"


def outside(home: Path, *words: str) -> str:
    """Run Python somewhere else, where only the installed wheel is on the path, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-P", *words],
        cwd=home.parent,
        env=os.environ | {"PYTHONPATH": str(home), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_module_is_in_it_and_loads(home: Path) -> None:
    loaded = set(outside(home, "-c", IMPORT_ALL, str(home), *PACKAGES).split())
    written = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert written - set(PACKAGES) == loaded


def test_every_file_of_data_is_in_it(home: Path) -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and path.suffix not in {".py", ".pyc"}:
                assert (home / path.relative_to(ROOT)).read_bytes() == path.read_bytes()


def test_it_checks_a_run(home: Path) -> None:
    assert "tiny: fine" in outside(home, "-m", "cluster.cli", "check", "tiny")
    assert (home / "bin" / "vlcot").exists()
