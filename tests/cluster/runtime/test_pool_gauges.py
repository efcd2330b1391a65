"""What a pool's and a run's gauges are set to, with Ray's own gauges and their check of the tags."""

import time

import pytest
from ray.util.metrics import Gauge

import cluster.runtime.pool_gauges
from cluster.runtime.pool_gauges import (
    CHAINS_PER_S,
    QUEUE_DEPTH,
    STALENESS,
    STEP,
    VERSION,
    PoolGauges,
    RunGauges,
)
from rl.spans import PoolMeter


@pytest.fixture
def values(monkeypatch):
    """Every value that was set, by metric and tags."""
    found = {}

    class Noted(Gauge):
        def set(self, value, tags=None):
            super().set(value, tags=tags)
            found[self.info["name"], *sorted(tags.items())] = value

    monkeypatch.setattr(cluster.runtime.pool_gauges, "Gauge", Noted)
    return found


def test_a_rollout_worker_tells_what_it_has_in_hand_and_its_version(values):
    gauges = PoolGauges(worker="rollout-text-1", run="demo")
    meter = PoolMeter(version=4)
    gauges.observe([meter], version=None)
    with meter.taking(5):
        pass
    time.sleep(0.05)
    with meter.taking(3):
        (state,) = gauges.observe([meter], version=None)
    assert (state.pool, state.num_in_hand, state.num_done, state.version) == ("rollout-text", 3, 5, 4)
    assert 5 < state.done_per_s <= 100
    tags = [("run", "demo"), ("worker", "rollout-text-1")]
    assert values[VERSION, *tags] == 4
    tags = [("pool", "rollout-text"), *tags]
    assert values[QUEUE_DEPTH, *tags] == 3
    assert values[CHAINS_PER_S, *tags] == state.done_per_s


def test_every_reward_is_a_pool_of_the_scoring_actor(values):
    meters = [PoolMeter("reward-format"), PoolMeter("reward-generation")]
    states = PoolGauges(worker="scoring-0", run="demo").observe(meters, version=None)
    assert [state.pool for state in states] == ["reward-format", "reward-generation"]
    assert {name for name, *_ in values} == {QUEUE_DEPTH, CHAINS_PER_S}


def test_a_worker_without_pool_and_weights_sets_nothing(values):
    assert PoolGauges(worker="metrics-0", run="demo").observe([], version=None) == []
    assert values == {}


def test_a_step_sets_staleness_and_versions(values):
    metrics = {"weights/text/staleness/max": 2.0, "weights/text/version": 7.0, "reward/total/mean": 1.0}
    RunGauges(run="demo").log(6, metrics)
    assert values == {
        (STEP, ("run", "demo")): 7,
        (STALENESS, ("policy", "text"), ("run", "demo")): 2.0,
        (VERSION, ("run", "demo"), ("worker", "published-text")): 7.0,
    }
