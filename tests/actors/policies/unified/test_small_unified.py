"""The small unified model: its codes' embeddings start like their vectors, and nothing else changes."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from actors.policies.unified.small import EMBEDDINGS, WEIGHTS, start_codes
from tests.reference.tiny_unified import NUM_CODES, build


def test_like_codes_start_with_like_embeddings(tmp_path):
    vocabulary = build(tmp_path)
    before = load_file(tmp_path / WEIGHTS)
    vectors = torch.randn(NUM_CODES, 4, generator=torch.Generator().manual_seed(1))
    start_codes(tmp_path, vectors, seed=0)
    after = load_file(tmp_path / WEIGHTS)
    codes = list(vocabulary.pictures.code_ids)
    rows = after[EMBEDDINGS][codes]
    likeness = torch.corrcoef(
        torch.stack([torch.cdist(rows, rows).flatten(), torch.cdist(vectors, vectors).flatten()])
    )
    assert likeness[0, 1] > 0.8
    assert 0.8 < float(rows.std() / before[EMBEDDINGS][codes].std()) < 1.2
    others = [i for i in range(len(after[EMBEDDINGS])) if i not in codes]
    assert torch.equal(after[EMBEDDINGS][others], before[EMBEDDINGS][others])
    assert all(torch.equal(after[name], before[name]) for name in after if name != EMBEDDINGS)
