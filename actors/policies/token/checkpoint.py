"""Checkpoints of language models: which are taken, how they are loaded, and the names of their weights.

Nothing here names an architecture: what transformers can load and vLLM can serve is taken. The names of a checkpoint's
file are those that vLLM's loaders know, for every family; transformers' own tree has others for some.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from actors.policies.hub import local_copy
from configs.errors import first_line
from rl.compat.torchvision import ensure_torchvision
from rl.errors import ConfigError

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
"""Files of a model's weights."""

SERVED = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS")
"""Tables of vLLM's registry that hold what writes text."""


def local_directory(source: Path) -> Path:
    """Return the folder of a checkpoint; errors as of ``local_copy``."""

    def fetch(name: str) -> str:
        from huggingface_hub import snapshot_download

        return snapshot_download(name)

    return local_copy(source, fetch)


def load_config(directory: Path) -> Any:
    """Read the model's configuration.

    Raises:
        ConfigError: If it is damaged, or transformers does not know its architecture.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{directory}: transformers cannot read its config.json: {first_line(error)}"
        ) from error


def sees_pictures(config: Any) -> bool:
    """Whether a model of this configuration reads pictures."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as SEEING

    return config.model_type in SEEING


def check_language_model(directory: Path) -> None:
    """Refuse a checkpoint that transformers or vLLM does not know; nothing is loaded.

    Raises:
        ConfigError: Names the architecture.
    """
    if not (directory / "config.json").is_file():
        raise ConfigError(
            f"{directory}: no config.json in it; a token policy starts from a language model in the Hugging Face layout"
        )
    config = load_config(directory)
    (name, *_) = config.architectures or [config.model_type]
    if class_name(config) is None:
        raise ConfigError(
            f"{directory} holds a {name} model, which writes no text that transformers knows of"
        )
    # vLLM runs transformers' own code for models that it has none for, where that allows it.
    if name not in served_architectures() and not (name == class_name(config) and _is_open(config)):
        raise ConfigError(f"{directory} holds a {name} model, from which vLLM does not write text")


def class_name(config: Any) -> str | None:
    """Return the name of transformers' class for a model that writes text; None where there is none."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as WRITING,
    )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as SEEING,
    )

    name: str | None = SEEING.get(config.model_type) or WRITING.get(config.model_type)
    return name


def _is_open(config: Any) -> bool:
    return bool(_model_class(config).is_backend_compatible())


def _model_class(config: Any) -> Any:
    ensure_torchvision()
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    mapping = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING if sees_pictures(config) else MODEL_FOR_CAUSAL_LM_MAPPING
    return mapping[type(config)]


@cache
def served_architectures() -> frozenset[str]:
    """Return the architectures that vLLM serves; read from its source, as importing it takes ten seconds."""
    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("vLLM is not installed; install the extra cpu or gpu")
    path = Path(spec.submodule_search_locations[0]) / "model_executor" / "models" / "registry.py"
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            targets = {target.id for target in node.targets if isinstance(target, ast.Name)}
            keys = [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
            names.update(str(key) for key in keys if targets & {*SERVED})
    return frozenset(names)


def copy_beside_weights(source: Path, directory: Path) -> None:
    """Copy a checkpoint but for the model's weights; those in its folders belong to others."""
    ignored = shutil.ignore_patterns(*_WEIGHTS)
    shutil.copytree(
        source,
        directory,
        ignore=lambda folder, names: ignored(folder, names) if Path(folder) == source else set(),
        dirs_exist_ok=True,
    )


def load_model(directory: Path, dtype: str) -> Any:
    """Load a language model in evaluation mode.

    Args:
        directory: Hugging Face layout.
        dtype: Name of torch's.

    Raises:
        ConfigError: If transformers or vLLM does not know the architecture.
    """
    check_language_model(directory)
    model_class = _model_class(load_config(directory))
    return model_class.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()


def checkpoint_names(model: Any) -> dict[str, str]:
    """Return the name in the checkpoint's file of every parameter, by its name in transformers' tree.

    Raises:
        ConfigError: If the file holds a weight in other pieces than the tree, as those of experts.
    """
    from transformers.core_model_loading import revert_weight_conversion

    parameters = dict(model.named_parameters())
    # Meta tensors: nothing is copied where a conversion would join or cut weights.
    stand_ins = {name: torch.empty_like(p, device="meta") for name, p in parameters.items()}
    stored = revert_weight_conversion(model, dict(stand_ins))
    name_of = {id(tensor): name for name, tensor in stored.items()}
    names = {tree: name_of.get(id(tensor)) for tree, tensor in stand_ins.items()}
    if converted := [tree for tree, name in names.items() if name is None]:
        raise ConfigError(
            f"{type(model).__name__}: its checkpoint holds {converted[0]} in other pieces than transformers computes "
            "with, and such models cannot be trained yet"
        )
    return {tree: name for tree, name in names.items() if name is not None}


class OutputHead:
    """From the last hidden states to logits, as the model itself does it.

    Args:
        model: Of transformers.
    """

    def __init__(self, model: Any) -> None:
        text = model.config.get_text_config()
        self._model = model
        self._factor = float(getattr(text, "logit_scale", None) or 1.0) / float(
            getattr(text, "logits_scaling", None) or 1.0
        )
        self._softcap = getattr(text, "final_logit_softcapping", None)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return float32 logits ``[..., V]`` of hidden states ``[..., width]``."""
        # Asked for each time: adapters may have put another in its place.
        logits: torch.Tensor = self._model.get_output_embeddings()(hidden).float()
        if self._factor != 1:
            logits = logits * self._factor
        if self._softcap is not None:
            logits = self._softcap * torch.tanh(logits / self._softcap)
        return logits

    @torch.no_grad()
    def prove(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> None:
        """Compare with the model's own logits on a short input.

        Raises:
            ConfigError: If they differ: the model changes them in a way that is not known here.
        """
        own = model(**inputs, use_cache=False).logits.float()
        ours = self(model.base_model(**inputs, use_cache=False).last_hidden_state)
        if not torch.allclose(own, ours, rtol=1e-2, atol=1e-3 * float(own.abs().max())):
            raise ConfigError(
                f"{type(model).__name__}: its logits are more than its output matrix times the last hidden state, "
                "which cannot be trained yet"
            )
