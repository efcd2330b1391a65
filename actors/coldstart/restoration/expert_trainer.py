"""Cold start of the learned visual expert: pyiqa's CNNIQA, trained to rank restorations, and the task that trains it.

The label is the SSIM (luma) to the truth, which the network never sees. Data: ``expert_data``.

Letters: N contents, V variants of each, B contents in a batch, M variants drawn of each, H W pixels.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn

from actors.coldstart.restoration.expert_data import ExpertDataset, make_expert_dataset, restorations
from actors.coldstart.supervised import Report, SupervisedSpec, run_supervised
from actors.coldstart.task import ColdstartTask, training_prompts
from rewards.experts.expert import to_tensor
from rewards.experts.pyiqa_metric import import_pyiqa
from rl.errors import DivergedError
from rl.restoration.names import truth_of
from rl.types import Floats

logger = logging.getLogger(__name__)

CONTENTS = 200
"""Most photographs the expert learns from; each gives dozens of variants."""
UNIFIED_CONTENTS = 80
"""Likewise where a unified policy writes a whole chain for each of its variants: about a quarter of a second."""
LEARNING_RATE = 2e-3
"""AdamW's peak."""
ARCHITECTURE: Mapping[str, int] = {"ker_size": 7, "n_kers": 50, "n1_nodes": 256, "n2_nodes": 256}
"""CNNIQA as pyiqa builds it, with smaller fully connected layers."""
TEMPERATURE = 0.03
"""Quality difference (SSIM) that makes the better of two pictures win with odds e : 1."""
REGRESSION_WEIGHT = 0.05
"""Weight of the squared error, in units of ``TEMPERATURE``: keeps scores near SSIM's own scale."""
MEAN_QUALITY = 0.8
"""What an untrained network says of every picture."""
NUM_DRAWN = 8
"""Variants of one content in a batch, M."""
WORSE_KINDS = ("truth/noise-light", "truth/noise", "truth/sharpened", "bicubic", "blurred", "bicubic/noise")
"""What the truth is compared with in the report."""
HOLDOUT_FRAC = 0.2
"""Share of contents kept for the report."""


def train_expert(task: ColdstartTask) -> None:
    """Fit the learned expert on variants of photographs and on the image policy's own outputs."""
    config = task.config
    is_unified = config.policies[task.policy].kind == "unified"
    num_contents = min(UNIFIED_CONTENTS if is_unified else CONTENTS, config.coldstart.num_examples)
    prompts = training_prompts(config, config.coldstart.num_examples, num_contents)
    truths = [truth for p in prompts if (truth := truth_of(p)) is not None]
    restored = restorations(task, prompts)
    dataset = make_expert_dataset(truths, restored, seed=config.seed)
    fit_expert(
        dataset,
        task.spec(num_steps=config.coldstart.expert_steps, learning_rate=LEARNING_RATE),
        directory=task.directory,
        seed=config.seed,
        report=task.report,
    )


class ExpertModel(nn.Module):
    """CNNIQA under a ranking loss."""

    def __init__(self, *, seed: int) -> None:
        super().__init__()
        import_pyiqa()
        from pyiqa.archs.cnniqa_arch import CNNIQA

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = CNNIQA(**ARCHITECTURE, pretrained=None)
            nn.init.normal_(network.fc3.weight, std=1e-3)
        network.dropout.p = 0.0  # its noise would drown differences of a hundredth
        nn.init.constant_(network.fc3.bias, MEAN_QUALITY)
        self.network: nn.Module = network

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the loss.

        Each pair of variants of one content is a match whose winner is drawn with the odds of the quality
        difference over ``TEMPERATURE``; the network's score difference must give the same odds. Soft odds
        keep near-equal pictures apart without asking for certainty.

        Args:
            batch: ``pictures`` ``float32[B, M, 3, H, W]`` in 0..1; ``qualities`` ``[B, M]``.

        Returns:
            Scalar, nats a match.

        Source:
            Burges 2010, "From RankNet to LambdaRank to LambdaMART", section 2, with soft targets.
        """
        qualities = batch["qualities"]
        scores = self.network(batch["pictures"].flatten(0, 1)).view_as(qualities)
        logits = _differences(scores) / TEMPERATURE
        odds = torch.sigmoid(_differences(qualities) / TEMPERATURE)
        ranking = F.binary_cross_entropy_with_logits(logits, odds) - _entropy(odds)
        return ranking + REGRESSION_WEIGHT * F.mse_loss(scores / TEMPERATURE, qualities / TEMPERATURE)


def expert_batches(
    dataset: ExpertDataset, *, batch_size: int, seed: int, contents: Sequence[int] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Yield batches without end.

    Args:
        dataset: What to draw from.
        batch_size: Contents B in a batch; each gives ``NUM_DRAWN`` variants, pictures mirrored at random.
        seed: Of the draws.
        contents: Those to draw from; None takes all.
    """
    rng = np.random.default_rng(seed)
    pool = np.arange(len(dataset.pictures)) if contents is None else np.asarray(contents)
    close = [*dataset.columns("near/"), *dataset.columns("restored/")]
    while True:
        chosen = rng.choice(pool, size=min(batch_size, len(pool)), replace=False)
        drawn = [_draw_variants(len(dataset.kinds), close, rng) for _ in chosen]
        pictures = np.stack([dataset.pictures[i, v] for i, v in zip(chosen, drawn, strict=True)])
        if rng.random() < 0.5:
            pictures = pictures[:, :, :, ::-1]
        flat = to_tensor(list(pictures.reshape(-1, *pictures.shape[2:])))
        qualities = np.stack([dataset.qualities[i, v] for i, v in zip(chosen, drawn, strict=True)])
        yield {
            "pictures": flat.view(*pictures.shape[:2], *flat.shape[1:]),
            "qualities": torch.from_numpy(qualities),
        }


