"""Prompts longer than the context: the run ends with one line, or another prompt takes their place."""

import logging

import pytest

from configs.load import load_config
from rl.data.fitting import FittingSource
from rl.data.once import say_once
from rl.errors import DataError
from tests.reference.sums import Sums


class Counted(Sums):
    """Eight held-out sums, and no more."""

    def held_out(self, num):
        return super().held_out(min(num, 8))


def fitting(too_long, length=lambda prompt: 1 + int(prompt.prompt_id.rpartition("/")[2]) % 3, longest=2):
    return FittingSource(source=Counted(seed=0), num_tokens=length, longest=longest, too_long=too_long)


def test_a_long_prompt_stops_with_its_id():
    assert fitting("stop").train(1).prompt_id == "sum/1"
    with pytest.raises(
        DataError, match=r"^sum/2: 3 tokens, and the model's context leaves 2 for a prompt; shorten"
    ):
        fitting("stop").train(2)
    with pytest.raises(DataError, match=r"data\.too_long=drop"):
        fitting("stop").held_out(3)


def test_a_dropped_prompt_has_the_same_stand_in_everywhere_and_is_told_once(caplog):
    say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        firsts = [fitting("drop").train(2) for _ in range(2)]
    assert firsts[0] == firsts[1]
    assert int(firsts[0].prompt_id.partition("/")[2]) > 10**9
    assert (
        caplog.messages.count(
            "sum/2: 3 tokens, and the model's context leaves 2 for a prompt; it is left out"
        )
        == 1
    )


def test_held_out_prompts_that_fit_are_looked_for_as_far_as_there_are_some():
    few, more = fitting("drop").held_out(2), fitting("drop").held_out(4)
    assert more[:2] == few
    assert len(few) == 2
    assert len(fitting("drop").held_out(99)) == 5


def test_what_becomes_of_it_is_configured():
    dropping = load_config("tiny", ["data.prompts=a.jsonl", "data.too_long=drop"])
    held = [
        FittingSource.of(Counted(seed=0), c, num_tokens=len, longest=2)
        for c in (dropping, load_config("tiny"))
    ]
    assert [source.too_long for source in held] == ["drop", "stop"]


def test_nothing_that_fits_is_no_endless_search():
    with pytest.raises(DataError, match=r"^data\.too_long: 100 prompts in a row have more than 2 tokens"):
        fitting("drop", length=lambda _: 3).train(0)
