"""Guided chains cut into parts: what each part's contexts are, and that the parts join to the chain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from actors.rollout.guided_chains import ChainPart, GuidedChain
from configs.schema import BlockConfig
from rl.chain.grammar import ChainGrammar, TagVocabulary
from rl.chain.plan import CODES, PictureLayout, PictureTokens, make_plan, walked
from rl.errors import RolloutError
from rl.types import ChainPlan, Finish, TextRequest, TextSampling

BEGIN, ROW_END, CLOSE, END, SIZE, CODE = 10, 11, 12, 13, 15, 30
TAGS = {"look": 40, "sketch": 42, "say": 44, "paint": 46}
PROMPT = np.array([1, 2, 3], dtype=np.int32)


def layout(rows: int, columns: int) -> PictureLayout:
    opening = (BEGIN, SIZE + rows, SIZE + columns)
    return PictureLayout(rows=rows, columns=columns, opening=opening, row_end=(ROW_END,), closing=(CLOSE,))


@pytest.fixture
def plan() -> ChainPlan:
    text = BlockConfig(kind="text", policy="one", max_tokens=8)
    image = BlockConfig(kind="image", policy="one", size_px=32)
    tags = TagVocabulary(
        opening=TAGS,
        closing={name: tag + 1 for name, tag in TAGS.items()},
        picture=(BEGIN,),
        placeholder=BEGIN,
        end=frozenset({END}),
    )
    blocks = {"look": text, "sketch": image, "say": text, "paint": image}
    return make_plan(
        ChainGrammar(blocks, tags),
        PictureTokens(code_ranges=((CODE, CODE + 8),), layout=layout, stride_px=16),
    )


def started(plan: ChainPlan) -> GuidedChain:
    request = TextRequest(
        request_id="g/0",
        tokens=PROMPT,
        pictures=(),
        max_tokens=0,
        stop_ids=(),
        sampling=TextSampling(guidance=0.8),
        seed=5,
        plan=plan,
    )
    return GuidedChain(request, plan)


CODES_2X2 = [CODE, CODE + 1, ROW_END, CODE + 2, CODE + 3]
LOOK = [TAGS["look"], 7, TAGS["look"] + 1, TAGS["sketch"]]
SAY = [TAGS["say"], TAGS["say"] + 1, TAGS["paint"]]
OPENING = [BEGIN, SIZE + 2, SIZE + 2]


def run(chain: GuidedChain, *texts: list[int]) -> Iterator[ChainPart]:
    """Write texts where text is due, and codes where codes are; yield each part."""
    left = iter(texts)
    while not chain.is_done:
        part = chain.next_part()
        yield part
        tokens = CODES_2X2 if part.alone is not None else next(left)
        chain.add(tokens, [0.0 if token == ROW_END else -1.0 for token in tokens])


def test_a_chain_is_text_pairs_of_codes_and_what_is_forced_between(plan: ChainPlan) -> None:
    chain = started(plan)
    parts = list(run(chain, LOOK, SAY))
    picture = [*OPENING, *CODES_2X2, ROW_END, CLOSE]
    sketched = [*LOOK, *picture, TAGS["sketch"] + 1]
    assert [list(part.before) for part in parts] == [
        [],
        [*LOOK, *OPENING],
        sketched,
        [*sketched, *SAY, *OPENING],
    ]
    assert [part.tokens.tolist() for part in parts] == [[*PROMPT, *part.before] for part in parts]
    assert [None if part.alone is None else part.alone.tolist() for part in parts] == [None, OPENING] * 2
    assert [part.max_tokens for part in parts[1::2]] == [len(CODES_2X2)] * 2
    assert set(parts[0].stop_ids) == {END, TAGS["sketch"], TAGS["paint"]}
    assert parts[1].stop_ids == ()
    assert len({part.seed for part in parts}) == 4
    assert chain.ids == [*sketched, *SAY, *picture, TAGS["paint"] + 1]
    walk = walked(plan, chain.ids)
    assert walk.finish is Finish.STOP
    assert [bool(logprob) for logprob in chain.logprobs] == [index >= 0 for index in walk.block_of]


def test_a_chain_that_leaves_the_grammar_is_done_and_keeps_no_forced_end(plan: ChainPlan) -> None:
    chain = started(plan)
    chain.next_part()
    chain.add([TAGS["look"], TAGS["paint"], END], [-1.0, -2.0, 0.0])
    assert chain.is_done
    assert chain.ids == [TAGS["look"], TAGS["paint"]]
    assert chain.logprobs == [-1.0, -2.0]


def test_given_texts_cost_no_part(plan: ChainPlan) -> None:
    chain = started(plan.given({"look": [7], "say": [8, 9]}))
    assert [part.alone is not None for part in run(chain)] == [True, True]
    assert [chain.ids[i] for i in (0, 1, 2)] == LOOK[:3]


@pytest.mark.parametrize("tokens", [LOOK[:2], [*LOOK[:3]]])
def test_a_part_that_was_cut_is_named(plan: ChainPlan, tokens: list[int]) -> None:
    chain = started(plan)
    chain.next_part()
    with pytest.raises(RolloutError, match=r"g/0: the engine left a chain before the end of a part"):
        chain.add(tokens, [-1.0] * len(tokens))


def test_a_picture_that_was_cut_is_named(plan: ChainPlan) -> None:
    chain = started(plan)
    chain.next_part()
    chain.add(LOOK, [-1.0] * 4)
    assert CODES in plan.blocks[1].template
    with pytest.raises(RolloutError, match="before the end of a part"):
        chain.add(CODES_2X2[:2], [-1.0] * 2)
