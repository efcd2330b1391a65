"""The reward worker: batches from concurrent calls, failures that stay where they belong, an orderly end."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from actors.rewards.score_cache import ScoreCache, content_key
from actors.rewards.worker import RewardWorker
from cluster.runtime.calls import gather, put
from cluster.runtime.spawn import spawn
from configs.schema import RewardConfig
from rewards.base import evaluate
from rewards.experts.picture_metrics import PictureMetrics
from rewards.generation import GenerationReward
from rl.errors import ConfigError, RewardError
from rl.types import Finish, Scores
from tests.reference.rewards import make_request, make_view, picture

HERE = "tests.reference.rewards"
POISON = RewardConfig(target=f"{HERE}:PoisonReward", batch_size=8)
PIQE = RewardConfig(target="rewards.generation:GenerationReward", options={"experts": {"piqe": {}}})


@contextmanager
def running(config: RewardConfig, *, deterministic: bool = False) -> Iterator[RewardWorker]:
    worker = RewardWorker(name="mine", config=config, deterministic=deterministic)
    worker.setup()
    yield worker
    worker.close()


def ask(worker: RewardWorker, *texts: str):
    """One call; its chains have as many words as they are told."""
    requests, pictures = [], []
    for text in texts:
        request, own = make_request(make_view(text))
        shifted = {name: index + len(pictures) for name, index in request.pictures.items()}
        requests.append(replace(request, pictures=shifted))
        pictures += own
    return worker.score(requests, *pictures)


def score_all(worker: RewardWorker, calls: list[tuple[str, ...]]) -> list[Scores]:
    """Start all calls before the first is scored."""

    async def main() -> list[Scores]:
        gate = worker._reward.gate
        gate.clear()
        tasks = [asyncio.ensure_future(ask(worker, *texts)) for texts in calls]
        await asyncio.sleep(0.05)
        gate.set()
        return await asyncio.gather(*tasks)

    return asyncio.run(main())


def words(num: int) -> str:
    return " ".join(["word"] * num)


def test_concurrent_calls_are_scored_in_batches_and_answered_in_order():
    with running(POISON) as worker:
        answers = score_all(worker, [(words(i),) for i in range(20)])
        batches = worker._reward.batches
        report = worker.report()
    assert [a.values.tolist() for a in answers] == [[float(i)] for i in range(20)]
    assert sum(batches) == 20
    assert max(batches) == 8
    assert len(batches) <= 4  # the first call may have been taken alone
    assert report.num_chains == 20
    assert report.num_batches == len(batches)
    assert report.busy_s > 0


def test_calls_of_many_chains_are_cut_and_put_together_again():
    with running(POISON) as worker:
        sizes = [3, 0, 19, 1]
        numbers = iter(range(100))
        calls = [tuple(words(next(numbers)) for _ in range(size)) for size in sizes]
        answers = score_all(worker, calls)
        assert max(worker._reward.batches) <= 8
    assert [len(a.values) for a in answers] == sizes
    assert np.concatenate([a.values for a in answers]).tolist() == [float(i) for i in range(23)]


@pytest.mark.parametrize("together", [False, True])
def test_one_chain_nobody_can_score_does_not_cost_the_others(together):
    texts = [words(i) for i in range(6)]
    texts[4] = "poison"
    with running(POISON) as worker:
        answers = score_all(worker, [tuple(texts)] if together else [(text,) for text in texts])
    valid = np.concatenate([a.valid for a in answers])
    values = np.concatenate([a.values for a in answers])
    reasons = [reason for a in answers for reason in a.reasons]
    assert valid.tolist() == [True] * 4 + [False, True]
    assert values[valid].tolist() == [0.0, 1.0, 2.0, 3.0, 5.0]
    assert reasons[4].startswith("ValueError: poison in the text (")
    assert [r for i, r in enumerate(reasons) if i != 4] == [""] * 5


def test_a_batch_has_pictures_of_one_size_and_the_oldest_goes_first():
    sizes = [32, 16, 32, 16, 48, 32, None, 32, 16]
    config = RewardConfig(target=f"{HERE}:PictureReward", batch_size=3)

    async def main(worker: RewardWorker) -> list[Scores]:
        gate = worker._reward.gate
        gate.clear()
        tasks = []
        for size in [64, *sizes]:  # the first is taken alone
            request, pictures = make_request(make_view(final=picture(0, size) if size else None))
            tasks.append(asyncio.ensure_future(worker.score([request], *pictures)))
            await asyncio.sleep(0.02)
        gate.set()
        return await asyncio.gather(*tasks)

    with running(config) as worker:
        answers = asyncio.run(main(worker))
        assert worker._reward.batches == [[64], [32, 32, 32], [16, 16, 16], [48], [32]]
    assert [a.values[0] for a in answers] == [64.0, *(float(size or 0) for size in sizes)]
    assert [bool(a.missing[0]) for a in answers] == [False, *(size is None for size in sizes)]


def test_one_call_of_mixed_sizes_is_batched_by_size():
    made = [make_request(make_view(final=picture(0, size))) for size in (16, 32, 16, 32)]
    requests, pictures = [], []
    for request, own in made:
        shifted = {name: index + len(pictures) for name, index in request.pictures.items()}
        requests.append(replace(request, pictures=shifted))
        pictures += own
    with running(RewardConfig(target=f"{HERE}:PictureReward")) as worker:
        scores = asyncio.run(worker.score(requests, *pictures))
        assert worker._reward.batches == [[16, 16], [32, 32]]
    assert scores.values.tolist() == [16.0, 32.0, 16.0, 32.0]


def test_equal_chains_are_scored_once_where_scores_are_kept():
    def send(worker: RewardWorker, text: str, level: float, chain_id: str) -> Scores:
        view = make_view(text, final=picture(0, level=level), chain_id=chain_id)
        request, pictures = make_request(view)
        return asyncio.run(worker.score([request], *pictures))

    with running(replace(POISON, cache=True)) as worker:
        first = send(worker, words(3), 1.0, "p#0/0")
        again = send(worker, words(3), 1.0, "p#1/5")
        send(worker, words(3), 2.0, "p#0/0")
        send(worker, words(4), 1.0, "p#0/0")
        send(worker, "poison", 1.0, "p#0/0")
        send(worker, "poison", 1.0, "p#0/0")  # a failure may pass
        report = worker.report()
        assert worker._reward.batches == [1] * 5
    assert first.values.tolist() == again.values.tolist() == [3.0]
    assert (report.num_cached, report.num_chains, report.num_batches) == (1, 6, 5)


def test_a_cache_forgets_what_was_not_asked_for_longest():
    cache = ScoreCache(most=2)
    one = Scores(
        name="a",
        values=np.ones(1, dtype=np.float32),
        valid=np.ones(1, dtype=np.bool_),
        missing=np.zeros(1, dtype=np.bool_),
        reasons=("",),
    )
    cache.put(b"1", one)
    cache.put(b"2", one)
    assert cache.get(b"1") is one
    cache.put(b"3", one)
    assert cache.get(b"2") is None
    assert cache.get(b"1") is cache.get(b"3") is one


@pytest.mark.parametrize(
    "change",
    [
        {"text": "other"},
        {"finish": Finish.LENGTH},
        {"labels": ("light blur",)},
        {"tags": ()},
        {"final": picture(5)},
        {"truth": picture(5)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_a_reward_may_judge_is_in_the_key(change):
    known = {"final": picture(1), "truth": picture(2)}
    key = content_key(make_view(**known))
    assert content_key(make_view(**known, chain_id="q#7/3")) == key
    assert content_key(make_view(**(known | change))) != key


def test_a_reward_that_ends_its_thread_leaves_nobody_waiting(caplog):
    async def main(worker: RewardWorker) -> list[Scores | BaseException]:
        gate = worker._reward.gate
        gate.clear()
        tasks = [asyncio.ensure_future(ask(worker, words(i))) for i in range(12)]
        await asyncio.sleep(0.05)
        gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    with running(RewardConfig(target=f"{HERE}:EndingReward", batch_size=4)) as worker:
        answers = asyncio.run(main(worker))
        with pytest.raises(RewardError, match="reward mine: the worker is not running"):
            asyncio.run(ask(worker, "late"))
    assert all(isinstance(a, RewardError) and "KeyboardInterrupt" in str(a) for a in answers)


def test_a_deterministic_worker_scores_chain_by_chain():
    with running(POISON, deterministic=True) as worker:
        answers = score_all(worker, [(words(1), words(2)), (words(3),)])
        assert worker._reward.batches == [1, 1, 1]
    assert [a.values.tolist() for a in answers] == [[1.0, 2.0], [3.0]]


def test_a_cancelled_call_is_not_scored_and_disturbs_nobody():
    async def main(worker: RewardWorker) -> Scores:
        gate = worker._reward.gate
        gate.clear()
        first = asyncio.ensure_future(ask(worker, words(1)))
        await asyncio.sleep(0.05)  # the thread holds the first
        second, third = (asyncio.ensure_future(ask(worker, words(n))) for n in (2, 3))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        gate.set()
        await first
        return await third

    with running(POISON) as worker:
        assert asyncio.run(main(worker)).values.tolist() == [3.0]
        assert worker._reward.batches == [1, 1]


def test_close_finishes_what_waits_and_refuses_what_comes_later():
    async def main(worker: RewardWorker) -> list[Scores]:
        gate = worker._reward.gate
        gate.clear()
        tasks = [asyncio.ensure_future(ask(worker, words(i))) for i in range(12)]
        await asyncio.sleep(0.05)
        threading.Timer(0.05, gate.set).start()
        worker.close()
        with pytest.raises(RewardError, match="reward mine: the worker is not running"):
            await ask(worker, "late")
        return await asyncio.gather(*tasks)

    with running(POISON) as worker:
        answers = asyncio.run(main(worker))
    assert [float(a.values[0]) for a in answers] == [float(i) for i in range(12)]


def test_a_worker_that_still_scores_when_closed_takes_no_more(monkeypatch):
    with running(POISON) as worker:
        monkeypatch.setattr(worker._thread, "join", lambda timeout: None)  # as if it took too long
        worker._reward.gate.clear()

        async def main() -> Scores:
            task = asyncio.ensure_future(ask(worker, words(1)))
            await asyncio.sleep(0)
            worker.close()
            with pytest.raises(RewardError, match="not running"):
                await ask(worker, "late")
            worker._reward.gate.set()
            return await task

        assert asyncio.run(main()).values.tolist() == [1.0]


def test_a_worker_that_was_not_set_up_refuses_and_closes():
    worker = RewardWorker(name="mine", config=POISON)
    with pytest.raises(RewardError, match="not running"):
        asyncio.run(ask(worker, "a"))
    worker.close()


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (RewardConfig(target=f"{HERE}:BadSetupReward"), RewardError,
         r"rewards\.mine: setup failed: KeyError: 'license' \(.*rewards\.py:\d+\)"),
        (RewardConfig(target=f"{HERE}:LenghtReward"), ConfigError, r"rewards\.mine\.target: .* LengthReward\?"),
        (RewardConfig(target="rewards.generation:GenerationReward", options={"experts": {"psrn": {}}}), ConfigError,
         r"^rewards\.mine\.options: pyiqa has no metric 'psrn'; did you mean psnr\?"),
    ],
)  # fmt: skip
def test_setup_says_what_is_wrong_in_one_line(config, error, message):
    with pytest.raises(error, match=message) as caught:
        RewardWorker(name="mine", config=config).setup()
    assert "\n" not in str(caught.value)


def test_pictures_arrive_at_the_chain_they_belong_to():
    views = [make_view(final=picture(i, level=15.0 * i), truth=picture(i)) for i in range(3)]
    direct = GenerationReward({"piqe": {}})
    direct.setup()

    async def main(worker: RewardWorker) -> list[Scores]:
        sent = [make_request(view) for view in views]
        return await asyncio.gather(*(worker.score([request], *pictures) for request, pictures in sent))

    with running(PIQE) as worker:
        answers = asyncio.run(main(worker))
    expected = evaluate(direct, "mine", views).values
    assert np.concatenate([a.values for a in answers]) == pytest.approx(expected, abs=1e-6)
    assert len(set(expected.tolist())) == 3


@pytest.mark.ray
def test_picture_metrics_and_reward_workers_serve_as_actors(ray_cluster):
    metrics = spawn(PictureMetrics, "metrics-0", num_cpus=0.05, kwargs={"names": ["psnr", "ssim"]})
    reward = spawn(
        RewardWorker,
        "reward-mine-0",
        num_cpus=0.05,
        max_concurrency=64,
        kwargs={"name": "mine", "config": POISON},
    )
    gather([metrics.call("setup"), reward.call("setup")], deadline_s=120)
    truth = picture(0, level=0.0)
    (judged,) = gather([metrics.call("score", [picture(0), truth], [truth, truth])], deadline_s=60)
    assert judged.keys() == {"psnr", "ssim"}
    assert judged["ssim"][0] < judged["ssim"][1] == pytest.approx(1.0)
    request, pictures = make_request(make_view("three words here"))
    refs = [put(p) for p in pictures]
    begin = time.monotonic()
    answers = gather([reward.call("score", [request], *refs) for _ in range(32)], deadline_s=60)
    assert [a.values.tolist() for a in answers] == [[3.0]] * 32
    assert time.monotonic() - begin < 30
