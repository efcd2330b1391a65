"""Pairs start only where both rows fit to their ends, in order, and a pair that was cut is found."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.rollout.guided_pairs import UNCONDITIONAL, GuidedPairQueue, Pair, Room
from rl.errors import RolloutError

ROOM = Room(step_tokens=100, rows=8, blocks=20, block_tokens=10)


def make_pair(key, length=10, max_tokens=5):
    return Pair(
        key=key, name=f"chain {key}", requests=("seen", "unseen"), length=length, max_tokens=max_tokens
    )


def output(tokens=(1, 2), logprobs=(-0.5, -0.25), reason="stop"):
    completion = SimpleNamespace(
        token_ids=list(tokens), logprobs=SimpleNamespace(logprobs=list(logprobs)), finish_reason=reason
    )
    return SimpleNamespace(outputs=[completion])


def both(key, **kwargs):
    return {key: output(**kwargs), key + UNCONDITIONAL: output(**kwargs)}


@dataclass
class Engine:
    """What a pair is in the engine: tokens in this step, steps to go."""

    left: dict[str, int] = field(default_factory=dict)
    held: dict[str, Pair] = field(default_factory=dict)

    def step(self, started):
        tokens = 2 * len(self.left) + sum(2 * pair.length for pair in started)
        for pair in started:
            self.left[pair.key], self.held[pair.key] = pair.max_tokens, pair
        assert tokens <= ROOM.step_tokens
        assert 2 * len(self.left) <= ROOM.rows
        grown = sum(2 * -(-(p.length + p.max_tokens) // ROOM.block_tokens) for p in self.held.values())
        assert grown <= ROOM.blocks
        self.left = {key: steps - 1 for key, steps in self.left.items()}
        done = [key for key, steps in self.left.items() if not steps]
        for key in done:
            del self.left[key], self.held[key]
        return done


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30), st.integers(0, 3)), max_size=20))
def test_what_runs_always_fits_and_all_that_is_taken_in_ends_in_order(asked):
    desk, engine = GuidedPairQueue(ROOM), Engine()
    taken, begun, ended, steps = [], [], set(), 0
    arriving = [(make_pair(str(i), n, m), wait) for i, (n, m, wait) in enumerate(asked)]
    while arriving or desk.is_waiting or engine.left:
        while arriving and arriving[0][1] <= steps:
            pair, _ = arriving.pop(0)
            fits = 2 * pair.length <= 100 and 2 * -(-(pair.length + pair.max_tokens) // 10) <= 20
            if fits:
                desk.put(pair)
                taken.append(pair.key)
            else:
                with pytest.raises(ValueError, match=f"chain {pair.key}: guidance needs two rows"):
                    desk.put(pair)
        started = desk.start()
        begun += [pair.key for pair in started]
        done = engine.step(started)
        found = desk.finish({row: out for key in done for row, out in both(key).items()})
        assert list(found) == sorted(done, key=begun.index)
        ended |= set(done)
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
    desk = GuidedPairQueue(ROOM)
    desk.put(make_pair("a"))
    desk.start()
    with pytest.raises(RolloutError, match=r"chain a: .* did not keep in step"):
        desk.finish(finished)


def test_forgotten_pairs_leave_room_and_name_the_rows_that_had_started():
    desk = GuidedPairQueue(ROOM)
    for key in "abc":
        desk.put(make_pair(key, length=20))
    assert [pair.key for pair in desk.start()] == ["a", "b"]
    assert desk.forget(["a", "c"]) == ["a", "a" + UNCONDITIONAL]
    assert not desk.is_waiting
    assert desk.finish(both("b")).keys() == {"b"}
    desk.put(make_pair("d", length=50))
    assert [pair.key for pair in desk.start()] == ["d"]
