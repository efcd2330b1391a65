"""The state of a chain that one policy writes whole: what it asks for, what the learner and the rewards get."""

from __future__ import annotations

import numpy as np
import pytest

from rl.chain.plan import Walk, make_plan
from rl.chain.state import Done
from rl.chain.whole import DecodePictures, WholeChain, WriteChain
from rl.errors import RolloutError
from rl.types import Finish, TextSampling
from tests.rl.chain.test_plan import CLOSE, PICTURES, SIZE, make_grammar

PROMPT = [1, 2, 3]
PICTURE = np.array([[1, 6]])
SAMPLING = TextSampling()


def chain_of(kinds: str) -> WholeChain:
    return WholeChain(make_plan(make_grammar(kinds), PICTURES), "one", PICTURES, PROMPT)


def answer(chain: WholeChain) -> list[int]:
    """Return a whole answer to a chain of a text and a picture."""
    text, image = chain.plan.blocks
    return [
        *(text.opening, 5, text.closing, image.opening),
        *PICTURES.stream(PICTURE),
        image.closing,
    ]


def logprobs_of(chain: WholeChain, ids: list[int]) -> np.ndarray:
    walk = Walk(chain.plan)
    out = []
    for token in ids:
        out.append(-1.0 if walk.allowed < 0 else 0.0)
        walk.push(token)
    return np.array(out, dtype=np.float32)


def write(chain: WholeChain, ids: list[int], version: int = 3) -> None:
    chain.chain_written(np.array(ids, dtype=np.int32), logprobs_of(chain, ids), version=version)


def test_a_chain_is_written_then_decoded_then_done():
    chain = chain_of("ti")
    assert chain.next_step() == WriteChain(plan=chain.plan)
    write(chain, answer(chain))
    step = chain.next_step()
    assert isinstance(step, DecodePictures)
    assert {name: codes.tolist() for name, codes in step.codes.items()} == {"i1": [[1, 6]]}
    chain.pictures_decoded()
    assert chain.next_step() == Done(finish=Finish.STOP)
    assert chain.versions == {"one": (3, 3)}
    assert chain.painted == ("i1",)


def test_the_learner_gets_what_was_sampled_and_no_more():
    chain = chain_of("ti")
    ids = answer(chain)
    write(chain, ids)
    stream = chain.stream(SAMPLING)
    last_code = len(PROMPT) + ids.index(CLOSE) - 1  # behind it stands its row's end, which was forced
    assert len(stream.tokens) == chain.length == last_code
    assert stream.tokens.tolist() == [*PROMPT, *ids][:last_code]
    assert stream.action_mask.sum() == 4 + 2
    assert chain.num_actions() == {"t0": 4, "i1": 2}
    assert stream.behaviour_logprobs.sum() == -6


def test_rewards_get_words_and_a_mark_for_each_picture():
    chain = chain_of("ti")
    write(chain, answer(chain))
    decode = lambda ids: "".join(f"[{i}]" for i in ids)  # noqa: E731
    assert chain.text(decode) == "[40][5][41][42]<|image|>[43]"
    assert chain.block_text(decode) == {"t0": "[5]"}


def test_a_chain_that_leaves_the_grammar_ends_there():
    chain = chain_of("ti")
    write(chain, [chain.plan.blocks[0].opening, 5, chain.plan.blocks[1].closing])
    step = chain.next_step()
    assert isinstance(step, Done)
    assert (step.finish, step.error) == (Finish.MALFORMED, "t0: token 43 does not fit")
    assert chain.num_actions() == {"t0": 3}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda ids, lps: (ids[:-1], lps[:-1]), "before the chain's end"),
        (lambda ids, lps: ([SIZE if i == CLOSE else i for i in ids], lps), "left the plan of the chain"),
        (lambda ids, lps: (ids, lps - 1), "a forced id a log-prob other than 0"),
        (lambda ids, lps: (ids, lps[1:]), "want one finite log-prob"),
    ],
)
def test_an_engine_that_does_otherwise_is_found_out(change, expected):
    chain = chain_of("ti")
    ids = answer(chain)
    changed, logprobs = change(ids, logprobs_of(chain, ids))
    with pytest.raises(RolloutError, match=expected):
        chain.chain_written(np.array(changed, dtype=np.int32), logprobs, version=0)


def test_codes_come_back_from_their_ids():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 8, (3, 5))
    ids = np.array(PICTURES.stream(codes), dtype=np.int32)
    assert (PICTURES.codes(ids, PICTURES.layout(3, 5).template) == codes).all()
