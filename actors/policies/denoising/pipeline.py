"""Any diffusers pipeline as a picture policy: painted with and recorded, then scored step by step.

Rollout worker and learner hold one of these each and make the same calls, so that both compute the same log-probs.

Letters: B pictures of one call, K steps; a latent has any rank, rows first.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from actors.policies.denoising.checkpoint import (
    OWN_CODE,
    SHIPPED,
    PipelineFiles,
    local_pipeline,
    read_pipeline,
)
from actors.policies.denoising.conditioning import ENCODERS, Answers, find_shared, joined, recorded, told
from actors.policies.denoising.shown import as_shown
from actors.policies.denoising.stepping import (
    LatentsSeen,
    Probe,
    Replay,
    Scored,
    StepTaker,
    stepping_scheduler,
)
from configs.call import OURS, CallArgument, Constant, Shown, Words, call_arguments
from configs.errors import prefixed
from rewards.experts.real_esrgan import size_before
from rl.compat.torchvision import ensure_torchvision
from rl.errors import ConfigError, RolloutError
from rl.seeding import derive_seed
from rl.types import PREVIOUS, Pixels

NUM_PROBED = 2
"""Steps of a call that is ended at its first one; some schedules have no single step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Painting:
    """What one picture is painted from."""

    words: Mapping[str, str]
    """``text`` and ``question``; '' where nothing reads them."""
    pictures: Mapping[str, Pixels]
    """By name."""
    size: tuple[int, int]
    """Height and width, pixels."""
    seed: int
    """Of whatever the pipeline itself draws before its first step."""

    @property
    def generator(self) -> torch.Generator:
        """A fresh one: rollout and learner draw the same."""
        return torch.Generator().manual_seed(derive_seed(self.seed, "pipeline"))


class _NetReached(Exception):  # noqa: N818  # no error: it ends a call
    """Ends a call before its first evaluation of the net."""


