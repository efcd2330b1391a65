"""Named methods: vetted settings with their papers, put under (or over) a configuration by ``algorithm=NAME``.

A name sets what its paper prescribes and leaves the rest alone, so that names can be joined: of
``algorithm=dapo+mix_grpo`` token policies take DAPO, denoising policies take MixGRPO, and where both speak of the same
key the later name wins. Who earns a reward (``advantage.credit``) is left to the configuration but by the two
whole-run methods, and so are learning rates and sizes.

The equations are in the papers named here; where and how they are computed, and the test that proves it, is in
docs/algorithm.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from configs.build import merge
from configs.errors import ConfigError
from configs.schema import Config
from configs.suggest import suggest

Layer = Mapping[str, Any]

GROUP_STD: Layer = {"combine": "sum", "baseline": "group", "scale": "group_std"}
"""GRPO's advantage: Shao et al. 2024 (DeepSeekMath), section 4.1.2. Several rewards are one weighted sum."""
BATCH_STD: Layer = {"combine": "sum", "baseline": "group", "scale": "batch_std", "clip": 5.0}
"""Flow-GRPO's: Liu et al. 2025, eq. 4, and the released settings."""
ADDED_UP: Layer = {**GROUP_STD, "combine": "each", "clip": 5.0, "eps": 1e-8}
"""DanceGRPO's and MixGRPO's: of several rewards the advantages are added up."""
REALSR_R1: Layer = {**GROUP_STD, "credit": "chain", "gate": "", "clip": 0.0, "eps": 1e-4}
"""RealSR-R1's, paper and code."""
SMALL_CLIP: Layer = {"kind": "ppo", "clip_low": 1e-4, "clip_high": 1e-4}
"""For log-probs that are means over a latent's elements."""


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """One named method."""

    paper: str
    """Where it comes from, with the equation."""
    run: Layer = field(default_factory=dict)
    """Keys of the whole run."""
    token: Layer = field(default_factory=dict)
    """Keys of every token policy."""
    denoising: Layer = field(default_factory=dict)
    """Keys of every denoising policy."""
    rewards: Layer = field(default_factory=dict)
    """Keys of those rewards that the run has, by name."""


