"""Folders of the user's own modules: what is found in them, and what may not be called so."""

import sys
from pathlib import Path

import pytest

from cluster.runtime.plugins import shipped_modules, use_plugins
from configs.checks.resources import check_plugins, plugin_modules
from configs.checks.rewards import runtime_env
from configs.errors import ConfigError
from configs.schema import RewardConfig


def folder(tmp_path: Path, *files: str) -> Path:
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("THING = 1\n")
    return tmp_path


def test_modules_and_packages_are_found_and_nothing_else(tmp_path: Path) -> None:
    root = folder(
        tmp_path, "mine.py", "pack/__init__.py", "spread/deep/a.py", "notes.txt", "data/x.csv", "not-one.py",
        "__pycache__/mine.py",
    )  # fmt: skip
    assert plugin_modules(root) == {name: root / path for name, path in
                                    {"mine": "mine.py", "pack": "pack", "spread": "spread"}.items()}  # fmt: skip
    assert plugin_modules(root / "pack") == {"pack": root / "pack"}
    check_plugins([str(root)])
    assert shipped_modules([str(root)]) == [str(root / name) for name in ("mine.py", "pack", "spread")]


@pytest.mark.parametrize("name", ["rl", "actors", "rewards", "cluster", "configs"])
@pytest.mark.parametrize("form", ["{}.py", "{}/__init__.py", "{}/more/thing.py"])
def test_names_of_ours_are_refused(tmp_path: Path, name: str, form: str) -> None:
    with pytest.raises(ConfigError, match=f"would stand in for vlcot's own '{name}'; rename it"):
        check_plugins([str(folder(tmp_path, form.format(name)))])


@pytest.mark.parametrize("name", ["json", "numpy", "yaml"])
def test_names_of_others_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"would stand in for the module '{name}'"):
        check_plugins([str(folder(tmp_path, f"{name}.py"))])


def test_one_name_twice_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "1", "mine.py"), folder(tmp_path / "2", "mine/__init__.py")
    with pytest.raises(ConfigError, match="are both called 'mine'; rename one"):
        check_plugins([str(one), str(two)])
    (tmp_path / "3").mkdir()
    with pytest.raises(ConfigError, match="holds no Python module"):
        check_plugins([str(tmp_path / "3")])


def test_what_is_used_is_importable_and_still_fine_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    root = folder(tmp_path, "only_a_plugin.py")
    use_plugins([str(root)])
    use_plugins([str(root)])
    assert sys.path.count(str(root)) == 1
    import only_a_plugin  # type: ignore[import-not-found]

    assert only_a_plugin.THING == 1
    check_plugins([str(root)])


def test_an_environment_in_rays_words(tmp_path: Path) -> None:
    (tmp_path / "needs.txt").write_text("# experts\nlpips==0.1.4  # perceptual\n\n./wheel.whl\n")
    env = {"pip": str(tmp_path / "needs.txt"), "env_vars": {"A": 1}}
    assert runtime_env(RewardConfig(env=env)) == {
        "env_vars": {"A": "1"},
        "pip": ["lpips==0.1.4", "./wheel.whl"],
    }
    assert runtime_env(RewardConfig(env={"pip": ["a"]})) == {"env_vars": {}, "pip": ["a"]}
    assert runtime_env(RewardConfig(env={"python": "/x/python"})) == {
        "env_vars": {},
        "py_executable": "/x/python",
    }
    assert runtime_env(RewardConfig()) == {"env_vars": {}}