class PicturePipeline:
    """A pipeline with our scheduler in it.

    Args:
        directory: Checkpoint in the diffusers layout.
        call: ``policies.NAME.call``.
        key: The configuration key of ``call``, for messages.
        dtype: Of net and text encoders; a VAE stays float32.
        with_encoders: Whether to load the text encoders; without them every answer must be told.

    Raises:
        ConfigError: If the checkpoint or the call cannot be used.
        OSError: If the folder holds no pipeline.
        ValueError: If diffusers cannot load it.
    """

    def __init__(
        self,
        directory: Path,
        call: Mapping[str, Any],
        *,
        key: str = "call",
        dtype: torch.dtype = torch.float32,
        with_encoders: bool = True,
        trusts_code: bool = False,
    ) -> None:
        self.files = read_pipeline(local_pipeline(directory))
        self._key = key
        self._call = call_arguments(call, key=key)
        self.pipe = load_pipeline(self.files, dtype, with_encoders=with_encoders, trusts_code=trusts_code)
        self.pipe.scheduler = self._scheduler = stepping_scheduler(dict(self.pipe.scheduler.config))
        # With its buffers, which from_pretrained leaves and a learner's engine rounds.
        self.net: nn.Module = getattr(self.pipe, self.files.net).to(dtype)
        self._stops_at_net = False
        self.net.register_forward_pre_hook(self._before_net, with_kwargs=True)
        cast_inputs_of_autoencoder(self.pipe)
        self._shared: list[tuple[bool, ...]] | None = None

    def to(self, device: torch.device, *, with_net: bool = True) -> None:
        """Move everything to a device, or everything but the net, which belongs to a learner's engine."""
        for module in self.pipe.components.values():
            if isinstance(module, nn.Module) and (with_net or module is not self.net):
                module.to(device)

    def _before_net(self, net: nn.Module, args: Any, kwargs: Any) -> Any:
        """Cast what the net is given to its dtype (latents are float32; numbers a row keep their digits)."""
        if self._stops_at_net:
            raise _NetReached
        dtype = next(net.parameters()).dtype
        return tree_map(lambda value: _cast(value, dtype), (args, kwargs))

    # ------------------------------------------------------------------------ calls

    def arguments(self, paintings: Sequence[Painting]) -> dict[str, Any]:
        """Return the keyword arguments of a call for B pictures of one size.

        Raises:
            RolloutError: If an argument names a picture that is not there and the pipeline needs.
        """
        first = paintings[0]
        given = self._named_like(first.pictures) | self._call
        values = {name: self._values(name, value, paintings) for name, value in given.items()}
        own: dict[str, Any] = {"height": first.size[0], "width": first.size[1]}
        own |= {"generator": [painting.generator for painting in paintings]}
        own |= {"output_type": "pt", "return_dict": False}
        return values | {name: value for name, value in own.items() if name in self.files.parameters}

    def _named_like(self, pictures: Mapping[str, Pixels]) -> dict[str, CallArgument]:
        """Return what needs no entry: the prompt, and pictures of an argument's name."""
        parameters = self.files.parameters
        words: dict[str, CallArgument] = {"prompt": Words("text")} if "prompt" in parameters else {}
        return words | {name: Shown((name,)) for name in pictures if name in parameters}

    def _values(self, name: str, argument: CallArgument, paintings: Sequence[Painting]) -> Any:
        match argument:
            case Words(source):
                return [painting.words[source] for painting in paintings]
            case Shown():
                return self._pictures(name, argument, paintings)
            case Constant(value):
                # A text beside a list of prompts must be a list too.
                return [value] * len(paintings) if isinstance(value, str) and "prompt" in name else value

    def _pictures(
        self, argument: str, shown: Shown, paintings: Sequence[Painting]
    ) -> list[Image.Image] | None:
        pictures = [
            next((p.pictures[name] for name in shown.names if name in p.pictures), None) for p in paintings
        ]
        present = [picture for picture in pictures if picture is not None]
        if not present and inspect.signature(type(self.pipe).__call__).parameters[argument].default is None:
            return None
        if len(present) < len(paintings):
            raise RolloutError(
                f"{self._key}.{argument}: there is no picture named {' or '.join(shown.names)}; there are "
                f"{sorted(paintings[0].pictures) or 'none'}"
            )
        with prefixed(f"{self._key}.{argument}.by: "):
            return [Image.fromarray(as_shown(picture, shown, paintings[0].size)) for picture in present]

    def picture_names(self) -> tuple[str, ...]:
        """Return the names of all pictures that a call can be given, as far as configuration and signature tell."""
        named = [
            name for argument in self._call.values() if isinstance(argument, Shown) for name in argument.names
        ]
        parameters = inspect.signature(type(self.pipe).__call__).parameters
        wanted = [
            name
            for name in self.files.parameters
            if name not in (*self._call, *OURS, "prompt")
            and (name == PREVIOUS or parameters[name].default is inspect.Parameter.empty)
        ]
        return tuple(dict.fromkeys([*named, *wanted]))

    def size_taken(self, name: str, painted: tuple[int, int]) -> tuple[int, int]:
        """Return a height and width that a picture can have: the painted one's, unless a restorer enlarges it."""
        sizes = (
            size_before(argument.size)
            for argument in self._call.values()
            if isinstance(argument, Shown)
            and argument.is_restored
            and argument.size
            and name in argument.names
        )
        return next(sizes, None) or painted

    @property
    def encodes_pictures(self) -> bool:
        """Whether the text encoders are shown pictures too."""
        encoders = [getattr(type(self.pipe), name) for name in ENCODERS if hasattr(type(self.pipe), name)]
        asked = {name for encode in encoders for name in inspect.signature(encode).parameters}
        return bool(asked & {"image", "images"})

    def _run(self, taker: StepTaker, arguments: Mapping[str, Any], *, with_gradient: bool = False) -> Any:
        self._scheduler.taker = taker
        call: Callable[..., Any] = type(self.pipe).__call__
        if with_gradient:
            call = getattr(call, "__wrapped__", call)  # below torch.no_grad
        return call(self.pipe, **arguments)

    # ------------------------------------------------------------------------ conditions

    @torch.no_grad()
    def ask(self, painting: Painting) -> Answers:
        """Have the text encoders answer for one picture.

        Raises:
            ValueError: If what they return cannot be told again.
        """
        if self._shared is None:
            one, two = (self._ask([painting] * num) for num in (1, 2))
            self._shared = [find_shared(*answers) for answers in zip(one, two, strict=True)]
        return tuple(self._ask([painting]))

    def _ask(self, paintings: Sequence[Painting]) -> Answers:
        self._stops_at_net = True
        try:
            with recorded(self.pipe, self._shared) as answers:
                self._run(Probe(), self.arguments(paintings) | {"num_inference_steps": NUM_PROBED})
        except _NetReached:
            return tuple(answers)
        finally:
            self._stops_at_net = False
        raise RolloutError(f"{self.files.class_name}: a call never reached its {self.files.net}")

    @torch.no_grad()
    def latent_shape(self, painting: Painting, answers: Answers) -> tuple[int, ...]:
        """Return the shape of one picture's latent, without its row axis; costs one evaluation of the net."""
        try:
            with told(self.pipe, joined([answers], self.device)):
                self._run(Probe(), self.arguments([painting]) | {"num_inference_steps": NUM_PROBED})
        except LatentsSeen as seen:
            return seen.shape[1:]
        raise RolloutError(f"{self.files.class_name}: a call never reached scheduler.step")

    # ------------------------------------------------------------------------ painting and scoring

    @property
    def device(self) -> torch.device:
        """Where the net is."""
        return next(self.net.parameters()).device

    @torch.no_grad()
    def paint(
        self,
        paintings: Sequence[Painting],
        answers: Sequence[Answers],
        *,
        num_steps: int,
        latents: Tensor,
        taker: StepTaker,
    ) -> list[Pixels]:
        """Paint B pictures of one size in one call.

        Args:
            paintings: What they are painted from.
            answers: Of the text encoders, of equal shapes.
            num_steps: K.
            latents: ``[B, ...]``, the initial ones.
            taker: Draws and records the steps.

        Raises:
            RolloutError: If a picture has another size than was asked for.
        """
        arguments = self.arguments(paintings) | {
            "num_inference_steps": num_steps,
            "latents": latents.to(self.device),
        }
        with told(self.pipe, joined(answers, self.device)):
            pictures = self._run(taker, arguments)[0]
        pixels = pictures.float().mul(255.0).round().clamp(0, 255).to(torch.uint8)
        made = list(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy())
        if made[0].shape[:2] != (size := paintings[0].size):
            raise RolloutError(
                f"{self._key}: {self.files.class_name} paints {made[0].shape[0]} x {made[0].shape[1]} px, and the "
                f"block has {size[0]} x {size[1]}; give its picture another px"
            )
        return made

    def score(
        self, paintings: Sequence[Painting], answers: Sequence[Answers], replay: Replay
    ) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of one step of B pictures; gradient flows through the net.

        Raises:
            RolloutError: If the call ends without a step.
        """
        arguments = self.arguments(paintings) | {"num_inference_steps": 1, "latents": replay.latents}
        try:
            with told(self.pipe, joined(answers, replay.latents.device)):
                self._run(replay, arguments, with_gradient=True)
        except Scored as scored:
            return scored.mean, scored.std
        raise RolloutError(f"{self.files.class_name}: a call never reached scheduler.step")


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Cast hidden states; what has one number a row (timesteps, guidance) is finer than bfloat16."""
    is_wide = isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1
    return value.to(dtype) if is_wide else value


