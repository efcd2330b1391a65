"""The records that cross borders between the loop, the workers and the rewards.

Frozen, slotted, keyword-only; numpy at every border, never torch, never Ray. Log-probs are in nats.
Letters in shapes: L tokens of one chain, n sampled tokens, K denoising steps, C h w a latent,
H W pixels, G group size. Pictures are ``uint8`` RGB, shape ``[H, W, 3]``.

A record that needs pictures holds *indexes* into the list of pictures sent beside it, so that
pictures can travel as object references that only the receiving worker resolves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Generic, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar

Pixels = NDArray[np.uint8]
"""``uint8[H, W, 3]`` RGB."""
Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]

Packed = NDArray[np.uint8]
"""``uint8[n]``: bytes of a safetensors file, so that any dtype travels and nothing that is code."""

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""What a data file's column may hold."""

P = TypeVar("P", default=Pixels)
"""What stands for a picture: its pixels, a handle, or an index into the list of pictures sent beside the record."""
Q = TypeVar("Q")

PREVIOUS = "previous"
"""Name under which an image block sees the chain's picture before it."""


class Finish(StrEnum):
    """How a chain ended."""

    STOP = "stop"
    """The last closing tag was written: the chain is whole."""
    LENGTH = "length"
    """A block ran out of tokens."""
    MALFORMED = "malformed"
    """It left the grammar."""


# --------------------------------------------------------------------------------- prompts


@dataclass(frozen=True, slots=True)
class TextPart:
    """Words of a message."""

    text: str


@dataclass(frozen=True, slots=True)
class PicturePart:
    """The place of a picture in a message."""

    name: str
    """One of the prompt's pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPicture:
    """What a picture file holds, in a picture's place; ``rl.data.pictures.decoded`` makes pixels of it."""

    content: bytes
    origin: str
    """File, row and column, for messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of the conversation that a chain continues."""

    role: str
    """``system``, ``user`` or ``assistant``."""
    parts: tuple[TextPart | PicturePart, ...]


@dataclass(frozen=True, kw_only=True)  # no slots: with them Python cannot construct Prompt[int]
class Prompt(Generic[P]):
    """What a chain answers, and what rewards may compare the answer with."""

    prompt_id: str
    """Stable over runs, e.g. ``coffee/train/17``."""
    messages: tuple[Message, ...] = ()
    """What the text policy is asked; empty where ``tokens`` say it, or nothing is asked."""
    tokens: tuple[int, ...] = ()
    """The same as ids of the text policy's tokenizer, one placeholder a shown picture; instead of ``messages``."""
    pictures: Mapping[str, P] = field(default_factory=dict)
    """By name, any number of any sizes; those that are not shown are for rewards and metrics."""
    shown: tuple[str, ...] = ()
    """Names of the pictures that the policies see, in order; in ``messages`` each has its place."""
    reference: Mapping[str, Json] = field(default_factory=dict)
    """What is known of the answer, by name."""
    seed: int = 0
    """Seed base of everything sampled for it."""

    def __post_init__(self) -> None:
        """Refuse two ways of asking, pictures that are not uint8 RGB, and names that do not fit together."""
        if self.messages and self.tokens:
            raise ValueError(f"{self.prompt_id}: give messages or tokens, not both")
        for name, picture in self.pictures.items():
            if isinstance(picture, np.ndarray):
                check_pixels(picture, name=f"{self.prompt_id}: {name}")
        if twice := self.pictures.keys() & self.reference.keys():
            raise ValueError(f"{self.prompt_id}: {sorted(twice)} name a picture and a reference value")
        if unknown := [name for name in self.shown if name not in self.pictures]:
            raise ValueError(f"{self.prompt_id}: shows {unknown}, its pictures are {sorted(self.pictures)}")
        placed = tuple(
            part.name for turn in self.messages for part in turn.parts if isinstance(part, PicturePart)
        )
        if self.messages and placed != self.shown:
            raise ValueError(f"{self.prompt_id}: messages place {list(placed)}, shown are {list(self.shown)}")

    def with_pictures(self, place: Callable[[P], Q]) -> Prompt[Q]:
        """Return a copy in which something else stands for each picture."""
        placed = {name: place(picture) for name, picture in self.pictures.items()}
        return replace(self, pictures=placed)  # type: ignore[return-value, arg-type]


