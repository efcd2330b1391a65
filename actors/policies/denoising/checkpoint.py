"""Checkpoints of pipelines, read without loading anything: their class, net, scheduler, and what a call of them takes.

Nothing here names a pipeline: one is taken if its scheduler's steps have a density (``stepping``), its net is a
``transformer`` or a ``unet``, and its call takes initial latents.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from actors.policies.denoising.stepping import Process, process_of
from actors.policies.hub import local_copy
from rl.compat.torchvision import ensure_torchvision
from rl.errors import ConfigError

NETS = ("transformer", "unet")
"""Components that can be the trained net; the first that a pipeline has."""
OWN_CODE = "pipeline.py"
"""File of a checkpoint that brings its pipeline's class."""
SHIPPED = {"RestorationPipeline": "actors.policies.restoration.pipeline"}
"""Module of each pipeline class that comes with vlcot: it is used, and not a checkpoint's copy of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineFiles:
    """What a checkpoint's files say."""

    directory: Path
    class_name: str
    net: str
    """Name of the trained component: its folder, and prefix of its published names."""
    process: Process
    parameters: tuple[str, ...]
    """Names that a call takes."""
    components: dict[str, Any]
    """``[library, class]`` by name; ``[None, None]`` is absent."""

    @property
    def has_own_code(self) -> bool:
        """Whether its class is in the checkpoint's folder, and neither diffusers' nor ours."""
        return self.class_name not in SHIPPED and (self.directory / OWN_CODE).is_file()


def local_pipeline(source: Path) -> Path:
    """Return the folder of a pipeline, of a hub name what diffusers needs of it; errors as of ``local_copy``."""

    def fetch(name: str) -> str:
        ensure_torchvision()
        from diffusers import DiffusionPipeline

        return str(DiffusionPipeline.download(name))

    return local_copy(source, fetch)


def read_pipeline(directory: Path) -> PipelineFiles:
    """Read what a checkpoint is; nothing is imported or loaded.

    Raises:
        ConfigError: If it is no pipeline, or none whose steps can be scored; names the folder and what is wrong.
    """
    index = _json(directory, "model_index.json")
    stored = index.get("_class_name")  # own code is named with its module
    class_name = stored[-1] if isinstance(stored, list) and stored else stored
    if not isinstance(class_name, str):
        raise ConfigError(f"{directory / 'model_index.json'} is damaged or names no _class_name")
    components = {
        name: part
        for name, part in index.items()
        if isinstance(part, list) and len(part) == 2 and not name.startswith("_")
    }
    present = [name for name, part in components.items() if part[0] is not None]
    net = next((name for name in NETS if name in present), None)
    if net is None:
        raise ConfigError(f"{directory}: {class_name} has no component named {' or '.join(NETS)} to train")
    if "scheduler" not in present:
        raise ConfigError(f"{directory}: {class_name} has no scheduler")
    try:
        process = process_of(_json(directory / "scheduler", "scheduler_config.json"))
    except ValueError as error:
        raise ConfigError(f"{directory}: its scheduler cannot be trained: {error}") from error
    parameters = call_parameters(directory, class_name)
    if "latents" not in parameters:
        raise ConfigError(
            f"{directory}: a call of {class_name} takes no latents=, so its steps cannot be scored one by one"
        )
    return PipelineFiles(
        directory=directory,
        class_name=class_name,
        net=net,
        process=process,
        parameters=parameters,
        components=components,
    )


def _json(directory: Path, name: str) -> dict[str, Any]:
    path = directory / name
    if not path.is_file():
        raise ConfigError(
            f"{directory}: no {name} in it; a denoising policy starts from a pipeline in the diffusers layout"
        )
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is damaged: it holds no mapping")
    return content


def call_parameters(directory: Path, class_name: str) -> tuple[str, ...]:
    """Return the names that a call of the pipeline takes, from its source.

    Raises:
        ConfigError: If neither diffusers nor the folder has such a class.
    """
    if class_name in SHIPPED:
        found = _call_in(_module_file(SHIPPED[class_name]), class_name)
    else:
        own = directory / OWN_CODE
        found = _call_in(own, class_name) if own.is_file() else None
        found = found or _call_in_diffusers(class_name)
    if not found:
        raise ConfigError(
            f"{directory}: the installed diffusers has no {class_name}, and there is no {OWN_CODE} that brings it"
        )
    return found


def _module_file(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


@cache
def _call_in_diffusers(class_name: str) -> tuple[str, ...] | None:
    """Look through the installed library once a class: it has hundreds of files."""
    for path in sorted(_module_file("diffusers").with_name("pipelines").rglob("*.py")):
        if found := _call_in(path, class_name):
            return found
    return None


def _call_in(path: Path, class_name: str) -> tuple[str, ...] | None:
    """Return the parameters of ``class_name.__call__``, without ``self``; None where the file has none."""
    source = path.read_text()
    if f"class {class_name}(" not in source:
        return None
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as Python: {error}") from error
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__call__":
                    arguments = [*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs]
                    return tuple(argument.arg for argument in arguments)[1:]
    return None