ALGORITHMS: Mapping[str, Algorithm] = {
    # ------------------------------------------------------------------ tokens
    "grpo": Algorithm(
        paper="Shao et al. 2024 (DeepSeekMath, arXiv 2402.03300), eqs. 3 and 4",
        run={"advantage": GROUP_STD},
        token={
            "loss": {
                "surrogate": {"kind": "ppo", "clip_low": 0.2, "clip_high": 0.2},
                "aggregation": "sequence_mean",
                "kl_weight": 0.04,
                "kl_estimator": "k3",
            },
        },
    ),
    "dr_grpo": Algorithm(
        paper="Liu et al. 2025 (Understanding R1-Zero-like training, arXiv 2503.20783), section 3.2",
        run={"advantage": {**GROUP_STD, "scale": "none"}},
        token={"loss": {"surrogate": "ppo", "aggregation": "constant", "kl_weight": 0.0}},
    ),
    "rloo": Algorithm(
        paper="Ahmadian et al. 2024 (Back to Basics, arXiv 2402.14740), eq. 8: one action is one whole answer",
        run={"advantage": {"combine": "sum", "baseline": "leave_one_out", "scale": "none"}},
        token={"loss": {"surrogate": "on_policy", "aggregation": "constant"}},
    ),
    "reinforce_pp": Algorithm(
        paper="Hu et al. 2025 (REINFORCE++, arXiv 2501.03262): advantages normalised over the batch's actions",
        run={"advantage": {"combine": "sum", "baseline": "batch", "scale": "batch_std", "over": "actions"}},
        token={"loss": {"surrogate": "ppo", "aggregation": "action_mean"}},
    ),
    "reinforce_pp_baseline": Algorithm(
        paper="Hu et al. 2025 (REINFORCE++, arXiv 2501.03262), its variant with a group baseline and k2 KL",
        run={"advantage": {**GROUP_STD, "scale": "none", "whiten": True, "over": "actions"}},
        token={"loss": {"surrogate": "ppo", "aggregation": "action_mean", "kl_estimator": "k2"}},
    ),
    "dapo": Algorithm(
        paper="Yu et al. 2025 (DAPO, arXiv 2503.14476), eqs. 8 to 13: higher upper bound, dynamic sampling, token "
        "mean, soft overlong punishment, no KL",
        run={"advantage": GROUP_STD, "overlong": "punish"},
        token={
            "loss": {
                "surrogate": {"kind": "ppo", "clip_low": 0.2, "clip_high": 0.28},
                "aggregation": "action_mean",
                "kl_weight": 0.0,
            }
        },
    ),
    "dual_clip": Algorithm(
        paper="Ye et al. 2020 (Mastering complex control in MOBA games, arXiv 1912.09729), eq. 5",
        token={"loss": {"surrogate": "dual_clip"}},
    ),
    "gspo": Algorithm(
        paper="Zheng et al. 2025 (GSPO, arXiv 2507.18071), eqs. 5 to 7",
        run={"advantage": GROUP_STD},
        token={"loss": {"surrogate": "gspo", "aggregation": "sequence_mean", "kl_weight": 0.0}},
    ),
    "cispo": Algorithm(
        paper="MiniMax 2025 (MiniMax-M1, arXiv 2506.13585), eqs. 4 and 5",
        run={"advantage": GROUP_STD},
        token={"loss": {"surrogate": "cispo", "aggregation": "action_mean", "kl_weight": 0.0}},
    ),
    "gmpo": Algorithm(
        paper="Zhao et al. 2025 (GMPO, arXiv 2507.20673): geometric mean of token ratios",
        run={"advantage": GROUP_STD},
        token={"loss": {"surrogate": "gmpo", "aggregation": "sequence_mean", "kl_weight": 0.0}},
    ),
    "gdpo": Algorithm(
        paper="Liu et al. 2026 (GDPO, arXiv 2601.05242): rewards normalised one by one, their sum over the batch",
        run={"advantage": {**GROUP_STD, "combine": "each", "whiten": True}},
    ),
    "tis": Algorithm(
        paper="Yao et al. 2025 (Your efficient RL framework secretly brings you off-policy RL training)",
        token={"loss": {"correction": "truncate"}},
    ),
    "icepop": Algorithm(
        paper="Ling Team 2025 (Every step evolves / Ring-1T, arXiv 2510.18855): double-sided token mask",
        token={"loss": {"correction": "token_mask"}},
    ),
    # ------------------------------------------------------------------ denoising steps
    "flow_grpo": Algorithm(
        paper="Liu et al. 2025 (Flow-GRPO, arXiv 2505.05470), eqs. 8 to 13, and its released settings",
        run={"advantage": BATCH_STD},
        denoising={
            "rollout": {"sampler": "flow_grpo", "noise_level": 0.7, "trained_steps": "all"},
            "loss": {
                "surrogate": SMALL_CLIP,
                # Released: 0.04 on a KL that lacks the step's length 1 / num_steps; ours at ten steps: 0.04 / 10.
                "kl_weight": 0.004,
                "kl_estimator": "step_mean",
            },
        },
    ),
    "flow_grpo_fast": Algorithm(
        paper="Flow-GRPO-Fast (released with arXiv 2505.05470): a group shares its noise and the way to two random "
        "steps, which begin in the first half; no KL, a smaller clip",
        run={"advantage": BATCH_STD},
        denoising={
            "rollout": {
                "sampler": "flow_grpo",
                "noise_level": 0.8,
                "trained_steps": {"kind": "random", "count": 2, "start_within": 0.5},
                "shared_noise": True,
            },
            "loss": {"surrogate": {"kind": "ppo", "clip_low": 1e-5, "clip_high": 1e-5}, "kl_weight": 0.0},
        },
    ),
    "dance_grpo": Algorithm(
        paper="Xue et al. 2025 (DanceGRPO, arXiv 2505.07818), eqs. 8 to 10, and its released settings for flow "
        "models; of several rewards the advantages are added up",
        run={"advantage": ADDED_UP},
        denoising={
            "rollout": {
                "sampler": "dance",
                "noise_level": 0.3,
                "trained_steps": {"kind": "share", "share": 0.6},
                "shared_noise": True,
            },
            "loss": {"surrogate": SMALL_CLIP, "kl_weight": 0.0},
        },
    ),
    "mix_grpo": Algorithm(
        paper="Li et al. 2025 (MixGRPO, arXiv 2507.21802): a sliding window of random steps, advantages added up",
        run={"advantage": ADDED_UP},
        denoising={
            "rollout": {
                "sampler": "flow_grpo",
                "noise_level": 0.7,
                "trained_steps": {"kind": "window", "size": 4, "every": 25, "stride": 1},
                "shared_noise": True,
            },
            "loss": {"surrogate": SMALL_CLIP, "kl_weight": 0.0},
        },
    ),
    "flow_cps": Algorithm(
        paper="Wang and Yu 2025 (Coefficients-preserving sampling, arXiv 2509.05952), released on Flow-GRPO's settings",
        run={"advantage": BATCH_STD},
        denoising={
            "rollout": {"sampler": "cps", "noise_level": 0.7, "trained_steps": "all"},
            "loss": {"surrogate": SMALL_CLIP},
        },
    ),
    "ddpo": Algorithm(
        paper="Black et al. 2023 (DDPO, arXiv 2305.13301), eq. 3; steps of DDIM (arXiv 2010.02502), eqs. 12 and 16",
        run={"advantage": {**GROUP_STD, "clip": 5.0}},
        denoising={
            "rollout": {"sampler": "ddim", "noise_level": 1.0, "trained_steps": "all"},
            "loss": {"surrogate": SMALL_CLIP, "kl_weight": 0.0},
        },
    ),
    "grpo_guard": Algorithm(
        paper="Wang et al. 2025 (GRPO-Guard, arXiv 2510.22319): normalised ratios, equal say of every step",
        denoising={"loss": {"surrogate": "guard", "kl_weight": 0.0}},
    ),
    "temp_flow": Algorithm(
        paper="He et al. 2025 (TempFlow-GRPO, arXiv 2508.04324): Flow-GRPO with steps weighted by their noise, and the "
        "deviation of the group",
        run={"advantage": {**GROUP_STD, "clip": 5.0}},
        denoising={
            "rollout": {"sampler": "flow_grpo", "noise_level": 0.7},
            "loss": {
                "step_weighting": "noise",
                "surrogate": SMALL_CLIP,
                "kl_weight": 0.004,
                "kl_estimator": "step_mean",
            },
        },
    ),
    # ------------------------------------------------------------------ whole runs
    "realsr_r1_code": Algorithm(
        # What deviates from the released code, and why, is listed in docs/algorithm.md.
        paper="RealSR-R1 (arXiv 2506.16796) as its code was published: three rewards summed, ratio 1, no KL",
        run={
            "group_size": 5,
            "updates_per_batch": 1,
            "max_refills": 0,
            "advantage": REALSR_R1,
        },
        token={
            "rollout": {"temperature": 0.9},
            "loss": {"surrogate": "on_policy", "aggregation": "sequence_mean", "kl_weight": 0.0},
        },
        denoising={"loss": {"surrogate": "on_policy", "aggregation": "sequence_mean", "kl_weight": 0.0}},
        rewards={
            "format": {"weight": 1.0},
            "degradation": {"weight": 0.0},
            "understanding": {"weight": 1.0},
            "generation": {"weight": 1.0},
        },
    ),
    "realsr_r1_paper": Algorithm(
        paper="RealSR-R1 (arXiv 2506.16796): four rewards summed, sampled text, GRPO on true behaviour log-probs",
        run={"advantage": REALSR_R1},
        token={
            "rollout": {"temperature": 1.0},
            "loss": {
                "surrogate": {"kind": "ppo", "clip_low": 0.2, "clip_high": 0.2},
                "aggregation": "sequence_mean",
                "kl_weight": 0.0,
            },
        },
        denoising={"loss": {"surrogate": SMALL_CLIP, "aggregation": "sequence_mean", "kl_weight": 0.0}},
        rewards={name: {"weight": 1.0} for name in ("format", "degradation", "understanding", "generation")},
    ),
}
"""By name."""


