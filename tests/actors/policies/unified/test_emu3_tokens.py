"""Emu3's picture ids, derived from its tokenizer, against its own processor's and mapping's, made in place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from actors.policies.unified.picture_tokens import emu3_picture_ids
from rl.chain.plan import CODES
from rl.compat.torchvision import ensure_torchvision
from rl.errors import ConfigError

NUM_CODES = 12
NAMES = {
    "image_token": "<image>",
    "boi_token": "<|image start|>",
    "eoi_token": "<|image end|>",
    "image_wrapper_token": "<|image token|>",
    "eof_token": "<|extra_201|>",
}
ROW_END = "<|extra_200|>"


def make_tokenizer(code_names):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*"0123456789*", "<unk>", "<s>", "</s>", *NAMES.values(), ROW_END, *code_names]
    model = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=NAMES,
    )
    tokenizer.add_tokens([ROW_END, *code_names], special_tokens=True)
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    # As in the real one, names of codes are not in order of code.
    codes = [*range(5, NUM_CODES), *range(5)]
    return make_tokenizer([f"<|visual token {code:06d}|>" for code in codes])


def test_a_picture_is_framed_as_by_emu3s_processor(tokenizer):
    ensure_torchvision()
    from transformers import Emu3ImageProcessor, Emu3Processor

    ids = emu3_picture_ids(tokenizer, stride_px=8)
    processor = Emu3Processor(
        Emu3ImageProcessor(min_pixels=16 * 16, max_pixels=512 * 512, spatial_factor=8), tokenizer
    )
    height, width = 24, 40
    picture = Image.fromarray(np.zeros((height, width, 3), np.uint8))
    processed = processor(text="<image>", images=picture)
    (expanded,) = processed["input_ids"]
    assert list(processed["image_sizes"][0]) == [height, width]
    layout = ids.tokens.layout(height // 8, width // 8)
    placeholder = tokenizer.convert_tokens_to_ids("<image>")
    inside = [placeholder if index in {CODES, *layout.row_end} else index for index in layout.template]
    assert list(expanded) == [tokenizer.bos_token_id, *inside]
    assert tokenizer.convert_ids_to_tokens(layout.opening) == [
        "<|image start|>",
        "3",
        "*",
        "5",
        "<|image token|>",
    ]
    assert tokenizer.convert_ids_to_tokens(layout.closing) == ["<|extra_201|>", "<|image end|>"]


def test_codes_stand_as_in_emu3s_mapping(tokenizer):
    ensure_torchvision()
    from transformers.models.emu3.modeling_emu3 import Emu3ImageVocabularyMapping

    ids = emu3_picture_ids(tokenizer, stride_px=8)
    codes = np.random.default_rng(0).integers(0, NUM_CODES, (3, 4), dtype=np.int32)
    mapping = Emu3ImageVocabularyMapping(tokenizer.get_vocab())
    mapped = mapping.convert_img2bpe(torch.from_numpy(codes).long()).flatten().tolist()
    layout = ids.tokens.layout(*codes.shape)
    stream = ids.tokens.stream(codes)
    assert stream[len(layout.opening) : -len(layout.closing)] == mapped
    assert len(ids.tokens.code_ranges) == 2
    assert {layout.opening[0], *layout.row_end, *layout.closing} < ids.framing


def test_a_tokenizer_that_lacks_codes_is_refused():
    with pytest.raises(ConfigError, match="lacks tokens for codes"):
        emu3_picture_ids(make_tokenizer(["<|visual token 000001|>"]), stride_px=8)