# --------------------------------------------------------------------------------- loading


def load_pipeline(files: PipelineFiles, dtype: torch.dtype, *, with_encoders: bool, trusts_code: bool) -> Any:
    """Read a checkpoint, frozen and in evaluation mode, without progress bars.

    Raises:
        ConfigError: If the folder brings code that nobody has said may run.
    """
    ensure_torchvision()
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    pipeline_class = diffusers.DiffusionPipeline
    options: dict[str, Any] = {"dtype": {"default": dtype, "vae": torch.float32}}
    if files.class_name in SHIPPED:
        pipeline_class = getattr(import_module(SHIPPED[files.class_name]), files.class_name)
    elif files.has_own_code:
        if not trusts_code:
            raise ConfigError(
                f"{files.directory} brings code of its own ({OWN_CODE}); look at it, and if it may run, set "
                "policies.<name>.trust_code=true"
            )
        # diffusers calls every folder's code by one module name, and keeps in it what an earlier folder's defined.
        for module_name in [name for name in sys.modules if name.startswith("diffusers_modules.local")]:
            del sys.modules[module_name]
        options |= {"custom_pipeline": str(files.directory), "trust_remote_code": True}
    # Those that it was saved without must be named too, or diffusers misses them.
    left_out = (None, "transformers") if not with_encoders else (None,)
    options |= {name: None for name, part in files.components.items() if part[0] in left_out}
    if "safety_checker" in files.components:  # it would blacken pictures, and rewards would see that
        options |= {"safety_checker": None}
    pipe = pipeline_class.from_pretrained(files.directory, **options)
    pipe.set_progress_bar_config(disable=True)
    for module in pipe.components.values():
        if isinstance(module, nn.Module):
            module.eval().requires_grad_(False)
    return pipe


def cast_inputs_of_autoencoder(pipe: Any) -> None:
    """Have the parts of a VAE, which stays float32, cast what they are given."""
    vae = getattr(pipe, "vae", None)
    for part in vae.children() if isinstance(vae, nn.Module) else ():
        part.register_forward_pre_hook(_to_float32, with_kwargs=True)


def _to_float32(_: nn.Module, args: Any, kwargs: Any) -> Any:
    return tree_map(lambda value: _cast(value, torch.float32), (args, kwargs))
