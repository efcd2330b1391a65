"""Makes ``import torchvision`` work beside a torch that its C++ extension was not built for.

The torchvision wheel on the general package index is a CUDA build. Beside a CPU torch its extension does not
load; torchvision tolerates that, but then registers fake kernels for two operators that nobody declared, and
the import dies with ``operator torchvision::nms does not exist``. Its Python part (transforms, plain
models) is all that pyiqa, transformers' image processors and vLLM need here, so the two schemas are
declared first. Calling ``nms`` itself still fails, as it must.

Where the extension loads, nothing is touched. ``python -m rl.compat.torchvision`` has every interpreter of an
environment do this at its first import of torchvision, so that plain libraries work there too; ``make`` calls it.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

HOOK = "vlcot_torchvision.pth"
"""File of the environment that Python reads when it starts."""
_LINE = "import importlib.util as u; u.find_spec('rl') and __import__('rl.compat.torchvision', fromlist='x').hook()\n"

_SCHEMAS = ("nms", "qnms")
_keep_alive: list[object] = []  # a torch Library takes its schemas away when it is collected


def ensure_torchvision() -> None:
    """Call before torchvision, pyiqa, transformers' image processors or vLLM are imported.

    Idempotent and cheap after the first call; imports torch. Does nothing where torchvision is absent,
    already imported, or has an extension that loads.
    """
    if _keep_alive or "torchvision" in sys.modules:
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return
    if _extension_loads(Path(next(iter(spec.submodule_search_locations)))):
        return
    import torch

    untyped: Any = torch.library
    library = untyped.Library("torchvision", "FRAGMENT")
    for name in _SCHEMAS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _keep_alive.append(library)


def _extension_loads(package: Path) -> bool:
    """Return True where torchvision's operators can be loaded into this torch."""
    import torch

    operators: Any = torch.ops
    for path in sorted([*package.glob("_C.*"), *package.glob("_C_stable.*")]):
        try:
            operators.load_library(str(path))
        except OSError:
            continue
    return hasattr(operators.torchvision, "nms")


class _Finder(MetaPathFinder):
    """Prepares torch when torchvision is first looked for, and finds nothing itself."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            ensure_torchvision()


def hook() -> None:
    """Have ``import torchvision`` do what it must first, in this interpreter."""
    sys.meta_path.insert(0, _Finder())


def mend_environment() -> None:
    """Write ``HOOK`` where a plain interpreter cannot import torchvision.

    Raises:
        CalledProcessError: If it cannot with the hook either.
    """
    plain = [sys.executable, "-I", "-c", "import torchvision"]
    if subprocess.run(plain, stderr=subprocess.DEVNULL, check=False).returncode:
        Path(sysconfig.get_path("purelib"), HOOK).write_text(_LINE)
        subprocess.run(plain, check=True)


if __name__ == "__main__":
    mend_environment()
