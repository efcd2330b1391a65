"""Vocabulary of a policy that writes text and pictures: which ids are what, read from a checkpoint's own files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from actors.policies.token.tokenizer import load_tokenizer
from actors.policies.unified.picture_tokens import FILE, read_picture_tokens
from actors.policies.unified.small import FRAMING, MAX_SIZE
from actors.policies.unified.vocabulary import CODE_ROW, TEXT_ROW, load_unified_vocabulary
from rl.errors import ConfigError
from tests.reference.tiny_unified import CHAIN, NUM_CODES, PROMPT, STRIDE_PX, build


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("unified")
    build(path)
    return path


@pytest.fixture(scope="module")
def vocabulary(directory):
    return load_unified_vocabulary(directory, list(CHAIN))


def test_codes_are_sampled_in_pictures_and_words_and_tags_outside(vocabulary, directory):
    tokenizer = load_tokenizer(directory)
    words = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    words -= set(tokenizer.convert_tokens_to_ids(list(FRAMING)))
    words -= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    assert set(np.flatnonzero(vocabulary.masks[TEXT_ROW]).tolist()) == words
    assert np.flatnonzero(vocabulary.masks[CODE_ROW]).tolist() == list(vocabulary.pictures.code_ids)
    assert words >= {*vocabulary.tags.opening.values(), *vocabulary.tags.closing.values()}
    assert len(vocabulary.pictures.code_ids) == NUM_CODES
    assert vocabulary.forbidden_ids == ()


def test_a_chain_of_one_text_may_end_itself(directory):
    single = load_unified_vocabulary(directory, ["answer"])
    assert single.masks[TEXT_ROW][list(single.tags.end)].all()


def test_a_pictures_sizes_have_ids_of_their_own(vocabulary, directory):
    stored = read_picture_tokens(directory)
    layout = vocabulary.pictures.layout(3, 5)
    names = load_tokenizer(directory).convert_ids_to_tokens(list(layout.opening))
    assert names == ["<|picture|>", "<|size 3|>", "<|size 5|>"]
    assert (layout.row_end, layout.closing) == ((stored.row_end,), (stored.end,))
    assert vocabulary.begin == layout.opening[0] == vocabulary.tags.placeholder
    assert vocabulary.pictures.of_block(CHAIN["paint"]) == vocabulary.pictures.layout(4, 8)
    assert vocabulary.pictures.stride_px == STRIDE_PX
    with pytest.raises(ConfigError, match=f"65 rows and 2 columns .* from 1 to {MAX_SIZE}"):
        vocabulary.pictures.layout(65, 2)


def test_a_prompts_picture_is_one_placeholder_with_and_without_a_chat_template(
    vocabulary, directory, tmp_path
):
    bare = vocabulary.encode((PROMPT,))
    assert bare.count(vocabulary.begin) == 1
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}!")
    templated = load_unified_vocabulary(tmp_path, list(CHAIN)).encode((PROMPT,))
    assert templated[: len(bare)] == bare
    assert len(templated) == len(bare) + 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (None, "no picture_tokens.json in it"),
        ({"begin": "x"}, "damaged"),
        ({"unknown": 3}, "damaged"),
        ({"codes": [[300, 300]]}, "ids of their own"),
        ({"row_end": 10_000, "end": 10_000}, "ids of their own"),
        ({"stride_px": 0}, "a stride"),
    ],
)
def test_a_file_that_says_too_little_is_refused(directory, tmp_path, changes, error):
    if changes is not None:
        stored = json.loads((directory / FILE).read_text())
        (tmp_path / FILE).write_text(json.dumps({**stored, **changes}))
    with pytest.raises(ConfigError, match=error):
        read_picture_tokens(tmp_path)
