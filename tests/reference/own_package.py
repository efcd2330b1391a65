"""The package of docs/rewards.md, built and installed by pip into a throw-away environment laid over this one."""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import yaml

from tests.reference.command import ROOT

_BLOCK = re.compile(r"^```\w+\n# (?P<path>\S+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)


def write_recipe(folder: Path, *, base: str) -> Path:
    """Write the files of the recipe, its configuration on top of a shipped one, and return the configuration."""
    files = {m["path"]: m["text"] for m in _BLOCK.finditer((ROOT / "docs" / "rewards.md").read_text())}
    config = yaml.safe_load((ROOT / "configs" / f"{base}.yaml").read_text())
    config["rewards"] |= yaml.safe_load(files.pop("mine.yaml"))["rewards"]
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    mine = folder / "mine.yaml"
    mine.write_text(yaml.safe_dump(config, sort_keys=False))
    return mine


def install(package: Path, environment: Path) -> Path:
    """Make an environment that sees this one's packages, install a package into it, and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    parent = sysconfig.get_path("purelib")
    overlay = environment / "lib" / version / "site-packages" / "parent.pth"
    overlay.write_text(f"import site; site.addsitedir({parent!r})\n")
    python = environment / "bin" / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
    ]
    done = subprocess.run(
        [*pip, "--disable-pip-version-check", "--no-build-isolation", str(package)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return python
