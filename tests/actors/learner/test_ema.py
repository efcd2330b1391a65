"""The moving average on plain tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.learner import ema
from actors.learner.ema import WeightAverage, decay_at
from tests.reference.ema import moving_average

floats = st.floats(-3, 3, width=32)
histories = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(floats, min_size=n, max_size=n), min_size=1, max_size=30)
)


def follow(history, decay):
    """An average whose masters went through the history."""
    masters = torch.tensor(history[0])
    average = WeightAverage([masters], decay, lambda: None)
    for weights in history[1:]:
        masters.copy_(torch.tensor(weights))
        average.update()
    return average, masters


def shown(average, masters):
    with average.in_place():
        return masters.clone()


@settings(deadline=None, max_examples=60)
@given(histories, st.floats(0.01, 1))
def test_it_is_the_reference(history, decay):
    np.testing.assert_allclose(
        shown(*follow(history, decay)), moving_average(history, decay), rtol=0, atol=1e-5
    )


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_decay_rises_to_its_value(n, decay):
    assert decay_at(n, decay) <= decay_at(n + 1, decay) <= decay
    assert decay_at(n, decay) < 1
    assert decay_at(10**9, decay) == pytest.approx(decay, abs=1e-7)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_after_it_was_in_place_masters_and_average_are_the_same_to_the_last_bit(monkeypatch, chunk):
    monkeypatch.setattr(ema, "EXCHANGE_ELEMENTS", chunk)
    generator = torch.Generator().manual_seed(0)
    masters = [torch.randn(n, generator=generator) for n in (7, 1, 0)]
    seen = []
    average = WeightAverage(masters, 0.5, lambda: seen.append([m.clone() for m in masters]))
    for master in masters:
        master.mul_(1.7)
    average.update()
    before = [m.clone() for m in masters]
    with average.in_place():
        inside = [m.clone() for m in masters]
    assert all(torch.equal(a, b) for a, b in zip(before, masters, strict=True))
    assert not torch.equal(inside[0], masters[0])
    with average.in_place():
        assert all(torch.equal(a, b) for a, b in zip(inside, masters, strict=True))
    # The model is told each time, after the change.
    assert [torch.equal(s[0], inside[0]) for s in seen] == [True, False, True, False]
    assert torch.equal(seen[1][0], before[0])


def test_an_error_inside_leaves_the_trained_weights():
    average, masters = follow([[1.0], [2.0]], 0.9)
    with pytest.raises(RuntimeError), average.in_place():
        raise RuntimeError
    assert masters.tolist() == [2.0]


def test_where_a_saved_one_goes_on_nothing_changes_to_the_last_bit():
    generator = np.random.default_rng(0)
    history = generator.normal(size=(9, 5)).astype(np.float32)
    whole, masters = follow(history.tolist(), 0.99)
    half, half_masters = follow(history[:5].tolist(), 0.99)
    again = WeightAverage([half_masters], 0.99, lambda: None)
    again.shards[0].copy_(half.shards[0])
    again.num_updates = half.num_updates
    for weights in history[5:]:
        half_masters.copy_(torch.tensor(weights))
        again.update()
    assert again.num_updates == whole.num_updates == 8
    assert torch.equal(shown(again, half_masters), shown(whole, masters))


def test_restarted_it_is_the_masters():
    average, masters = follow([[1.0], [2.0], [3.0]], 0.9)
    average.restart()
    assert shown(average, masters).tolist() == [3.0]
    assert average.num_updates == 0
