"""The supervised loop: one process and two learn the same, and a resumed run ends where it would have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actors.coldstart.supervised import SupervisedSpec
from tests.reference.ranks import run_ranks
from tests.reference.supervised_jobs import (
    NUM_STEPS,
    finalizer_imports,
    lives,
    supervised_batches,
    two_process_groups,
)
from tests.reference.tiny_policy import TinyClassifier


def test_learning_rate_rises_and_falls():
    spec = SupervisedSpec(num_steps=100, learning_rate=1e-3, warmup_frac=0.1, final_frac=0.05)
    rates = [spec.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == rates[9] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(5e-5)
    assert np.all(np.diff(rates[:10]) > 0)
    assert np.all(np.diff(rates[9:]) < 0)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return {world: run_ranks(lives, world, tmp_path_factory.mktemp(f"supervised{world}")) for world in (1, 2)}


def plain_torch():
    """The same steps without DeepSpeed."""
    torch.manual_seed(0)
    module = TinyClassifier()
    spec = SupervisedSpec(num_steps=NUM_STEPS, learning_rate=1e-2)
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.0)
    losses = []
    for step, batch in enumerate(supervised_batches(0, 1)):
        loss = module(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = spec.rate(step)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, {name: p.detach().numpy() for name, p in module.named_parameters()}


@pytest.mark.engine
@pytest.mark.parametrize("world", [1, 2])
def test_same_as_plain_torch(found, world):
    losses, weights = plain_torch()
    got = np.mean([rank["losses"] for rank in found[world]], axis=0)
    np.testing.assert_allclose(got, losses, atol=1e-5)
    assert losses[-1] < losses[0]
    for rank in found[world]:
        for name, want in weights.items():
            np.testing.assert_allclose(rank["weights"][name], want, atol=1e-5)


@pytest.mark.engine
@pytest.mark.parametrize("world", [1, 2])
def test_resumed_run_is_the_same_to_the_last_bit(found, world):
    for rank in found[world]:
        for name, want in rank["weights"].items():
            assert rank["resumed weights"][name].tobytes() == want.tobytes()
        assert rank["resumed losses"] == rank["losses"][-len(rank["resumed losses"]) :]


@pytest.mark.engine
@pytest.mark.parametrize("world", [1, 2])
def test_every_rank_diverges(found, world):
    for rank in found[world]:
        assert rank["diverged"].startswith("supervised step 0: loss or gradient is not finite")


@pytest.mark.engine
def test_an_engine_that_is_dropped_imports_nothing():
    """Where the garbage collector drops it during an import, Python 3.11 would break that import off."""
    assert run_ranks(finalizer_imports, 1) == [{"collected": True, "imported": []}]


@pytest.mark.engine
def test_a_process_may_leave_a_process_group_and_join_another():
    ((first, second),) = run_ranks(two_process_groups, 1)
    assert first == second
