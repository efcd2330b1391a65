"""Requests start only where all rows fit to their ends, in order, and a pair that was cut is found."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.rollout.row_queue import UNCONDITIONAL, Room, RowQueue, Rows
from rl.errors import RolloutError

ROOM = Room(step_tokens=100, rows=8, blocks=20, block_tokens=10)


def make_rows(key, *lengths, max_tokens=5):
    names = ("seen", "unseen")[: len(lengths)]
    return Rows(key=key, name=f"chain {key}", requests=names, lengths=lengths, max_tokens=max_tokens)


def output(tokens=(1, 2), logprobs=(-0.5, -0.25), reason="stop"):
    completion = SimpleNamespace(
        token_ids=list(tokens), logprobs=SimpleNamespace(logprobs=list(logprobs)), finish_reason=reason
    )
    return SimpleNamespace(outputs=[completion])


def both(key, **kwargs):
    return {key: output(**kwargs), key + UNCONDITIONAL: output(**kwargs)}


def num_blocks(rows):
    return sum(-(-(length + rows.max_tokens) // ROOM.block_tokens) for length in rows.lengths)


@dataclass
class Engine:
    """What a request is in the engine: tokens in this step, steps to go."""

    left: dict[str, int] = field(default_factory=dict)
    held: dict[str, Rows] = field(default_factory=dict)

    def step(self, started):
        tokens = sum(len(rows.keys) for rows in self.held.values()) + sum(sum(r.lengths) for r in started)
        for rows in started:
            self.left[rows.key], self.held[rows.key] = rows.max_tokens, rows
        assert tokens <= ROOM.step_tokens
        assert sum(len(rows.keys) for rows in self.held.values()) <= ROOM.rows
        assert sum(num_blocks(rows) for rows in self.held.values()) <= ROOM.blocks
        self.left = {key: steps - 1 for key, steps in self.left.items()}
        done = [self.held[key] for key, steps in self.left.items() if not steps]
        for rows in done:
            del self.left[rows.key], self.held[rows.key]
        return done


lengths = st.lists(st.integers(1, 60), min_size=1, max_size=2)


@settings(deadline=None)
@given(st.lists(st.tuples(lengths, st.integers(1, 30), st.integers(0, 3)), max_size=20))
def test_what_runs_always_fits_and_all_that_is_taken_in_ends_in_order(asked):
    desk, engine = RowQueue(ROOM), Engine()
    taken, begun, ended, steps = [], [], set(), 0
    arriving = [(make_rows(str(i), *n, max_tokens=m), wait) for i, (n, m, wait) in enumerate(asked)]
    while arriving or desk.is_waiting or engine.left:
        while arriving and arriving[0][1] <= steps:
            rows, _ = arriving.pop(0)
            if sum(rows.lengths) <= ROOM.step_tokens and num_blocks(rows) <= ROOM.blocks:
                desk.put(rows)
                taken.append(rows.key)
            else:
                with pytest.raises(ValueError, match=f"chain {rows.key}: guidance needs rows of"):
                    desk.put(rows)
        started = desk.start()
        begun += [rows.key for rows in started]
        done = engine.step(started)
        answered = desk.finish({key: output() for rows in done for key in rows.keys})
        assert list(answered) == sorted((rows.key for rows in done), key=begun.index)
        ended |= {rows.key for rows in done}
        steps += 1
        assert steps < 1000
    assert begun == taken
    assert ended == set(taken)


@pytest.mark.parametrize(
    "finished",
    [
        {"a": output()},
        {"a" + UNCONDITIONAL: output()},
        {"a": output(), "a" + UNCONDITIONAL: output(tokens=(1, 3))},
        {"a": output(), "a" + UNCONDITIONAL: output(logprobs=(-0.5, -0.75))},
        {"a": output(), "a" + UNCONDITIONAL: output(reason="length")},
    ],
)
def test_a_pair_that_did_not_keep_in_step_is_named(finished):
    desk = RowQueue(ROOM)
    desk.put(make_rows("a", 10, 10))
    desk.start()
    with pytest.raises(RolloutError, match=r"chain a: .* did not keep in step"):
        desk.finish(finished)


def test_forgotten_pairs_leave_room_and_name_the_rows_that_had_started():
    desk = RowQueue(ROOM)
    for key in "abc":
        desk.put(make_rows(key, 20, 20))
    assert [rows.key for rows in desk.start()] == ["a", "b"]
    assert desk.forget(["a", "c"]) == ["a", "a" + UNCONDITIONAL]
    assert not desk.is_waiting
    assert desk.finish(both("b")).keys() == {"b"}
    desk.put(make_rows("d", 50, 50))
    assert [rows.key for rows in desk.start()] == ["d"]
