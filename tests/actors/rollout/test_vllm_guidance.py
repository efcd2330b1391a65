"""The logits processor on batches as vLLM makes them, without an engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rl.compat.torchvision import ensure_torchvision
from rl.errors import RolloutError
from tests.reference.guidance import guided_logprobs

pytestmark = pytest.mark.engine

SCALES = {"a": 1.5, "b": 3.0}


@pytest.fixture(scope="module")
def guidance() -> Any:
    ensure_torchvision()
    from actors.rollout import vllm_guidance

    return vllm_guidance


def added(guidance: Any, place: int, pair: str, is_conditional: bool, written: list[int]) -> Any:
    half = guidance.Half(pair=pair, name=f"chain {pair}", scale=SCALES[pair], is_conditional=is_conditional)
    return place, SimpleNamespace(extra_args={guidance.HALF: half}), [], written


def batch(guidance: Any, rows: list[Any], **changes: Any) -> Any:
    plain = (4, SimpleNamespace(extra_args=None), [], [])
    return guidance.BatchUpdate(
        batch_size=5, added=[*rows, plain], removed=changes.get("removed", []), moved=changes.get("moved", [])
    )


def four_rows(guidance: Any) -> list[Any]:
    places = [(2, "a", True), (0, "a", False), (1, "b", True), (3, "b", False)]
    return [added(guidance, *place, [7]) for place in places]


def test_both_rows_of_each_pair_get_the_combined_logits(guidance: Any) -> None:
    processor = guidance.PairGuidance(None, torch.device("cpu"), False)
    processor.update_state(batch(guidance, four_rows(guidance)))
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    logits[:, 2] = -torch.inf
    before = logits.clone()
    after = processor.apply(logits)
    for seen, unseen, scale in ((2, 0, 1.5), (1, 3, 3.0)):
        want = guided_logprobs(
            before[seen].tolist(), before[unseen].tolist(), scale=scale, temperature=1.0, forbidden={2}
        )
        np.testing.assert_allclose(after[seen].log_softmax(0), want, atol=1e-5)
        assert torch.equal(after[seen], after[unseen])
    assert torch.equal(after[4], before[4])


def test_rows_are_followed_where_they_move(guidance: Any) -> None:
    processor = guidance.PairGuidance(None, torch.device("cpu"), False)
    processor.update_state(batch(guidance, four_rows(guidance)))
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    first = processor.apply(logits.clone())
    from vllm.v1.sample.logits_processor import MoveDirectionality

    swap = (2, 3, MoveDirectionality.SWAP)
    processor.update_state(guidance.BatchUpdate(batch_size=5, added=[], removed=[], moved=[swap]))
    order = [0, 1, 3, 2, 4]
    assert torch.equal(processor.apply(logits[order].clone()), first[order])


def test_without_pairs_nothing_is_touched(guidance: Any) -> None:
    processor = guidance.PairGuidance(None, torch.device("cpu"), False)
    processor.update_state(batch(guidance, []))
    logits = torch.randn(5, 6)
    assert processor.apply(logits) is logits
    assert not processor.is_argmax_invariant()


def test_a_row_that_left_is_missed_by_name(guidance: Any) -> None:
    processor = guidance.PairGuidance(None, torch.device("cpu"), False)
    processor.update_state(batch(guidance, four_rows(guidance)))
    processor.update_state(guidance.BatchUpdate(batch_size=4, added=[], removed=[3], moved=[]))
    with pytest.raises(RolloutError, match=r"chain b: .* are not in the same step"):
        processor.apply(torch.randn(5, 6))


def test_rows_at_different_tokens_are_named(guidance: Any) -> None:
    processor = guidance.PairGuidance(None, torch.device("cpu"), False)
    rows = four_rows(guidance)
    rows[0][3].append(8)
    processor.update_state(batch(guidance, rows))
    with pytest.raises(RolloutError, match=r"chain a: .* are not in the same step"):
        processor.apply(torch.randn(5, 6))
