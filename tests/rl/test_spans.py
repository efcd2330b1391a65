"""Spans of a process, the calls it waits for, and what a pool has in hand."""

import threading
import time

import pytest

from cluster.runtime.outstanding import Outstanding
from rl.spans import PoolMeter, SpanLog


def test_a_span_has_begin_length_and_details_known_at_the_end(monkeypatch):
    # As in a process that has just begun: later on the system's clock may have been set.
    monkeypatch.setattr("rl.spans._WALL_S", time.time() - time.perf_counter())
    log, before = SpanLog(), time.time()
    with log.span("paint", num_pictures=3) as said:
        time.sleep(0.02)
        said["version"] = 7
    (span,) = log.take()
    assert (span.name, dict(span.details)) == ("paint", {"num_pictures": 3, "version": 7})
    rounding_s = 1e-5
    assert before - rounding_s <= span.begin_s <= span.end_s <= time.time() + rounding_s
    assert 0.02 <= span.seconds < 1
    assert log.take() == []


def test_what_is_open_is_listed_from_the_outside_in():
    log = SpanLog()
    with log.span("step", step=1), log.span("collect"):
        outer, inner = log.under_way()
        assert (outer.name, inner.name) == ("step", "collect")
        assert outer.seconds >= inner.seconds
    assert log.under_way() == []
    assert [span.name for span in log.take()] == ["collect", "step"]


def test_a_span_of_a_failure_is_kept_and_the_failure_goes_on():
    log = SpanLog()

    @log.span("load weights")
    def fail():
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            fail()
    assert [span.name for span in log.take()] == ["load weights"] * 2


def test_a_full_log_forgets_the_oldest_and_says_how_many():
    log = SpanLog(most=3)
    for index in range(5):
        with log.span(str(index)):
            pass
    assert [span.name for span in log.take()] == ["2", "3", "4"]
    assert log.num_lost == 2


def test_threads_do_not_lose_each_others_spans():
    log = SpanLog()

    def work():
        for _ in range(500):
            with log.span("work"):
                log.under_way()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    taken = []
    while any(thread.is_alive() for thread in threads):
        taken += log.take()
    assert len(taken + log.take()) == 2000


def test_a_span_costs_microseconds():
    log = SpanLog()
    costs = []
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(2000):
            with log.span("paint", num_pictures=3, version=1):
                pass
        costs.append((time.perf_counter() - begin) / 2000)
    assert min(costs) < 200e-6  # 5e-6 on a quiet machine


def test_equal_calls_are_counted_and_the_oldest_wait_is_told():
    calls = Outstanding()
    asked = [("reward-a-0", "score"), ("reward-a-0", "score"), ("reward-b-0", "score")]
    with calls.noted(asked) as strike:
        time.sleep(0.01)
        found = {wait.worker: wait for wait in calls.waits()}
        assert (found["reward-a-0"].num, found["reward-b-0"].num) == (2, 1)
        assert found["reward-a-0"].seconds >= 0.01
        strike(0)
        strike(2)
        assert [(wait.worker, wait.num) for wait in calls.waits()] == [("reward-a-0", 1)]
    assert calls.waits() == []


def test_a_meter_counts_what_is_answered_and_not_what_failed():
    meter = PoolMeter("reward-a")
    with meter.taking(3):
        assert (meter.num_in_hand, meter.num_done) == (3, 0)
    with pytest.raises(RuntimeError), meter.taking(2):
        raise RuntimeError
    assert (meter.num_in_hand, meter.num_done) == (0, 3)
