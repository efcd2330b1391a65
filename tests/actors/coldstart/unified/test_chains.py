"""Supervised chains of a unified policy: right ids in the plan's order, actions where a policy would sample."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.coldstart.unified.chains import ALONE_SHARE, WholeChainWriter
from actors.policies.unified.codec import PictureCodec
from actors.policies.unified.small_codec import PatchCodec
from rl.data.source import Answer
from rl.errors import DataError
from rl.types import Prompt
from tests.reference.tiny_unified import CHAIN, NUM_CODES, PROMPT, STRIDE_PX, TEXTS, build, plan_of


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    vocabulary = build(tmp_path_factory.mktemp("unified"))
    net = PatchCodec(stride=STRIDE_PX, num_codes=NUM_CODES)
    generator = torch.Generator().manual_seed(0)
    net.start(torch.rand(500, 3 * STRIDE_PX**2, generator=generator) * 2 - 1, generator)
    codec = PictureCodec(net.eval(), torch.device("cpu"))
    return WholeChainWriter(chain=CHAIN, plan=plan_of(vocabulary), vocabulary=vocabulary, codec=codec, seed=0)


def answered(name: str, text: str = TEXTS[0]):
    rng = np.random.default_rng(len(name))
    photo = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    pictures = {
        block: rng.integers(
            0, 256, (settings.height_px or settings.size_px, settings.size_px, 3), dtype=np.uint8
        )
        for block, settings in CHAIN.items()
        if settings.kind == "image"
    }
    prompt = Prompt(prompt_id=name, messages=(PROMPT,), pictures={"degraded": photo}, shown=("degraded",))
    return prompt, Answer(texts={"look": text, "say": TEXTS[1]}, pictures=pictures)


def test_a_chain_is_its_texts_and_the_codes_of_its_pictures(writer):
    prompt, answer = answered("whole")
    (example,) = writer.examples([(prompt, answer)])
    stream, pictures = example.segment, writer.vocabulary.pictures
    sketch, paint = (
        pictures.stream(writer.codec.encode(answer.pictures[name])) for name in ("sketch", "paint")
    )
    ids = stream.tokens.tolist()
    first = ids.index(writer.plan.blocks[0].opening)
    assert ids[
        first + 1 : first + 1 + len(writer.vocabulary.encode.spell(TEXTS[0]))
    ] == writer.vocabulary.encode.spell(TEXTS[0])
    for picture in (sketch, paint):
        assert any(ids[start : start + len(picture)] == picture for start in range(len(ids)))
    shown = 32 * 16 // STRIDE_PX**2  # the photo is seen at the last picture's size
    codes = np.isin(ids, pictures.code_ids)
    assert codes.sum() == shown + 16 + 32
    assert (codes & stream.action_mask).sum() == 16 + 32
    assert set(stream.block_of[stream.action_mask]) == {0, 1, 2, 3}


def test_now_and_then_a_picture_is_taught_alone(writer):
    examples = writer.examples([answered(f"prompt {i}") for i in range(60)])
    begin = writer.vocabulary.begin
    alone = [
        e.segment
        for e in examples
        if e.segment.tokens[0] == begin and e.segment.tokens.tolist().count(begin) == 1
    ]
    assert 0 < len(alone) < 60 * 3 * ALONE_SHARE
    for stream in alone:
        assert stream.action_mask.sum() in (16, 32)
        assert len(set(stream.block_of[stream.action_mask])) == 1


def test_a_text_that_its_block_does_not_hold_is_named(writer):
    with pytest.raises(
        DataError, match=r"long: <look> takes \d+ tokens; raise chain.look.max_tokens \(now 12\)"
    ):
        writer.examples([answered("long", " ".join(TEXTS * 3))])


def test_a_chain_without_a_prompts_picture(writer):
    prompt, answer = answered("no picture")
    bare = replace(prompt, messages=(), tokens=(1, 2), pictures={}, shown=())
    (example,) = writer.examples([(bare, answer)])
    assert example.segment.tokens[:2].tolist() == [1, 2]
