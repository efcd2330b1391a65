"""Picture codecs: shapes, inverses, what is saved and what is refused; the stock nets against their own libraries."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.policies.restoration.image_model import to_latents, to_pictures
from actors.policies.unified.codec import PictureCodec, load_codec
from actors.policies.unified.codec_files import check_codec, read_codec
from actors.policies.unified.small_codec import PatchCodec, kmeans, nearest, patches_of
from rl.compat.torchvision import ensure_torchvision
from rl.errors import ConfigError
from rl.types import Ints, Pixels

CPU = torch.device("cpu")
NUM_VISUAL, FIRST_VISUAL, ROW_END = 64, 10, 6
"""Of the small Emu3's vocabulary."""


def picture(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def started(num_codes: int = 32) -> PatchCodec:
    """Return a codec that knows the patches of one picture, and whose nets do something."""
    torch.manual_seed(0)
    net = PatchCodec(stride=4, num_codes=num_codes, width=8)
    generator = torch.Generator().manual_seed(0)
    net.start(patches_of([to_latents([picture(64, 64)])], 4, 1000, generator), generator)
    for part in (net.encoder[-1], net.decoder[-1]):
        torch.nn.init.normal_(part.weight, std=0.02)
    return net.eval()


@pytest.fixture(scope="module")
def emu3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ensure_torchvision()
    from transformers import Emu3Config, Emu3ForConditionalGeneration, Emu3ImageProcessor

    torch.manual_seed(0)
    visual = {f"<|visual token {i:06d}|>": FIRST_VISUAL + i for i in range(NUM_VISUAL)}
    text = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Emu3Config(
        vq_config={
            "codebook_size": NUM_VISUAL,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 2],
            "num_res_blocks": 1,
            "attn_resolutions": [2],
            "hidden_size": 64,
        },
        text_config={
            **text,
            "vocab_size": 100,
            "num_hidden_layers": 1,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        vocabulary_map={"<image>": 5, "<|extra_200|>": ROW_END, **visual},
    )
    directory = tmp_path_factory.mktemp("emu3")
    Emu3ForConditionalGeneration(config).save_pretrained(directory)
    Emu3ImageProcessor(image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.25, 0.2]).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def vq_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ensure_torchvision()
    from diffusers import VQModel

    torch.manual_seed(0)
    model = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        num_vq_embeddings=16,
    )
    directory = tmp_path_factory.mktemp("vq")
    model.save_pretrained(directory / "codec")
    return directory


def check_round_trip(directory: Path, *, num_codes: int) -> None:
    """Check shapes, range, sizes from JSON, that batches change nothing, and that a saved copy is equal."""
    codec = load_codec(directory)
    files = read_codec(directory)
    assert (codec.stride, codec.num_codes) == (files.stride, files.num_codes) == (4, num_codes)
    pictures = [picture(16, 24), picture(8, 8, 1), picture(16, 24, 2)]
    codes = codec.encode_batch(pictures)
    assert [(grid.shape, grid.dtype) for grid in codes] == [
        ((4, 6), np.int32),
        ((2, 2), np.int32),
        ((4, 6), np.int32),
    ]
    assert all(grid.min() >= 0 and grid.max() < num_codes for grid in codes)
    assert any(len(np.unique(grid)) > 1 for grid in codes)
    decoded = codec.decode_batch(codes)
    assert [(made.shape, made.dtype) for made in decoded] == [(made.shape, np.uint8) for made in pictures]
    for one, grid, made in zip(pictures, codes, decoded, strict=True):
        assert (codec.encode(one) == grid).all()
        assert np.abs(codec.decode(grid).astype(int) - made).max() <= 1
    copy = directory / "copy"
    codec.save(copy)
    again = load_codec(copy)
    assert all((a == b).all() for a, b in zip(again.encode_batch(pictures), codes, strict=True))
    assert all((a == b).all() for a, b in zip(again.decode_batch(codes), decoded, strict=True))


def test_ours_goes_there_and_back(tmp_path: Path):
    PictureCodec(started(), CPU).save(tmp_path)
    check_round_trip(tmp_path, num_codes=32)


def test_a_vq_model_goes_there_and_back_as_its_own_library_does(vq_model: Path):
    from diffusers import VQModel

    check_round_trip(vq_model, num_codes=16)
    model, shown = VQModel.from_pretrained(vq_model / "codec").eval(), picture(16, 24)
    with torch.no_grad():
        own = to_pictures(model(to_latents([shown])).sample)[0]
    codec = load_codec(vq_model)
    assert np.abs(codec.decode(codec.encode(shown)).astype(int) - own).max() <= 1


