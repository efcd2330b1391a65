"""Methods that bring constants of their own, each a small dataclass told apart by its ``kind``.

A key of such a type takes a name (``surrogate=gspo``) or a mapping (``surrogate={kind: gspo, clip_high: 5e-4}``);
a method's constants exist only with that method. The papers and equations stand where the method is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from configs.fields import ByName, Count, Number, Positive, Rate, Share, Text, one_of


@dataclass(frozen=True, kw_only=True)
class Own:
    """A method of the user's own, by import path; ``my_package.losses:sapo`` in place of a name is short for it."""

    kind: Literal["own"] = "own"
    """Name."""
    target: Text = ""
    """``package.module:thing``."""
    options: dict[str, Any] = field(default_factory=dict)
    """Its constants."""


# --------------------------------------------------------------------------------- ratio and surrogate


@dataclass(frozen=True, kw_only=True)
class PPO:
    """Each action's own ratio, clipped (PPO; two bounds as in DAPO)."""

    kind: Literal["ppo"] = "ppo"
    """Name."""
    clip_low: Rate = 0.2
    """The importance ratio is held above ``1 - clip_low``. Denoising log-probs are means over
    thousands of elements, so their ratios move by 1e-4 and their bounds must be as small."""
    clip_high: Annotated[Positive, Field(le=10)] = 0.2
    """The importance ratio is held below ``1 + clip_high``."""


@dataclass(frozen=True, kw_only=True)
class DualClip:
    """PPO with a floor under the surrogate of actions with negative advantage."""

    kind: Literal["dual_clip"] = "dual_clip"
    """Name."""
    clip_low: Rate = 0.2
    """The importance ratio is held above ``1 - clip_low``."""
    clip_high: Annotated[Positive, Field(le=10)] = 0.2
    """The importance ratio is held below ``1 + clip_high``."""
    bound: Annotated[Number, Field(ge=1)] = 3.0
    """c > 1: with a negative advantage A the surrogate stays above ``c A``."""


@dataclass(frozen=True, kw_only=True)
class GSPO:
    """One ratio a sequence, the geometric mean of its actions' ratios."""

    kind: Literal["gspo"] = "gspo"
    """Name."""
    clip_low: Rate = 3e-4
    """The sequence's ratio is held above ``1 - clip_low``."""
    clip_high: Annotated[Positive, Field(le=10)] = 4e-4
    """The sequence's ratio is held below ``1 + clip_high``."""


@dataclass(frozen=True, kw_only=True)
class CISPO:
    """The clipped ratio is a constant weight: no action loses its gradient."""

    kind: Literal["cispo"] = "cispo"
    """Name."""
    clip_low: Rate = 1.0
    """The weight is held above ``1 - clip_low``; 1 is no lower bound, as in the paper."""
    clip_high: Annotated[Positive, Field(le=10)] = 0.28
    """The weight is held below ``1 + clip_high``."""


@dataclass(frozen=True, kw_only=True)
class GMPO:
    """Geometric instead of arithmetic mean over a sequence's clipped ratios."""

    kind: Literal["gmpo"] = "gmpo"
    """Name."""
    clip_low: Rate = 0.4
    """An action's log-ratio is held above ``-clip_low``, nats."""
    clip_high: Annotated[Positive, Field(le=10)] = 0.4
    """An action's log-ratio is held below ``clip_high``, nats."""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """PPO on normalised ratios of denoising steps, each step with equal say (GRPO-Guard)."""

    kind: Literal["guard"] = "guard"
    """Name."""
    clip_low: Rate = 2e-6
    """The normalised ratio is held above ``1 - clip_low``."""
    clip_high: Annotated[Positive, Field(le=10)] = 2e-6
    """The normalised ratio is held below ``1 + clip_high``."""


@dataclass(frozen=True, kw_only=True)
class OnPolicy:
    """Ratio identically 1: the plain policy gradient, whoever sampled."""

    kind: Literal["on_policy"] = "on_policy"
    """Name."""


Surrogate = Annotated[
    PPO | DualClip | GSPO | CISPO | GMPO | Guard | OnPolicy | Own, Field(discriminator="kind"), ByName()
]

# --------------------------------------------------------------------------------- rollout/learner mismatch


@dataclass(frozen=True, kw_only=True)
class NoCorrection:
    """The surrogate's ratio is taken against what the rollout worker reported."""

    kind: Literal["none"] = "none"
    """Name."""


@dataclass(frozen=True, kw_only=True)
class TruncatedImportance:
    """The ratio is taken against the learner's own log-probs; the mismatch weighs, truncated (TIS)."""

    kind: Literal["truncate"] = "truncate"
    """Name."""
    cap: Annotated[Number, Field(ge=1)] = 2.0
    """Largest weight ``learner / rollout worker``."""


@dataclass(frozen=True, kw_only=True)
class TokenMask:
    """As ``truncate``, and actions whose mismatch is out of bounds are left out (IcePop)."""

    kind: Literal["token_mask"] = "token_mask"
    """Name."""
    low: Rate = 0.5
    """Smallest ``learner / rollout worker`` probability that is trained."""
    high: Annotated[Number, Field(ge=1)] = 5.0
    """Largest that is trained."""


