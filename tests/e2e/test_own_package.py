"""The recipe of docs/rewards.md: a user's own package, installed by pip, is a reward of a config from outside."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.reference.command import vlcot
from tests.reference.own_package import install, write_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with the recipe's configuration, and the Python its package is installed for."""
    folder = tmp_path_factory.mktemp("user")
    write_recipe(folder, base="tiny")
    return folder, install(folder / "shiny", folder / "venv")


def test_it_is_installed_there_and_nowhere_else(place: tuple[Path, Path]) -> None:
    folder, _ = place
    assert list((folder / "venv").rglob("site-packages/shiny_rewards/__init__.py"))
    assert importlib.util.find_spec("shiny_rewards") is None


def test_it_keeps_the_contract(place: tuple[Path, Path]) -> None:
    folder, python = place
    assert (
        vlcot("rewards", "check", "shiny_rewards:Contrast", cwd=folder, python=python).count(" kept ") == 11
    )
    words = ["shiny_rewards:brevity", "--options", "low=0", "high=1"]
    assert vlcot("rewards", "check", *words, cwd=folder, python=python).count(" kept ") == 11


def test_it_fits_a_run(place: tuple[Path, Path]) -> None:
    folder, python = place
    assert "tiny: fine" in vlcot("check", "mine.yaml", cwd=folder, python=python)
    wrong = "rewards.contrast.target=shiny_rewards:Contrst"
    said = vlcot("check", "mine.yaml", wrong, cwd=folder, python=python, expect=2)
    assert said.splitlines()[-1] == (
        "vlcot: error: rewards.contrast.target: shiny_rewards has no 'Contrst'; did you mean Contrast?"
    )