def fit_expert(
    dataset: ExpertDataset,
    spec: SupervisedSpec,
    *,
    directory: Path,
    seed: int,
    batch_size: int = 6,
    report: Report,
) -> dict[str, Any]:
    """Fit, report on held-out contents, and save; about 0.1 s a step on one core at 64 px.

    Args:
        dataset: At least 5 contents; every fifth or so is held out.
        spec: How long and how fast.
        directory: Where ``expert.pth`` and ``expert.json`` are written.
        seed: Of weights, split and batches.
        batch_size: Contents in a batch.
        report: Told of the progress.

    Returns:
        What ``expert.json`` holds: ``metric``, ``options``, ``range`` and the figures of ``report_expert``.

    Raises:
        ValueError: If there are fewer than two contents: one to learn from, one to hold out.
        DivergedError: If loss, gradient or scores are not finite.
    """
    if len(dataset.pictures) < 2:
        raise ValueError(
            f"want at least 2 contents (5 for a report worth reading), got {len(dataset.pictures)}"
        )
    order = np.random.default_rng(seed).permutation(len(dataset.pictures))
    num_held = max(1, round(HOLDOUT_FRAC * len(order)))
    held, kept = order[:num_held], order[num_held:]
    model = ExpertModel(seed=seed)
    batches = expert_batches(dataset, batch_size=batch_size, seed=seed, contents=kept.tolist())
    run_supervised(spec, module=model, batches=batches, report=report)
    return save_expert(model, dataset, directory=directory, held=held.tolist())


def save_expert(
    model: ExpertModel, dataset: ExpertDataset, *, directory: Path, held: Sequence[int]
) -> dict[str, Any]:
    """Write ``expert.pth`` and, beside it, ``expert.json`` with the range of scores and the report.

    The range is from the 1st to the 99th percentile of the scores of all variants of the held-out contents.

    Args:
        model: Fitted.
        dataset: What it was fitted on.
        directory: Made where absent.
        held: Contents it was not fitted on.

    Raises:
        DivergedError: If its scores are not finite.
    """
    scores = score_dataset(model, dataset, held)
    if not np.isfinite(scores).all():
        raise DivergedError("the learned expert's scores are not finite; nothing was saved")
    low, high = (float(p) for p in np.percentile(scores, [1, 99]))
    record: dict[str, Any] = {
        "metric": "cnniqa",
        "options": dict(ARCHITECTURE),
        "range": [low, max(high, low + 1e-3)],
        **report_expert(scores, dataset, held),
    }
    directory.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu() for name, tensor in model.network.state_dict().items()}
    torch.save({"params": weights}, directory / "expert.pth")
    (directory / "expert.json").write_text(json.dumps(record, indent=1) + "\n")
    logger.info("expert: %s", record)
    return record


@torch.no_grad()
def score_dataset(model: ExpertModel, dataset: ExpertDataset, contents: Sequence[int]) -> Floats:
    """Return the network's scores of all variants of some contents, ``[len(contents), V]``."""
    model.eval()
    rows = [model.network(to_tensor(list(dataset.pictures[i]))).flatten() for i in contents]
    scores: Floats = torch.stack(rows).numpy()
    return scores


def report_expert(scores: Floats, dataset: ExpertDataset, held: Sequence[int]) -> dict[str, float]:
    """Say how far the expert can be trusted.

    Returns:
        ``spearman``: mean rank correlation with SSIM over all variants of a content; ``spearman_near`` and
        ``spearman_restored``: over near-equal pictures, and over the policy's own (where there are 3 or
        more); ``truth_over_<kind>``: share of contents whose truth scores higher than that variant of it.
    """
    qualities = dataset.qualities[list(held)]
    out = {"spearman": _mean_spearman(scores, qualities)}
    for name in ("near", "restored"):
        if len(columns := dataset.columns(f"{name}/")) >= 3:
            out[f"spearman_{name}"] = _mean_spearman(scores[:, columns], qualities[:, columns])
    for kind in WORSE_KINDS:
        column = dataset.kinds.index(kind)
        out[f"truth_over_{kind.replace('/', '_')}"] = float(np.mean(scores[:, 0] > scores[:, column]))
    return out


# --------------------------------------------------------------------------------- inside


def _mean_spearman(scores: Floats, qualities: Floats) -> float:
    rows = [row for row in zip(scores, qualities, strict=True) if np.ptp(row[0]) and np.ptp(row[1])]
    return float(np.mean([spearmanr(*row).statistic for row in rows])) if rows else 0.0


def _draw_variants(num: int, close: Sequence[int], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw variants of one content: half the time only near-equal ones, else any."""
    pool = np.asarray(close) if len(close) >= 3 and rng.random() < 0.5 else np.arange(num)
    return rng.choice(pool, size=NUM_DRAWN, replace=len(pool) < NUM_DRAWN)


def _differences(values: Tensor) -> Tensor:
    """Differences of all pairs of a row, each pair once: ``[B, M]`` to ``[B, M (M - 1) / 2]``."""
    first, second = torch.triu_indices(values.shape[1], values.shape[1], offset=1)
    return values[:, first] - values[:, second]


def _entropy(odds: Tensor) -> Tensor:
    """Mean entropy, nats: what the loss would be at best."""
    return F.binary_cross_entropy(odds, odds)
