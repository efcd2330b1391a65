"""The small text-to-image painter: its autoencoder is exact, and it is a picture policy like any other."""

import numpy as np
import pytest
import torch

from actors.policies.denoising.pipeline import PicturePipeline
from actors.policies.denoising.sampler import PaintJob, Sampler
from actors.policies.model_size import read_model
from actors.policies.text_to_image.autoencoder import cell_autoencoder
from actors.policies.text_to_image.small import make_text_to_image
from configs.planning.models import TEXT_TO_IMAGE
from rl.compat.torchvision import ensure_torchvision
from rl.types import ImageRequest, SamplerSpec

ensure_torchvision()
LEVEL = 1 / 127.5
"""A grey level, in latent units."""


@pytest.mark.parametrize("num_halvings", [1, 2])
def test_latents_are_the_means_of_cells_and_come_out_as_cells(num_halvings):
    autoencoder, edge = cell_autoencoder(num_halvings), 2**num_halvings
    pictures = torch.rand(2, 3, 4 * edge, 6 * edge, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        encoded = autoencoder.encode(pictures).latent_dist
        decoded = autoencoder.decode(encoded.mode()).sample
    means = torch.nn.functional.avg_pool2d(pictures, edge)
    assert encoded.mode().shape == (2, 3, 4, 6)
    torch.testing.assert_close(encoded.mode(), means, atol=LEVEL / 8, rtol=0)
    torch.testing.assert_close(
        decoded, means.repeat_interleave(edge, 2).repeat_interleave(edge, 3), atol=LEVEL / 8, rtol=0
    )
    assert encoded.std.max() < 1e-6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("painter") / "image"
    make_text_to_image(texts=["red above blue"], longest_px=32, seed=0).save_pretrained(directory)
    return directory


def test_words_and_their_order_change_the_picture_and_it_need_not_be_square(checkpoint):
    pipeline = PicturePipeline(checkpoint, {"guidance_scale": 1, "max_sequence_length": 12})
    with torch.no_grad():  # as made, the last layer of the net is 0
        for parameter in pipeline.net.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    sampler = Sampler(pipeline)

    def painted(text, height):
        request = ImageRequest(
            request_id=text,
            block="picture",
            size_px=32,
            height_px=height,
            num_steps=3,
            sampler=SamplerSpec(kind="flow_grpo", noise_level=0.0, reduction="mean"),
            pictures={},
            words={"text": text, "question": text},
            seed=1,
        )
        (made,) = sampler.paint([sampler.ready(PaintJob(request=request, pictures={}))])
        return made

    first, other = painted("red above blue", 16), painted("blue above red", 16)
    assert first.picture.shape == (16, 32, 3)
    assert first.segment.latents.shape == (4, 3, 4, 8)
    assert not np.array_equal(first.picture, other.picture)
    assert painted("red above blue", 32).picture.shape == (32, 32, 3)


def test_a_pipeline_that_was_saved_without_one_of_its_encoders_is_loaded(tmp_path):
    pipeline = make_text_to_image(texts=["red"], longest_px=16, seed=0)
    pipeline.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipeline.save_pretrained(tmp_path)
    loaded = PicturePipeline(tmp_path, {"guidance_scale": 1, "max_sequence_length": 4}).pipe
    assert loaded.text_encoder_3 is None
    assert loaded.text_encoder_2 is not None


def test_what_a_plan_assumes_of_it_is_what_it_is(checkpoint):
    made = read_model(checkpoint, "denoising")
    assert {key: made.fields[key] for key in TEXT_TO_IMAGE.fields} == TEXT_TO_IMAGE.fields
    assert (made.num_trained, made.patch) == (TEXT_TO_IMAGE.num_trained, TEXT_TO_IMAGE.patch)
    assert made.latents_a_pixel == TEXT_TO_IMAGE.latents_a_pixel
    assert made.num_frozen == pytest.approx(TEXT_TO_IMAGE.num_frozen, rel=0.2)