def check_pixels(pixels: Pixels, *, name: str) -> None:
    """Raise ``ValueError`` unless ``pixels`` is ``uint8[H, W, 3]`` and not empty."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ValueError(f"{name}: want uint8[H, W, 3], got {pixels.dtype}{list(pixels.shape)}")


# --------------------------------------------------------------------------------- rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSampling:
    """The distribution text was sampled from; the learner scores under the same."""

    temperature: float = 1.0
    """Logits are divided by it. 0 decodes greedily (evaluation only; never trained)."""
    forbidden_ids: tuple[int, ...] = ()
    """Token ids that have probability 0, in sampling and in scoring."""
    guidance: float = 1.0
    """Classifier-free guidance g: logits are ``u + g (c - u)``, u those without the pictures' content. 1 is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBlock:
    """One block, as it is walked."""

    name: str
    opening: int
    """Id of its opening tag; -1 where the chain has no tags."""
    closing: int
    max_tokens: int = 0
    """Text: most tokens sampled."""
    template: tuple[int, ...] = ()
    """Ids that are forced, or ``rl.chain.plan.CODES``: a picture, or a given text; () for one that is written."""
    is_image: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainPlan:
    """A chain that one policy writes whole, text and pictures: every chain of a run, or one with given texts.

    ``rl.chain.plan`` makes it and walks through it.
    """

    blocks: tuple[PlannedBlock, ...]
    end: int
    """Id that ends a request: forced, but where the chain is one text block."""
    ends: frozenset[int]
    """Ids that end the answer where the chain is one text block."""
    whitespace: frozenset[int]
    """Ids that may stand between blocks."""
    reserved: frozenset[int]
    """Ids that are never plain text."""

    @property
    def is_tagged(self) -> bool:
        """Whether tags lead through the chain."""
        return self.blocks[0].opening >= 0

    @property
    def max_tokens(self) -> int:
        """Most ids that a chain has, forced ones and the end included."""
        tags = 2 * len(self.blocks) * self.is_tagged
        return sum(block.max_tokens + len(block.template) for block in self.blocks) + tags + 1

    def given(self, texts: Mapping[str, Sequence[int]]) -> ChainPlan:
        """Return the plan with the bodies of some text blocks given: they are forced, not written."""
        blocks = tuple(
            replace(block, max_tokens=0, template=(block.opening, *texts[block.name], block.closing))
            if block.name in texts
            else block
            for block in self.blocks
        )
        return replace(self, blocks=blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """Write one text block, or a whole chain."""

    request_id: str
    """``<chain_id>/<block>``, or the chain's; unique while it runs."""
    tokens: Ints
    """The context, ``[L]``, one placeholder token a picture."""
    pictures: tuple[int, ...]
    """Index of each placeholder's picture in the list sent beside the requests."""
    max_tokens: int
    """Most tokens sampled."""
    stop_ids: tuple[int, ...]
    """Sampling ends *with* (and includes) any of these."""
    sampling: TextSampling
    seed: int
    plan: ChainPlan | None = None
    """Of a whole chain, which is written by it: ``max_tokens`` and ``stop_ids`` are the plan's then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextReply:
    """What was written."""

    request_id: str
    tokens: Ints
    """Sampled ids ``[n]``, the stop id included; of a whole chain also what its plan forced, but for the end."""
    logprobs: Floats
    """Of the sampling distribution, ``[n]``, nats; exactly 0 where forced."""
    stopped: bool
    """False when it ran out of tokens."""
    version: int
    """Weight version that it was begun with: the lowest that wrote in it."""
    context: Ints | None = None
    """Ids that the engine saw before them, ``[S]``, pictures expanded; None where the request's were all."""
    num_cached: int = 0
    """Context tokens whose prefill was reused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSpec:
    """How a picture was sampled; enough to score it again."""

    kind: str = "flow_grpo"
    """A name in ``rl.denoising.samplers.SAMPLERS``."""
    noise_level: float = 0.7
    """Of that sampler; 0 is deterministic and leaves nothing to train."""
    reduction: Literal["mean", "sum"] = "mean"
    """A step's log-prob is the mean or the sum over latent elements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """Which denoising steps of a picture draw noise, and which of those are trained; indexes, ascending."""

    random: tuple[int, ...]
    trained: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse trained steps that are not random."""
        if not set(self.trained) <= set(self.random):
            raise ValueError(f"trained steps {self.trained} are not among the random ones {self.random}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """Paint one image block."""

    request_id: str
    block: str
    size_px: int
    """Width."""
    height_px: int
    num_steps: int
    sampler: SamplerSpec
    pictures: Mapping[str, int]
    """What it sees, in order: index, in the list sent beside the requests, of each by its name."""
    words: Mapping[str, str]
    """``text``: the chain's so far, tags left out, of a chain without text the prompt's; ``question``: the prompt's."""
    seed: int
    source_seed: int | None = None
    """Seed of the initial noise alone; None takes it from ``seed``."""
    steps: StepPlan | None = None
    """None: every step but the last is random and trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReply:
    """The small part of the answer; picture, segment and what its text encoders said travel beside it."""

    request_id: str
    steps: tuple[int, ...]
    """Trained denoising steps: each is an action."""
    shape_key: tuple[int, ...]
    """Segments with equal keys can be scored in one call of the pipeline."""
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStream:
    """What one token policy saw and wrote in one chain: a single sequence for the learner."""

    tokens: Ints
    """Prompt, sampled and forced tokens up to the last sampled one, ``[L]``, as the engine saw them: every picture is
    as many tokens as the model's processor makes of it."""
    pictures: tuple[str, ...]
    """Names of the pictures in them, in order: one that the prompt shows, or a block."""
    action_mask: Bools
    """True where a token was sampled, ``[L]``; forced and prompt tokens are False."""
    behaviour_logprobs: Floats
    """``[L]``, nats; 0 where forced."""
    block_of: NDArray[np.int8]
    """Index of the block in which a token was sampled, ``[L]``; -1 where none was."""
    sampling: TextSampling

    def __post_init__(self) -> None:
        """Check that the arrays are parallel and forced tokens carry no log-prob."""
        shapes = {a.shape for a in (self.tokens, self.action_mask, self.behaviour_logprobs, self.block_of)}
        if len(shapes) != 1 or self.tokens.ndim != 1:
            raise ValueError(f"TokenStream arrays must share one shape [L], got {shapes}")
        if np.any(self.behaviour_logprobs[~self.action_mask]):
            raise ValueError("TokenStream: forced tokens must have behaviour log-prob 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoisingSegment:
    """What one denoising policy did in one picture block."""

    block: str
    latents: Floats
    """``[K+1, ...]``, from the source to the picture, of any rank."""
    timesteps: Floats
    """``[K]``: what the net was told of the noise."""
    levels: Floats
    """``[K+1]``: sigmas of a flow, 1 to 0; of an epsilon or v model the shares of the variance that are signal."""
    behaviour_logprobs: Floats
    """``[K]``, nats (mean over elements); 0 where not an action."""
    action_mask: Bools
    """``[K]``: random and trained. The last step is deterministic, so False."""
    pictures: tuple[str, ...]
    """Names of the u8 pictures it was conditioned on, in order: those that the prompt shows, then ``previous``."""
    size_px: int
    """Width."""
    height_px: int
    seed: int
    """Of what the pipeline itself drew before its first step."""
    sampler: SamplerSpec
    behaviour_step_mean: Floats | None = None
    """``[A, ...]``: mean of each of the A trained steps, in order; None unless the loss needs it."""

    def __post_init__(self) -> None:
        """Check shapes."""
        num_steps = self.latents.shape[0] - 1
        if self.levels.shape != (num_steps + 1,) or self.timesteps.shape != (num_steps,):
            raise ValueError(
                f"segment {self.block}: latents {self.latents.shape}, levels {self.levels.shape}, "
                f"timesteps {self.timesteps.shape}"
            )
        if self.behaviour_logprobs.shape != (num_steps,) or self.action_mask.shape != (num_steps,):
            raise ValueError(f"segment {self.block}: log-probs and mask must be [{num_steps}]")
        means = self.behaviour_step_mean
        if means is not None and means.shape != (self.action_mask.sum(), *self.latents.shape[1:]):
            raise ValueError(f"segment {self.block}: want one step mean a trained step, got {means.shape}")


Segment = TokenStream | DenoisingSegment


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """What a learner needs of one segment: the record and the pictures it names, in its order."""

    segment: Segment
    pictures: tuple[Pixels, ...]
    told: Packed | None = None
    """Denoising: what the text encoders said (``actors.policies.denoising.conditioning``)."""
    steps: tuple[int, ...] | None = None
    """Denoising: the trained steps that are scored; None scores all of them."""


# --------------------------------------------------------------------------------- chains


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentInfo:
    """What the driver knows of a segment without holding it."""

    policy: str
    handle: object
    """Opaque; a ``Store`` turns it into an ``Example``."""
    blocks: tuple[str, ...]
    """Blocks in which it has actions."""
    num_actions: Mapping[str, int]
    """Actions by block."""
    shape_key: tuple[int, ...]
    """Segments with equal keys fit one micro-batch: () for tokens."""
    length: int
    """Tokens, or denoising steps: what a micro-batch pads."""
    steps: tuple[int, ...] = ()
    """Trained denoising steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One whole answer, as the driver holds it: records and handles, never arrays."""

    chain_id: str
    """``<group_id>/<index>``."""
    group_id: str
    index: int
    finish: Finish
    error: str
    """Why it ended early, or ''."""
    text: str
    """Everything written, tags included, ``<|image|>`` for a picture."""
    segments: tuple[SegmentInfo, ...]
    pictures: Mapping[str, object]
    """Opaque handle of each finished picture by block."""
    versions: Mapping[str, tuple[int, int]]
    """Lowest and highest weight version that a block was begun with, by policy."""
    block_text: Mapping[str, str] = field(default_factory=dict)
    """Body of every closed text block."""


@dataclass(frozen=True, kw_only=True)
class FinishedChain(Generic[P]):
    """A finished chain and the prompt it answers: for rewards, failure records and the wire."""

    chain_id: str
    group_id: str
    prompt: Prompt[P]
    finish: Finish
    text: str
    """Everything written, tags included, ``<|image|>`` for a picture; '' where the chain has no text block."""
    block_text: Mapping[str, str]
    """Body of every closed text block."""
    pictures: Mapping[str, P]
    """Finished pictures by block."""
    final_block: str
    """Name of the chain's last picture block; '' where it paints none."""
    completion_ids: tuple[int, ...] | None = None
    """Token ids behind the prompt, as they were sampled or forced; None where they are not known."""

    @property
    def final_picture(self) -> P | None:
        """The last picture, or None where the chain ended before it or paints none."""
        return self.pictures.get(self.final_block)

    @property
    def named_pictures(self) -> dict[str, P]:
        """The chain's pictures and its prompt's, whose names differ."""
        return {**self.pictures, **self.prompt.pictures}

    def with_pictures(self, place: Callable[[P], Q]) -> FinishedChain[Q]:
        """Return a copy in which something else stands for each picture, the prompt's too."""
        placed = {name: place(picture) for name, picture in self.pictures.items()}
        return replace(self, pictures=placed, prompt=self.prompt.with_pictures(place))  # type: ignore[return-value, arg-type]


def indexed(chains: Sequence[FinishedChain[P]]) -> tuple[list[FinishedChain[int]], list[P]]:
    """Take the pictures out: records that hold indexes, and the list that these point into, each picture once."""
    pictures: list[P] = []
    places: dict[int, int] = {}

    def place(picture: P) -> int:
        if id(picture) not in places:
            places[id(picture)] = len(pictures)
            pictures.append(picture)
        return places[id(picture)]

    return [chain.with_pictures(place) for chain in chains], pictures


ChainView: TypeAlias = FinishedChain[Pixels]
"""What a reward sees of a chain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One reward over n chains, in its own unit."""

    name: str
    values: Floats
    """``[n]``; undefined where not valid."""
    valid: Bools
    """``[n]``: False only where the scorer failed."""
    missing: Bools
    """``[n]``: True where the chain lacked the input and got the declared value."""
    reasons: tuple[str, ...]
    """``[n]``: why not valid or missing, else ''."""

    def __post_init__(self) -> None:
        """Check lengths and that every valid value is finite."""
        num = self.values.shape[0]
        if self.valid.shape != (num,) or self.missing.shape != (num,) or len(self.reasons) != num:
            raise ValueError(f"Scores {self.name}: fields differ in length")
        if not np.all(np.isfinite(self.values[self.valid])):
            raise ValueError(f"Scores {self.name}: a valid value is not finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredGroup:
    """A group with its rewards; the unit the loop collects."""

    group_id: str
    prompt_id: str
    chains: tuple[Chain, ...]
    scores: Mapping[str, Scores]
    """By reward name, each over the group's chains in index order."""
    seconds: Mapping[str, float]
    """``rollout`` and ``reward`` wall seconds."""

    @property
    def valid(self) -> Bools:
        """True where every reward of the chain is valid, ``[G]``."""
        out = np.ones(len(self.chains), dtype=np.bool_)
        for scores in self.scores.values():
            out &= scores.valid
        return out


# --------------------------------------------------------------------------------- training


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainItem:
    """One segment to train on."""

    item_id: str
    handle: object
    advantages: Mapping[int, float]
    """By index of the chain's block. Actions of a block that is not here are masked: not trained, not counted."""
    num_actions: int
    """Trained ones."""
    num_scored: int
    """With those that are not trained: what a learner makes log-probs of."""
    shape_key: tuple[int, ...]
    length: int
    steps: tuple[int, ...] = ()
    """Denoising: the trained steps that this item is; a segment may be split into several items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Rows one rank takes through one forward pass; ``weights`` is 0 for padding rows."""

    items: tuple[TrainItem, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBatch:
    """One optimizer step of one policy, laid out over ranks."""

    policy: str
    micro_batches: tuple[tuple[MicroBatch, ...], ...]
    """``[rank][micro-batch]``; the same number on every rank."""
    num_actions: int
    """Over the *whole* batch, as the two below: every rank and micro-batch divides by the same number."""
    num_sequences: int
    """Token streams, or pictures."""
    max_actions: int
    """Most actions that the configuration lets a sequence have."""
    num_chunks: int
    """Parts in which each micro-batch's actions become log-probs, equal on all ranks: chunks of tokens, or calls of a
    pipeline, one a denoising step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Where one tensor lies in a publication."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """torch's name without the prefix, e.g. ``float32``, ``bfloat16``."""
    bucket: int
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A publication of weights: what lies where, and how to know it arrived intact."""

    policy: str
    version: int
    tensors: tuple[TensorSpec, ...]
    bucket_bytes: tuple[int, ...]
    digests: tuple[str, ...]
    """xxh3-128 of each bucket, hex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStats:
    """What one rank saw in one optimizer step, as sums that can be added over ranks."""

    sums: Mapping[str, tuple[float, float]]
    """Metric name -> (sum, count)."""
    maxima: Mapping[str, float]
    """Metric name -> maximum."""


Metrics = dict[str, float]
JsonDict = dict[str, Any]