def test_emu3_goes_there_and_back_as_its_own_library_does(emu3: Path):
    from transformers import Emu3ForConditionalGeneration, Emu3ImageProcessor

    check_round_trip(emu3, num_codes=NUM_VISUAL)
    model = Emu3ForConditionalGeneration.from_pretrained(emu3).eval().model
    processor = Emu3ImageProcessor.from_pretrained(emu3, do_resize=False)
    shown = picture(16, 24)
    seen = processor([shown], return_tensors="pt")
    with torch.no_grad():
        tokens = model.get_image_tokens(seen["pixel_values"].flatten(0, -4), seen["image_sizes"])
    rows = tokens.view(4, 7)
    assert (rows[:, -1] == ROW_END).all()
    codec = load_codec(emu3)
    codes = codec.encode(shown)
    assert (rows[:, :-1].numpy() - FIRST_VISUAL == codes).all()
    # Three ids close a picture.
    pixels = model.decode_image_tokens(torch.cat([tokens, torch.zeros(3, dtype=tokens.dtype)])[None], 4, 6)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    own = to_pictures(2 * (pixels * std + mean) - 1)[0]
    assert np.abs(codec.decode(codes).astype(int) - own).max() <= 1


def test_a_codec_whose_weights_are_not_all_there_is_refused(emu3: Path, vq_model: Path, tmp_path: Path):
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((emu3 / name).read_text())
    with pytest.raises(ConfigError, match=r"no safetensors file with the picture codec's weights"):
        check_codec(tmp_path)
    save_file({"text_model.norm": torch.zeros(1)}, tmp_path / "model.safetensors")
    check_codec(tmp_path)
    with pytest.raises(ConfigError, match=r"\d+ weights of its picture codec are in no safetensors file"):
        load_codec(tmp_path)
    for name, directory in (("vq", vq_model), ("emu3", emu3)):
        part = tmp_path / name
        load_codec(directory).save(part)
        (path,) = (part / "codec").glob("*.safetensors")
        weights = load_file(path)
        lost = next(key for key in weights if key.endswith(".weight"))
        del weights[lost]
        save_file(weights, path, metadata={"format": "pt"})
        with pytest.raises(ConfigError, match=f"1 weights of its picture codec .*, e.g. {re.escape(lost)}"):
            load_codec(part)


def test_kmeans_uses_every_code_and_takes_its_rows_where_there_are_no_more():
    generator = torch.Generator().manual_seed(0)
    rows = torch.cat([torch.randn(500, 4, generator=generator), torch.zeros(500, 4)])
    codebook = kmeans(rows, 64, generator)
    assert nearest(rows, codebook).unique().numel() == 64
    few = torch.randn(16, 4, generator=generator)
    assert torch.allclose(kmeans(few, 16, generator).sort(0).values, few.sort(0).values)


def test_components_and_codebook_start_as_pca_and_kmeans():
    torch.manual_seed(0)
    net = PatchCodec(stride=4, num_codes=64, num_components=48, width=8)
    generator = torch.Generator().manual_seed(0)
    shown = to_latents([picture(32, 32)])
    net.start(patches_of([shown], 4, 1000, generator), generator)
    # 64 patches, 64 codes and all components: nothing is lost.
    assert torch.allclose(net.to_pixels(net.to_codes(shown)), shown, atol=1e-4)
    assert net.to_codes(shown).unique().numel() == 64


@pytest.mark.parametrize("codes", [[[-1]], [[32]]])
def test_what_is_no_code_is_not_decoded(codes: list[list[int]]):
    with pytest.raises(ValueError, match=r"want 0 to 31"):
        PictureCodec(started(), CPU).decode(np.array(codes, dtype=np.int32))


def test_a_picture_that_does_not_fit_the_stride_is_refused():
    with pytest.raises(ConfigError, match=r"18x16 px cannot be encoded: edges must be multiples of 4,"):
        PictureCodec(started(), CPU).encode(picture(16, 18))


def test_nothing_in_is_nothing_out():
    codec = PictureCodec(started(), CPU)
    empty: list[Ints] = []
    assert codec.encode_batch([]) == [] == codec.decode_batch(empty)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "chameleon"}, "encoder of Chameleon's picture codec and no decoder"),
        ({"model_type": "qwen3"}, "holds qwen3 and no picture codec"),
        ({"_class_name": "VQModel"}, "config.json is damaged: KeyError: 'block_out_channels'"),
        ([], "holds no JSON object"),
        (None, r"no codec/config\.json in it"),
    ],
)
def test_a_checkpoint_without_a_usable_codec_is_refused_in_one_line(
    config: object, message: str, tmp_path: Path
):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message) as refusal:
        check_codec(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_chameleon_with_a_codec_beside_it_is_taken(vq_model: Path, tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "chameleon"}')
    (tmp_path / "codec").symlink_to(vq_model / "codec")
    check_codec(tmp_path)
    assert load_codec(tmp_path).num_codes == 16
