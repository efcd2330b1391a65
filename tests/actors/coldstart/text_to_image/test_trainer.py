"""Cold start of the text-to-image painter: what it learns from, and that it learns and says so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.coldstart.painter import train_painter
from actors.coldstart.task import ColdstartTask
from actors.coldstart.text_to_image.examples import batches, encode_examples
from actors.policies.denoising.checkpoint import read_pipeline
from actors.policies.text_to_image.small import make_text_to_image
from configs.load import load_config
from rl.data.regions import paint_roughly, parse_regions
from rl.data.source import prompt_source
from rl.errors import DataError

SMALL = ["coldstart.num_examples=64", "coldstart.image_batch_size=16"]


def config(*changes):
    return load_config("text_to_image", [*SMALL, *changes])


def test_answers_are_rough_pictures_of_what_a_prompt_says_and_every_draw_differs():
    settings = config("chain.picture.height_px=16")
    source = prompt_source(settings)
    first, again = source.train(0), source.train(source.num_train())
    picture = source.answer(first, settings.chain, 0).pictures["picture"]
    assert picture.shape == (16, 32, 3)
    assert (picture == source.answer(first, settings.chain, 0).pictures["picture"]).all()
    assert (picture != source.answer(first, settings.chain, 1).pictures["picture"]).any()
    assert first.prompt_id != again.prompt_id


def test_batches_put_each_picture_to_its_text_and_leave_some_texts_out():
    regions = parse_regions([{"colour": "red", "box": [0, 0, 1, 1]}])
    rng = np.random.default_rng(0)
    texts = ["red", "blue", "red", "red and blue"]
    pictures = [paint_roughly(regions, 32, 16, rng) for _ in texts]
    pipeline = make_text_to_image(texts=texts, longest_px=32, seed=0)
    examples = encode_examples(pipeline, texts, pictures)
    assert examples.latents.shape == (4, 3, 8, 4)
    assert examples.asks.tolist() == [2, 1, 2, 3]
    means = torch.from_numpy(np.stack(pictures)).float().mean((1, 2)) / 127.5 - 1
    torch.testing.assert_close(examples.latents.mean((2, 3)), means, atol=1e-3, rtol=0)
    stream = batches(examples, batch_size=4, seed=0, rank=0, world=1)
    seen = [next(stream) for _ in range(50)]
    for batch in seen:
        for truth, text in zip(batch["truth"], batch["text"], strict=True):
            (row,) = [index for index in range(4) if torch.equal(examples.latents[index], truth)]
            assert any(torch.equal(text, examples.text[which]) for which in (0, int(examples.asks[row])))
    without = np.mean([torch.equal(text, examples.text[0]) for batch in seen for text in batch["text"]])
    assert 0.03 < without < 0.25


@pytest.mark.engine
def test_a_painter_is_made_from_prompts_and_learns(tmp_path: Path):
    losses = {}
    settings = config("coldstart.image_steps=40", "coldstart.image_learning_rate=3e-3")
    task = ColdstartTask(
        config=settings,
        policy="image",
        directory=tmp_path / "made",
        made=tmp_path,
        work=tmp_path / "work",
        rank=0,
        world_size=1,
        report=lambda step, metrics: losses.update({step: metrics["loss"]}),
        note=lambda _: None,
    )
    train_painter(task)
    assert losses[40] < 0.8 * losses[1]
    files = read_pipeline(tmp_path / "made")
    assert (files.class_name, files.net, files.has_own_code) == (
        "StableDiffusion3Pipeline",
        "transformer",
        False,
    )


def test_prompts_that_say_not_what_is_right_cannot_teach_a_painter(tmp_path: Path):
    file = tmp_path / "asked.jsonl"
    file.write_text('{"prompt": "a cat"}\n{"prompt": "a dog"}\n')
    settings = config(f"data.prompts={file}")
    source = prompt_source(settings)
    with pytest.raises(
        DataError, match=r"a file's regions can be taught to a chain of one image block; this row has none"
    ):
        source.answer(source.train(0), settings.chain, 0)
    two = replace(settings, chain={**settings.chain, "more": settings.chain["picture"]})
    with pytest.raises(DataError, match="this one has 2 blocks"):
        source.answer(replace(source.train(0), reference={"regions": []}), two.chain, 0)
