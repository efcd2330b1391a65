"""The picture codec worker: answers, counts, and what it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.policies.unified.codec import PictureCodec
from actors.policies.unified.small_codec import PatchCodec
from actors.rollout.picture_codec_worker import PictureCodecWorker
from rl.errors import ConfigError


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[PictureCodecWorker]:
    net = PatchCodec(stride=4, num_codes=16, width=8)
    net.start(torch.randn(100, 48, generator=torch.Generator().manual_seed(0)), torch.Generator())
    PictureCodec(net, torch.device("cpu")).save(tmp_path)
    worker = PictureCodecWorker(tmp_path)
    worker.setup()
    yield worker
    worker.close()


def test_pictures_go_there_and_back_each_an_object_of_its_own(worker: PictureCodecWorker):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (edge, 16, 3), dtype=np.uint8) for edge in (8, 16)]

    async def both():
        codes = await worker.encode(*pictures)
        return codes, await worker.decode(codes)

    codes, (sizes, *decoded) = asyncio.run(both())
    assert [grid.shape for grid in codes] == [(2, 4), (4, 4)]
    assert sizes == [(8, 16), (16, 16)] == [picture.shape[:2] for picture in decoded]
    assert all(
        (picture == worker.codec.decode(grid)).all() for picture, grid in zip(decoded, codes, strict=True)
    )
    assert worker.stats() == {"num_encoded": 2, "num_decoded": 2}
    (meter,) = worker.meters()
    assert (meter.num_in_hand, meter.num_done) == (0, 4)


def test_a_call_that_fails_leaves_the_worker_as_it_was(worker: PictureCodecWorker):
    with pytest.raises(ValueError, match="want 0 to 15"):
        asyncio.run(worker.decode([np.full((2, 2), 99, dtype=np.int32)]))
    with pytest.raises(ConfigError, match="multiples of 4, the codec"):
        asyncio.run(worker.encode(np.zeros((6, 8, 3), dtype=np.uint8)))
    (meter,) = worker.meters()
    assert (meter.num_in_hand, meter.num_done) == (0, 0)
    assert asyncio.run(worker.encode(np.zeros((8, 8, 3), dtype=np.uint8)))[0].shape == (2, 2)


def test_a_checkpoint_without_a_codec_is_refused(tmp_path: Path):
    worker = PictureCodecWorker(tmp_path)
    with pytest.raises(ConfigError, match=r"no codec/config\.json"):
        worker.setup()
    worker.close()
