"""Diffusers pipelines under DeepSpeed: every ZeRO stage and two ranks, a flow and a v model, give the same update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.reference.picture_jobs import PLANS, SURROGATES, picture_batch, picture_config, picture_stages
from tests.reference.pipelines import build_pipeline
from tests.reference.ranks import run_ranks

pytestmark = [pytest.mark.engine, pytest.mark.long]

NAMES = ("stable_diffusion_3", "stable_diffusion_v")
LIVES = [(name, surrogate, stage) for name in NAMES for surrogate in SURROGATES for stage in (1, 2, 3)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What each rank recorded, by the number of ranks."""
    root: Path = tmp_path_factory.mktemp("pictures")
    for name in NAMES:
        build_pipeline(name, root / name)
    alone = [(name, surrogate, 1) for name in NAMES for surrogate in SURROGATES]
    return {1: run_ranks(picture_stages, 1, root, alone), 2: run_ranks(picture_stages, 2, root, LIVES)}


@pytest.mark.parametrize("life", LIVES, ids=str)
def test_two_ranks_make_the_update_of_one(
    ranks: dict[int, list[dict[str, Any]]], life: tuple[str, str, int]
) -> None:
    name, surrogate, _ = life
    (alone,) = ranks[1]
    want = alone[f"{name}/{surrogate}/1"]
    got = [rank["/".join(map(str, life))] for rank in ranks[2]]
    assert want["ratio"] < 1e-5
    assert max(rank["ratio"] for rank in got) < 1e-5
    assert want["grad_norm"] > 1e-4
    np.testing.assert_allclose(got[0]["grad_norm"], want["grad_norm"], rtol=1e-4)
    assert got[0]["after"].keys() == want["after"].keys()
    for key, value in want["after"].items():
        np.testing.assert_allclose(got[0]["after"][key], value, atol=2e-5, err_msg=key)


def test_steps_are_scored_apart_only_where_the_loss_allows_it() -> None:
    apart, together = (picture_batch(picture_config(NAMES[0], kind), 2, 2) for kind in ("ppo", "gspo"))
    num_actions = sum(len(steps) for steps in PLANS)
    assert apart.num_actions == together.num_actions == num_actions
    assert apart.num_sequences == together.num_sequences == len(PLANS)
    assert apart.num_chunks == 1
    assert together.num_chunks == 3
    for batch in (apart, together):
        assert len({len(micros) for micros in batch.micro_batches}) == 1
    # Every micro-batch of steps scored apart has one step, and each is there once.
    micros = [micro for rank in apart.micro_batches for micro in rank]
    assert all(len({item.steps for item in micro.items}) == 1 for micro in micros)
    scored = [
        (item.item_id, item.steps[0])
        for micro in micros
        for item, weight in zip(micro.items, micro.weights, strict=True)
        if weight
    ]
    assert sorted(scored) == sorted((str(index), step) for index, steps in enumerate(PLANS) for step in steps)
