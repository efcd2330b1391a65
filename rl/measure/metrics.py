"""Metrics: every name, and how they are added up.

A name is ``component/quantity[_unit][/reduction]``. Means travel as (sum, count) pairs until the very end,
because a mean of means is wrong as soon as two ranks see different numbers of actions. ``<policy>``,
``<reward>`` and ``<key>`` in the list below stand for names from the config.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from configs.schema import Config
from rl.advantage.assign import Advantages
from rl.advantage.combine import RewardTerm, total_reward
from rl.advantage.filters import has_spread, tells_apart
from rl.advantage.scores import join
from rl.measure.correlation import Member, correlations
from rl.types import Finish, Metrics, ScoredGroup, UpdateStats

NAMES: Mapping[str, str] = {
    "reward/total/mean": "weighted sum of raw rewards",
    "reward/total/std": "over all chains",
    "reward/total/min": "",
    "reward/total/max": "",
    "reward/<reward>/mean": "one reward in its own unit, over valid chains",
    "reward/<reward>/std": "over all valid chains",
    "reward/<reward>/present_mean": "over valid chains that have what it judges: what the alarm looks at",
    "reward/<reward>/group_std": "mean over groups of the spread within a group: what advantages are made of",
    "reward/<reward>/invalid_frac": "share of chains whose scorer failed",
    "reward/<reward>/missing_frac": "share of chains that lacked what the reward judges",
    "reward/<reward>/zero_spread_frac": "share of groups that the reward does not tell apart",
    "reward/<reward>/corr/<key>": "Pearson's correlation of two rewards (or total) over chains, within groups",
    "reward/zero_spread_group_frac": "share of groups that the rewards as trained (gated, combined) do not tell apart",
    "advantage/abs/mean": "mean absolute advantage over chains and blocks",
    "group/kept_frac": "share of the sampled groups that is trained",
    "group/dropped_invalid": "groups left with fewer than two scored chains",
    "group/dropped_zero_spread": "groups that no combined reward tells apart",
    "rollout/failed_frac": "share of sampled chains that lost a score",
    "rollout/finish/stop_frac": "share of whole chains",
    "rollout/finish/length_frac": "share that ran out of tokens",
    "rollout/finish/malformed_frac": "share that left the grammar",
    "rollout/finish/aborted_frac": "share stopped from outside",
    "rollout/<key>/alike_within_frac": "share of pairs of one prompt's chains with the same text in block <key>",
    "rollout/<key>/alike_between_frac": "of two prompts'; as high as within: the text says nothing of the prompt",
    "rollout/<policy>/num_actions/mean": "actions of a chain",
    "rollout/<policy>/num_actions/max": "",
    "policy/<policy>/importance_ratio/mean": "policy over behaviour probability of the trained actions",
    "policy/<policy>/importance_ratio/max": "",
    "policy/<policy>/ratio_before_update/mean_dev": "|ratio - 1| before the first update; on-policy: 0",
    "policy/<policy>/ratio_before_update/max_dev": "",
    "policy/<policy>/mismatch_logprob_nats/mean": "|learner - rollout worker| at equal weights",
    "policy/<policy>/mismatch_logprob_nats/max": "the early-warning light",
    "policy/<policy>/mismatch_weight/mean": "factor of the correction, over the trained actions; 1: no mismatch",
    "policy/<policy>/mismatch_truncated_frac": "share of actions whose mismatch weight was held at the cap",
    "policy/<policy>/mismatch_masked_frac": "share of actions left out for their mismatch",
    "policy/<policy>/behaviour_kl_nats/mean": "k3 estimate of KL(behaviour || policy)",
    "policy/<policy>/ref_kl_nats/mean": "KL(policy || reference) as kl_estimator has it",
    "policy/<policy>/entropy_nats/mean": "of the sampling distribution",
    "policy/<policy>/clip_frac_low": "share of actions whose gradient the lower bound cut (cispo: weight it held)",
    "policy/<policy>/clip_frac_high": "share of actions whose gradient the upper bound cut (cispo: weight it held)",
    "policy/<policy>/num_actions": "trained actions of the step",
    "loss/<policy>/total": "mean over what the aggregation counts",
    "loss/<policy>/surrogate": "",
    "loss/<policy>/kl": "KL term with its weight",
    "loss/<policy>/entropy": "entropy bonus with its weight",
    "learner/<policy>/grad_norm": "before it is scaled down",
    "learner/<policy>/lr": "learning rate",
    "weights/<policy>/version": "",
    "weights/<policy>/canary_nats/<key>": "largest log-prob gap of rollout worker <key> to its learner after a load",
    "weights/<policy>/canary_nats/max": "of all workers",
    "weights/<policy>/canary_nats/tolerance": "above which a run stops",
    "weights/<policy>/published_bytes": "what travelled to each worker: all weights, or the adapters",
    "weights/<policy>/staleness/mean": "learner version minus the chain's lowest; at most max_staleness",
    "weights/<policy>/staleness/max": "",
    "time/step_s": "",
    "time/collect_s": "waiting for enough scored groups",
    "time/rollout_s": "from a group's start to its last finished chain",
    "time/reward_s": "wait after the last chain finished",
    "time/reward_busy_s": "work of the reward workers",
    "time/reward/<reward>/busy_s": "work of one reward's workers",
    "time/reward/<reward>/queue_wait_s": "mean over chains, from arrival at the pool to the start of its scoring",
    "reward/<reward>/cached_frac": "share of chains whose score was kept from before, where that is on",
    "reward/<reward>/num_replaced": "workers that hung or died and were replaced",
    "reward/<reward>/num_redone": "calls that were sent to another worker",
    "time/update_s": "",
    "time/publish_s": "sending and loading",
    "time/prove_s": "what was left to wait for of the canaries, which are written and scored while a step is collected",
    "time/weights/<policy>/send_s": "gathering, packing, digests and sending of one publication",
    "time/weights/<policy>/check_s": "the slowest worker's digests",
    "time/weights/<policy>/load_s": "the slowest worker's loading, merging of adapters included",
    "eval/<key>/mean": "held-out prompts",
    "alarm/<reward>": "1 where the trained total rises and this watched metric falls over alarm_window steps",
    "alarm/held_out/<key>": "the same on held-out prompts",
    "trend/<key>/per_step": "slope over alarm_window steps, of the total or a watched metric; above 0 is better",
    "trend/<key>/t": "slope over its standard error",
    "trend/held_out/<key>/per_step": "",
    "trend/held_out/<key>/t": "",
}
"""Name -> meaning, where the name does not say it."""

FREE = re.compile(r"step|wall_time_s")
"""Columns of the metrics file that are not metrics."""

_PATTERN = re.compile("|".join(re.sub(r"<\w+>", r"[\\w.-]+", name) for name in NAMES))


def check_name(name: str) -> str:
    """Return ``name`` if it is on the list.

    Raises:
        ValueError: If it is not; the message has the nearest that is.
    """
    if not (_PATTERN.fullmatch(name) or FREE.fullmatch(name)):
        nearest = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.0)
        raise ValueError(f"metric {name!r} is not in rl.measure.metrics.NAMES; nearest: {nearest[0]!r}")
    return name


def merge(stats: Sequence[UpdateStats]) -> UpdateStats:
    """Add up what several ranks, micro-batches or optimizer steps saw."""
    sums: dict[str, tuple[float, float]] = {}
    maxima: dict[str, float] = {}
    for part in stats:
        for name, (total, count) in part.sums.items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = (before[0] + total, before[1] + count)
        for name, value in part.maxima.items():
            maxima[name] = max(value, maxima.get(name, value))
    return UpdateStats(sums=sums, maxima=maxima)


def to_metrics(stats: UpdateStats) -> Metrics:
    """Divide sums by counts; a quantity nobody counted is left out.

    Raises:
        ValueError: If a name is not on the list.
    """
    means = {check_name(name): total / count for name, (total, count) in stats.sums.items() if count}
    return means | {check_name(name): value for name, value in stats.maxima.items()}


def reward_metrics(groups: Sequence[ScoredGroup], config: Config, terms: Mapping[str, RewardTerm]) -> Metrics:
    """Summarise the rewards of scored groups.

    Args:
        groups: Best the groups as sampled: those that the filters keep are not a fair sample.
        config: Its ``advantage`` says what spread is.
        terms: By reward, for their weights; the parts of a reward are counted together, under its name.

    Returns:
        ``reward/*``; a quantity without a single valid score is left out.
    """
    if not groups:
        return {}
    metrics: Metrics = {}
    names = tuple(dict.fromkeys(term.partition(".")[0] for term in terms))
    for name in names:
        metrics |= _metrics_of(name, groups)
    members = [_members(group, names, terms) for group in groups]
    metrics |= {f"reward/{a}/corr/{b}": value for (a, b), value in correlations(members).items()}
    totals = np.concatenate([values[valid] for values, valid in (member["total"] for member in members)])
    if totals.size:
        metrics |= {
            "reward/total/mean": float(totals.mean()),
            "reward/total/std": float(totals.std()),
            "reward/total/min": float(totals.min()),
            "reward/total/max": float(totals.max()),
        }
    flat = [not tells_apart(group, config, terms) for group in groups]
    metrics["reward/zero_spread_group_frac"] = float(np.mean(flat))
    return metrics


def _metrics_of(name: str, groups: Sequence[ScoredGroup]) -> Metrics:
    scores = [group.scores[name] for group in groups]
    joined = join(name, scores)
    values = joined.values[joined.valid].astype(np.float64)
    metrics: Metrics = {
        f"reward/{name}/invalid_frac": float(np.mean(~joined.valid)),
        f"reward/{name}/missing_frac": float(np.mean(joined.missing)),
        f"reward/{name}/zero_spread_frac": float(np.mean([not has_spread(score) for score in scores])),
    }
    if values.size:
        spreads = [score.values[score.valid].std(ddof=1) for score in scores if score.valid.sum() > 1]
        metrics[f"reward/{name}/mean"] = float(values.mean())
        metrics[f"reward/{name}/std"] = float(values.std())
        metrics[f"reward/{name}/group_std"] = float(np.mean(spreads)) if spreads else 0.0
    present = joined.values[joined.valid & ~joined.missing].astype(np.float64)
    if present.size:
        metrics[f"reward/{name}/present_mean"] = float(present.mean())
    return metrics


def _members(group: ScoredGroup, names: Sequence[str], terms: Mapping[str, RewardTerm]) -> dict[str, Member]:
    """Return the total of a group and its rewards, with the chains that each has really judged."""
    members: dict[str, Member] = {"total": (total_reward(group, terms), group.valid)}
    for name in names:
        scores = group.scores[name]
        members[name] = scores.values.astype(np.float64), scores.valid & ~scores.missing
    return members


def rollout_metrics(groups: Sequence[ScoredGroup]) -> Metrics:
    """Summarise how the chains ended and how much each policy did in them."""
    chains = [chain for group in groups for chain in group.chains]
    if not chains:
        return {}
    metrics: Metrics = {
        f"rollout/finish/{finish.value}_frac": sum(c.finish is finish for c in chains) / len(chains)
        for finish in Finish
    }
    actions: dict[str, list[int]] = {}
    for index, chain in enumerate(chains):
        for segment in chain.segments:
            by_chain = actions.setdefault(segment.policy, [0] * len(chains))
            by_chain[index] += sum(segment.num_actions.values())
    for policy, counts in actions.items():
        metrics[f"rollout/{policy}/num_actions/mean"] = float(np.mean(counts))
        metrics[f"rollout/{policy}/num_actions/max"] = float(max(counts))
    for block in dict.fromkeys(name for chain in chains for name in chain.block_text):
        within, between = _alike(block, groups)
        metrics |= {} if within is None else {f"rollout/{block}/alike_within_frac": within}
        metrics |= {} if between is None else {f"rollout/{block}/alike_between_frac": between}
    return metrics


def _alike(block: str, groups: Sequence[ScoredGroup]) -> tuple[float | None, float | None]:
    """Return how often two chains wrote the same text in a block: chains of one prompt, and of two prompts.

    None stands where there is no such pair. Texts that are never twice the same, as long ones, give 0 and 0.
    """
    by_prompt: dict[str, Counter[str]] = {}
    for group in groups:
        texts = (chain.block_text[block] for chain in group.chains if block in chain.block_text)
        by_prompt.setdefault(group.prompt_id, Counter()).update(texts)
    everything = sum(by_prompt.values(), Counter[str]())
    same = sum(num * (num - 1) for texts in by_prompt.values() for num in texts.values())
    of_one = sum(texts.total() * (texts.total() - 1) for texts in by_prompt.values())
    same_anywhere = sum(num * (num - 1) for num in everything.values())
    of_two = everything.total() * (everything.total() - 1) - of_one
    return same / of_one if of_one else None, (same_anywhere - same) / of_two if of_two else None


def staleness_metrics(groups: Sequence[ScoredGroup], versions: Mapping[str, int]) -> Metrics:
    """Summarise how far the weights that wrote each chain are behind the learners' present versions."""
    metrics: Metrics = {}
    chains = [chain for group in groups for chain in group.chains]
    for policy, version in versions.items():
        if behind := [version - chain.versions[policy][0] for chain in chains if policy in chain.versions]:
            metrics[f"weights/{policy}/staleness/mean"] = sum(behind) / len(behind)
            metrics[f"weights/{policy}/staleness/max"] = float(max(behind))
    return metrics


def advantage_metrics(advantages: Advantages) -> Metrics:
    """Summarise the advantages of a step."""
    values = [abs(value) for by_block in advantages.values() for value in by_block.values()]
    return {"advantage/abs/mean": sum(values) / len(values)} if values else {}