def algorithm_layer(content: Layer) -> dict[str, Any]:
    """Return the keys that the algorithms named in a configuration set.

    Args:
        content: The configuration's own keys: its ``algorithm``, its policies with their kinds, its rewards.

    Raises:
        ConfigError: For a name that is not known.
    """
    layer: dict[str, Any] = {}
    for name in filter(None, str(content.get("algorithm") or "").split("+")):
        algorithm = _find(name)
        kinds = {name: keys.get("kind", "token") for name, keys in entries(content, "policies").items()}
        policies = {
            name: {"kind": kind, **(algorithm.denoising if kind == "denoising" else algorithm.token)}
            for name, kind in kinds.items()
        }
        rewards = {
            name: keys for name, keys in algorithm.rewards.items() if name in entries(content, "rewards")
        }
        layer = merge(layer, {**algorithm.run, "policies": policies, "rewards": rewards}, Config)
    return layer


def entries(content: Layer, mapping: str) -> dict[str, Layer]:
    """Return the entries of a mapping by name, those that are keys and values."""
    named = content.get(mapping)
    pairs = named.items() if isinstance(named, Mapping) else ()
    return {str(name): keys for name, keys in pairs if isinstance(keys, Mapping)}


def _find(name: str) -> Algorithm:
    if name not in ALGORITHMS:
        hint = suggest(name, ALGORITHMS) or ";"
        raise ConfigError(f"algorithm: no {name!r}{hint} known are {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]
