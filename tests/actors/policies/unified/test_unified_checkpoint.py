"""Which checkpoints a unified policy takes; the others are refused by what they are."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from actors.policies.unified.checkpoint import check_unified
from actors.policies.unified.picture_tokens import read_picture_tokens
from rl.errors import ConfigError
from tests.reference.tiny_unified import NUM_CODES, STRIDE_PX, build


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("unified")
    build(path)
    write_codec(path, NUM_CODES)
    return path


@pytest.fixture
def directory(source, tmp_path):
    return shutil.copytree(source, tmp_path / "copy")


def write_codec(directory, num_codes):
    (directory / "codec").mkdir(exist_ok=True)
    stored = {"_class_name": "PatchCodec", "stride": STRIDE_PX, "num_codes": num_codes}
    (directory / "codec" / "config.json").write_text(json.dumps(stored))


def test_a_small_model_with_a_codec_is_taken(directory):
    check_unified(directory)


def test_a_codec_of_another_size_is_refused(directory):
    write_codec(directory, NUM_CODES + 1)
    with pytest.raises(
        ConfigError, match=rf"says {NUM_CODES} codes of 4 px, and the codec has {NUM_CODES + 1} of"
    ):
        check_unified(directory)


def test_codes_that_the_model_has_no_ids_for_are_refused(directory):
    stored = read_picture_tokens(directory)
    replace(stored, codes=((10_000, 10_000 + NUM_CODES),)).write(directory)
    with pytest.raises(ConfigError, match="code ids go up to 10063, and the model has"):
        check_unified(directory)


def test_a_model_without_a_codec_is_refused(directory):
    shutil.rmtree(directory / "codec")
    with pytest.raises(ConfigError, match="holds qwen3 and no picture codec"):
        check_unified(directory)


def test_a_whole_emu3_is_refused_with_what_to_do(directory):
    config = {"model_type": "emu3", "architectures": ["Emu3ForConditionalGeneration"]}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"holds a whole emu3 model; .* its causal language model"):
        check_unified(directory)