@dataclass(frozen=True, kw_only=True)
class SequenceMask:
    """As ``truncate``, and whole sequences whose geometric-mean mismatch is out of bounds are left out."""

    kind: Literal["sequence_mask"] = "sequence_mask"
    """Name."""
    low: Rate = 0.99
    """Smallest geometric mean of ``learner / rollout worker`` that is trained."""
    high: Annotated[Number, Field(ge=1)] = 1.01
    """Largest that is trained."""


Correction = Annotated[
    NoCorrection | TruncatedImportance | TokenMask | SequenceMask, Field(discriminator="kind"), ByName()
]

# --------------------------------------------------------------------------------- trained denoising steps


@dataclass(frozen=True, kw_only=True)
class AllSteps:
    """Every step but the last is random and trained."""

    kind: Literal["all"] = "all"
    """Name."""

    def num_trained(self, num_random: int) -> int:
        """Steps trained in a picture, of those that can be random (all but the last)."""
        return num_random


@dataclass(frozen=True, kw_only=True)
class RandomShare:
    """Every step is random; a random share of each picture's is trained (DanceGRPO)."""

    kind: Literal["share"] = "share"
    """Name."""
    share: Rate = 0.6
    """Share of the random steps that is trained, 0..1; at least one step."""

    def num_trained(self, num_random: int) -> int:
        """Steps trained in a picture, of those that can be random."""
        return max(1, int(self.share * num_random + 1e-9))  # rounded down, as released


@dataclass(frozen=True, kw_only=True)
class SlidingWindow:
    """A window of steps is random and trained and moves on as training does; ODE elsewhere (MixGRPO)."""

    kind: Literal["window"] = "window"
    """Name."""
    size: Count = 4
    """Steps in the window."""
    every: Count = 25
    """GRPO steps between its moves."""
    stride: Count = 1
    """Denoising steps it moves by; at the end it starts again."""

    def num_trained(self, num_random: int) -> int:
        """Steps trained in a picture, of those that can be random."""
        return min(self.size, num_random)


@dataclass(frozen=True, kw_only=True)
class RandomSteps:
    """A few steps in a row, drawn for each group, are random and trained; ODE elsewhere (Flow-GRPO-Fast)."""

    kind: Literal["random"] = "random"
    """Name."""
    count: Count = 1
    """Steps in a row."""
    start_within: Share = 1.0
    """Share of the picture's steps among which the first is drawn, 0..1; Flow-GRPO-Fast's is 0.5."""

    def num_trained(self, num_random: int) -> int:
        """Steps trained in a picture, of those that can be random."""
        return min(self.count, num_random)


TrainedSteps = Annotated[
    AllSteps | RandomShare | SlidingWindow | RandomSteps, Field(discriminator="kind"), ByName()
]

# --------------------------------------------------------------------------------- low-rank adapters


@dataclass(frozen=True, kw_only=True)
class FullWeights:
    """Every weight is trained and published."""

    kind: Literal["none"] = "none"
    """Name."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Two thin matrices beside each chosen linear layer are trained and published, nothing else (LoRA)."""

    kind: Literal["adapter"] = "adapter"
    """Name."""
    rank: Annotated[Count, Field(le=4096)] = 16
    """Width r of the thin matrices. Larger can learn more, and sends more."""
    alpha: Annotated[Positive, Field(le=1e6)] = 32.0
    """The product of the two counts ``alpha / rank`` times."""
    targets: list[Text] = field(default_factory=list)
    """Last parts of the linear layers' names, e.g. ``[q_proj, v_proj]``; empty takes the model family's attention
    and MLP layers."""


Lora = Annotated[FullWeights | Adapter, Field(discriminator="kind"), ByName()]

# --------------------------------------------------------------------------------- learning rate


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The rate stays at its peak."""

    kind: Literal["constant"] = "constant"
    """Name."""


@dataclass(frozen=True, kw_only=True)
class Linear:
    """The rate falls in a straight line, to 0 when the run's optimizer steps are made."""

    kind: Literal["linear"] = "linear"
    """Name."""


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """The rate falls along half a cosine, to ``floor`` when the run's optimizer steps are made."""

    kind: Literal["cosine"] = "cosine"
    """Name."""
    floor: Share = 0.0
    """Share of the peak that it falls to, 0..1."""


Schedule = Annotated[Constant | Linear | Cosine, Field(discriminator="kind"), ByName()]

# --------------------------------------------------------------------------------- names without constants

BASELINES = ("group", "leave_one_out", "batch")
"""What ``advantage.baseline`` may name, beside ``package.module:function`` (``rl.advantage.baselines``)."""
SAMPLERS = ("flow_grpo", "dance", "cps", "ddim")
"""What ``rollout.sampler`` may name, beside ``package.module:SAMPLER`` (``rl.denoising.samplers``)."""
Baseline = Annotated[Text, one_of(BASELINES, "package.module:function")]
Sampler = Annotated[Text, one_of(SAMPLERS, "package.module:SAMPLER")]
