"""Sampling ahead under any order of answers, drops, failures, replaced workers and interruptions."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.ahead import DataPosition, Draw, SamplingAhead


def ahead(**changed) -> SamplingAhead:
    settings = {
        "size": 2,
        "max_refills": 1,
        "max_ahead": 1,
        "is_ordered": False,
        "step": 0,
        "num_steps": 9,
        "start": DataPosition(),
    }
    return SamplingAhead(**(settings | changed))


def numbers(draws):
    return [(draw.step, draw.position) for draw in draws]


def test_no_more_steps_are_open_than_may_be_and_none_after_the_last():
    book = ahead(max_ahead=2, num_steps=4)
    assert numbers(book.open()) == [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]
    assert book.open() == []
    for draw in [Draw(number=i, position=i, step=0, grpo_step=0) for i in (1, 0)]:
        book.keep(draw)
    assert numbers(book.take()) == [(0, 0), (0, 1)]
    assert numbers(book.open()) == [(3, 6), (3, 7)]


def test_a_dropped_group_is_replaced_at_once_and_up_to_the_bound():
    book = ahead(max_ahead=0)
    first, second = book.open()
    (third,) = book.drop(second)
    assert third.position == 2
    assert not book.is_complete
    book.keep(first)
    (fourth,) = book.drop(third)
    assert book.drop(fourth) == []
    assert book.is_complete
    assert numbers(book.take()) == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_in_order_refills_of_later_steps_wait_for_their_turn():
    book = ahead(is_ordered=True)
    a, b, c, _ = book.open()
    assert book.drop(c) == []
    book.keep(a)
    (refill,) = book.drop(b)
    assert refill.position == 4
    book.keep(refill)
    book.take()
    assert numbers(book.open()) == [(1, 5), (2, 6), (2, 7)]


def test_a_step_is_not_taken_before_it_is_there():
    book = ahead()
    with pytest.raises(ValueError, match="step 0 is taken before"):
        book.take()
    book.open()
    with pytest.raises(ValueError, match="step 0 is taken before"):
        book.take()


def test_what_no_finished_step_has_used_is_drawn_first_when_the_run_goes_on():
    book = ahead()
    a, b, _, _ = book.open()
    book.keep(a)
    (refill,) = book.drop(b)
    book.keep(refill)
    book.take()
    book.open()
    where = book.data_position
    assert where == DataPosition(position=7, again=(2, 3, 5, 6))
    resumed = ahead(step=1, start=where)
    assert numbers(resumed.open()) == [(1, 2), (1, 3), (2, 5), (2, 6)]
    assert resumed.data_position == where


@dataclass
class World:
    """Workers, learner and their weights, as far as versions go; what happens next is drawn by hypothesis."""

    choose: st.DataObject
    size: int
    max_refills: int
    max_ahead: int
    is_ordered: bool
    num_steps: int
    version: int = 0
    """Of the learner; published before anything is opened."""
    written_by: dict[int, int] = field(default_factory=dict)
    """Oldest weights that can have written a position's group, by position."""
    pending: list[Draw] = field(default_factory=list)
    kept: set[int] = field(default_factory=set)
    trained: list[tuple[int, ...]] = field(default_factory=list)
    used: list[int] = field(default_factory=list)
    staleness: list[int] = field(default_factory=list)

    def book(self, step: int, start: DataPosition) -> SamplingAhead:
        return SamplingAhead(
            size=self.size,
            max_refills=self.max_refills,
            max_ahead=self.max_ahead,
            is_ordered=self.is_ordered,
            step=step,
            num_steps=self.num_steps,
            start=start,
        )

    def sample(self, draws: list[Draw]) -> None:
        for draw in draws:
            self.written_by[draw.position] = self.version
        self.pending += draws

    def answer(self, book: SamplingAhead) -> None:
        """Let anything that is under way happen: a group is kept, dropped, or lost with its worker."""
        draw = self.choose.draw(st.sampled_from(self.pending))
        event = self.choose.draw(st.sampled_from(["kept", "kept", "dropped", "lost"]))
        if event == "lost":  # sampled again, by a worker that has the present weights
            self.written_by[draw.position] = self.version
            return
        self.pending.remove(draw)
        if event == "kept":
            self.kept.add(draw.position)
            book.keep(draw)
        else:
            self.kept.discard(draw.position)  # an attempt before may have kept it
            self.sample(book.drop(draw))

    def train(self, book: SamplingAhead) -> None:
        draws = book.take()
        assert [draw.number for draw in draws] == sorted(draw.number for draw in draws)
        assert len(draws) <= (1 + self.max_refills) * self.size
        kept = [draw.position for draw in draws if draw.position in self.kept]
        assert len(kept) == self.size or len(draws) == (1 + self.max_refills) * self.size
        self.staleness += [self.version - self.written_by[position] for position in kept]
        self.trained.append(tuple(kept))
        self.used += [draw.position for draw in draws]
        self.version += bool(kept)


@settings(deadline=None, max_examples=100)
@given(
    st.data(),
    st.integers(1, 4),
    st.integers(0, 2),
    st.integers(0, 3),
    st.booleans(),
    st.integers(1, 6),
)
def test_nothing_is_too_old_lost_or_doubled_whatever_happens(
    choose, size, max_refills, max_ahead, is_ordered, num_steps
):
    world = World(choose, size, max_refills, max_ahead, is_ordered, num_steps)
    where, step = DataPosition(), 0
    while step < num_steps:  # attempts at the run
        book = world.book(step, where)
        world.pending, is_interrupted = [], False
        while step < num_steps and not is_interrupted:
            world.sample(book.open())
            while not book.is_complete:
                # Learner and workers are never both without work, and capacity is what bounds them.
                assert 0 < len(world.pending) <= (1 + max_ahead) * size
                world.answer(book)
            world.train(book)
            for _ in range(choose.draw(st.integers(0, 3))):  # while the learner works
                if world.pending:
                    world.answer(book)
            step, where = book.step, book.data_position  # the checkpoint
            is_interrupted = choose.draw(st.integers(0, 4)) == 0
    assert max(world.staleness, default=0) <= max_ahead
    assert len(world.trained) == num_steps
    assert not world.pending
    assert sorted([*world.used, *where.again]) == list(range(where.position))
