"""Walk through a chain that one policy writes whole, against the state machine of chains that two policies write."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import BlockConfig
from rl.chain.grammar import ChainGrammar, TagVocabulary
from rl.chain.plan import CODES, TEXT, PictureLayout, PictureTokens, Walk, make_plan, walked
from rl.chain.state import ChainState, Done, PaintImage
from rl.types import Finish

TEXT_IDS = range(10)
SPACE, END, BEGIN, ROW_END, CLOSE, SIZE = 10, 11, 12, 13, 14, 15
CODE_RANGES = ((20, 24), (30, 34))
FIRST_TAG = 40


def layout(rows: int, columns: int) -> PictureLayout:
    return PictureLayout(
        rows=rows,
        columns=columns,
        opening=(BEGIN, SIZE + rows, SIZE + columns),
        row_end=(ROW_END,),
        closing=(CLOSE,),
    )


PICTURES = PictureTokens(code_ranges=CODE_RANGES, layout=layout, stride_px=16)
TEXT_BLOCK = BlockConfig(kind="text", policy="one", max_tokens=8)
IMAGE_BLOCK = BlockConfig(kind="image", policy="one", size_px=32, height_px=16)


def make_grammar(kinds: str) -> ChainGrammar:
    """Return the grammar of a chain: ``t`` is a text block, ``i`` an image block."""
    blocks = {f"{kind}{n}": TEXT_BLOCK if kind == "t" else IMAGE_BLOCK for n, kind in enumerate(kinds)}
    tagged = list(blocks) if len(blocks) > 1 else []
    tags = TagVocabulary(
        opening={name: FIRST_TAG + 2 * n for n, name in enumerate(tagged)},
        closing={name: FIRST_TAG + 2 * n + 1 for n, name in enumerate(tagged)},
        picture=(BEGIN,),
        placeholder=BEGIN,
        whitespace=frozenset({SPACE}),
        end=frozenset({END}),
    )
    return ChainGrammar(blocks, tags)


def test_a_picture_is_rows_of_codes_between_what_is_forced():
    codes = np.array([[0, 5], [3, 4]])
    assert PICTURES.stream(codes) == [BEGIN, SIZE + 2, SIZE + 2, 20, 31, ROW_END, 23, 30, ROW_END, CLOSE]
    assert layout(2, 2).template.count(CODES) == 4


def test_a_whole_chain():
    plan = make_plan(make_grammar("ti"), PICTURES)
    (text, image), walk = plan.blocks, Walk(plan)
    ids = [text.opening, 3, text.closing, SPACE, image.opening]
    for token in ids:
        assert walk.allowed == TEXT
        walk.push(token)
    for token in PICTURES.stream(np.array([[1, 6]])):
        assert walk.allowed == (CODES if token >= 20 else token)
        walk.push(token)
    assert walk.allowed == image.closing
    walk.push(image.closing)
    assert (walk.finish, walk.allowed) == (Finish.STOP, END)
    walk.push(END)
    assert walk.block_of == [0, 0, 0, 0, 0, -1, -1, -1, 1, 1, -1, -1, -1, -1]
    assert walk.bodies == {text.name: slice(1, 2)}
    assert walk.pictures == {image.name: slice(5, 12)}
    assert len(walk.block_of) <= plan.max_tokens


def test_a_forced_id_cannot_be_another():
    walk = Walk(make_plan(make_grammar("it"), PICTURES))
    assert walk.allowed == FIRST_TAG
    with pytest.raises(ValueError, match="id 3 came where 40 is forced"):
        walk.push(3)


def test_given_texts_are_forced():
    grammar = make_grammar("titi")
    plan = make_plan(grammar, PICTURES).given({"t0": [1, 2], "t2": []})
    walk, ids = Walk(plan), []
    while walk.finish is None:
        ids.append(20 if walk.allowed == CODES else walk.allowed)
        walk.push(ids[-1])
    assert walk.finish is Finish.STOP
    assert TEXT not in ids
    assert [ids[body] for body in walk.bodies.values()] == [[1, 2], []]
    assert [index for index in walk.block_of if index >= 0] == [1, 1, 3, 3]


def test_a_chain_of_one_picture_has_no_tags():
    walk = Walk(make_plan(make_grammar("i"), PICTURES))
    while walk.finish is None:
        walk.push(33 if walk.allowed == CODES else walk.allowed)
    assert walk.pictures == {"i0": slice(0, 7)}


def test_a_chain_of_one_text_ends_itself():
    plan = make_plan(make_grammar("t"), PICTURES)
    walk = walked(plan, [1, 2, END])
    assert (walk.finish, walk.bodies, walk.block_of) == (Finish.STOP, {"t0": slice(0, 2)}, [0, 0, 0])
    assert walked(plan, [1] * 8).finish is Finish.LENGTH


@given(kinds=st.text("ti", min_size=2, max_size=5), seed=st.integers(0, 2**32 - 1))
def test_text_is_taken_as_by_the_state_machine_of_two_policies(kinds: str, seed: int):
    """Random ids, mostly right ones: both machines end alike and credit the same sampled ids to the same blocks."""
    if "t" not in kinds:
        kinds = "t" + kinds
    rng, grammar = np.random.default_rng(seed), make_grammar(kinds)
    walk, state = Walk(make_plan(grammar, PICTURES)), ChainState(grammar, [])
    tags = [*grammar.tags.opening.values(), *grammar.tags.closing.values()]
    while not isinstance(step := state.next_step(), Done):
        if isinstance(step, PaintImage):
            while step.block not in walk.pictures:
                walk.push(int(rng.choice(PICTURES.code_ids)) if walk.allowed == CODES else walk.allowed)
            state.image_painted(step.block, 0)
            continue
        while walk.allowed >= 0 and walk.finish is None:
            walk.push(walk.allowed)
        written: list[int] = []
        while True:
            likely = grammar.tags.opening[step.block], grammar.tags.closing[step.block], *step.stop_ids
            token = int(rng.choice([*TEXT_IDS, SPACE, *likely, *tags]))
            written.append(token)
            walk.push(token)
            if token in step.stop_ids or len(written) == step.max_tokens or walk.finish is not None:
                break
        state.text_written(written, np.zeros(len(written)), stopped=written[-1] in step.stop_ids, version=0)
    done = state.next_step()
    assert isinstance(done, Done)
    assert walk.finish is done.finish
    texts = {i: walk.block_of.count(i) for i, b in enumerate(grammar.blocks) if b.kind == "text"}
    assert {grammar.names[i]: n for i, n in texts.items() if n} == state.num_actions()
