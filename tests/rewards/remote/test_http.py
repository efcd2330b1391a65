"""A reward behind a URL scores as it does here, and whatever the server does, it ends with a reason."""

import json
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import RewardConfig
from rewards.base import Failure, Missing, evaluate
from rewards.consistency import ConsistencyReward
from rewards.contract import check_reward
from rewards.degradation import DegradationReward
from rewards.examples import example_chains
from rewards.http import HttpReward
from rewards.load import load_reward
from rewards.remote.request import Patience, RequestError, exchange
from rewards.remote.server import RewardServer
from rewards.remote.wire import (
    WireError,
    decode_answer,
    decode_pictures,
    decode_request,
    encode_answer,
    encode_picture,
    encode_request,
)
from rl.errors import ConfigError, RewardError
from tests.reference.rewards import FailureReward, LossReward, PoisonReward, make_view

FINITE = st.floats(allow_nan=False, allow_infinity=False)
# Machines that run tests are busy: only what must time out has a short time.
CALM = {"timeout_s": 20.0, "total_s": 40.0, "max_tries": 2}
HASTE = {"timeout_s": 0.3, "total_s": 40.0, "max_tries": 2}
SILENCE = threading.Event()


@contextmanager
def serving(reward, **options) -> Iterator[str]:
    reward.setup()
    server = RewardServer(reward, "mine", host="127.0.0.1", port=0, **options)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def misbehaving(answer: Callable[[BaseHTTPRequestHandler, int], None]) -> Iterator[tuple[str, list[float]]]:
    """A server that does to its n-th request what it is told; yields its address and when requests came."""
    times: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            times.append(time.monotonic())
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self, len(times))

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *args) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address) -> None:
            """The client hung up, as it should."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", times
        finally:
            server.shutdown()
            thread.join()


def say(body: bytes, status: int = 200) -> Callable[[BaseHTTPRequestHandler, int], None]:
    def answer(handler: BaseHTTPRequestHandler, _count: int) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def scores_json(*scores) -> bytes:
    return json.dumps({"version": 2, "scores": list(scores)}).encode()


# --------------------------------------------------------------------------------- same scores


@pytest.mark.parametrize(
    ("reward", "declares"),
    [
        (DegradationReward(), {"needs": ["text", "labels"], "low": 0, "high": 1}),
        (ConsistencyReward(), {"needs": ["final_picture", "degraded"], "low": 0, "high": 60, "unit": "dB"}),
        (LossReward(), {"needs": ["text", "final_picture"], "larger_is_better": False, "missing": 100.0}),
    ],
)
def test_scores_through_http_are_the_direct_ones(reward, declares):
    chains = example_chains()
    with serving(reward) as url:
        direct = evaluate(reward, "r", chains)
        config = RewardConfig(target="rewards.http:HttpReward", options={"url": url, "declares": declares})
        remote = load_reward("r", config)
        remote.check()
        check_reward(remote)
        through = evaluate(remote, "r", chains)
    assert through.values.tolist() == direct.values.tolist()
    assert through.missing.tolist() == direct.missing.tolist()
    assert through.reasons == direct.reasons


def test_failures_and_missing_inputs_arrive_with_their_reasons():
    views = [make_view("a"), make_view("b")]
    with serving(FailureReward()) as url:
        assert HttpReward(url).score(views) == [Missing("nothing there"), Failure("no idea")]
    with serving(PoisonReward()) as url:
        (failure,) = HttpReward(url).score([make_view("poison")])
    assert isinstance(failure, Failure)
    assert "ValueError: poison in the text" in failure.reason


def test_a_batch_sends_each_picture_once():
    chains = example_chains()
    message = json.loads(json.dumps(encode_request(chains)))
    assert len(message["images"]) == 2 + 3 * 5  # degraded, truth, and three pictures of each whole chain
    for chain, back in zip(chains, decode_request(message), strict=True):
        assert (chain.text, chain.finish, dict(chain.block_text)) == (back.text, back.finish, back.block_text)
        assert chain.prompt.reference == back.prompt.reference
        assert chain.prompt.messages == back.prompt.messages
        assert chain.named_pictures.keys() == back.named_pictures.keys()
        for name, pixels in chain.named_pictures.items():
            assert np.array_equal(pixels, back.named_pictures[name])
        for name, pixels in chain.pictures.items():
            assert np.array_equal(pixels, back.pictures[name])
            assert not back.pictures[name].flags.writeable


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_pictures_survive(height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    (back,) = decode_pictures([encode_picture(pixels)])
    assert np.array_equal(back, pixels)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.one_of(
            st.floats(allow_nan=False, allow_infinity=False), st.text().map(Failure), st.text().map(Missing)
        )
    )
)
def test_answers_survive(scores):
    assert decode_answer(json.loads(json.dumps(encode_answer(scores))), len(scores)) == scores


# --------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("answer", "reason", "tries"),
    [
        (say(b"oops", 500), "status 500: oops (tried 2 times)", 2),
        (say(b"busy", 429), "status 429: busy (tried 2 times)", 2),
        (say(b"who?", 401), "status 401: who?", 1),
        (say(b"<html>"), "the answer is not JSON: '<html>'", 1),
        (say(b"\xff\x00"), "the answer is not JSON", 1),
        (say(b"[" * 100_000), "the answer is not JSON", 1),
        (say(b"[]"), "want a message of version 2, got 'list'", 1),
        (say(b'{"version": 1}'), "want a message of version 2, got 1", 1),
        (say(b'{"version": 2}'), "scores: want a list, got NoneType", 1),
        (say(scores_json({"score": 1.0})), "1 scores for 2 chains", 1),
        (say(scores_json(1.0, 2.0)), "scores[0]: want a dict, got float", 1),
        (say(scores_json({"score": float("nan")}, {"score": 1})), "scores[0]: want score (a finite number)", 1),
        (say(scores_json({"score": 1}, {"score": "1"})), "scores[1]: want score (a finite number)", 1),
        (say(scores_json({"score": True}, {"score": 1})), "scores[0]: want score", 1),
        (lambda handler, _: handler.connection.close(), "(tried 2 times)", 2),
    ],
)  # fmt: skip
def test_whatever_a_server_does_wrong_is_a_reason(answer, reason, tries):
    with misbehaving(answer) as (url, times):
        reward = HttpReward(url, **CALM)
        reward.check()  # it does not describe itself: taken at the config's word
        scores = evaluate(reward, "mine", [make_view("a"), make_view("b")])
        assert len(times) == tries
    assert not scores.valid.any()
    assert all(reason in why for why in scores.reasons), scores.reasons


def test_a_server_that_never_answers_is_left():
    with misbehaving(lambda handler, _: SILENCE.wait(15)) as (url, _):
        begin = time.monotonic()
        scores = evaluate(HttpReward(url, **HASTE), "mine", [make_view("a")])
        assert time.monotonic() - begin < 12.0
    assert "no answer within 0.3 s (tried 2 times)" in scores.reasons[0]


def test_a_server_that_drips_is_cut_off():
    def drip(handler: BaseHTTPRequestHandler, _count: int) -> None:
        for _ in range(1000):
            handler.wfile.write(b"H")
            handler.wfile.flush()
            time.sleep(0.02)

    with misbehaving(drip) as (url, _):
        begin = time.monotonic()
        scores = evaluate(HttpReward(url, **HASTE), "mine", [make_view("a")])
        assert time.monotonic() - begin < 12.0
    assert "no answer within 0.3 s" in scores.reasons[0]


def test_a_server_that_recovers_is_asked_again():
    def recover(handler: BaseHTTPRequestHandler, count: int) -> None:
        say(b"", 503)(handler, count) if count < 3 else say(scores_json({"score": 0.25}))(handler, count)

    with misbehaving(recover) as (url, times):
        assert HttpReward(url).score([make_view("a")]) == [0.25]
    first, second = np.diff(times)
    assert first >= 0.125  # 0.25 s and 0.5 s, each times 0.5 to 1
    assert second >= 0.25


def test_a_server_that_is_down_is_tried_once_a_call_until_it_answers():
    def answer(handler: BaseHTTPRequestHandler, count: int) -> None:
        healthy = say(scores_json({"score": 0.5}))
        (healthy if count in (4, 6) else say(b"", 500))(handler, count)

    with misbehaving(answer) as (url, times):
        reward = HttpReward(url, **CALM)
        reasons = [reward.score([make_view("a")])[0] for _ in range(3)]  # two requests, one, one
        assert [isinstance(reason, Failure) for reason in reasons] == [True, True, False]
        assert len(times) == 4
        assert reward.score([make_view("a")]) == [0.5]  # patient again: the fifth fails, the sixth does not
    assert len(times) == 6


def test_all_tries_together_are_bounded():
    with misbehaving(say(b"", 500)) as (url, times):
        patience = Patience(timeout_s=20, total_s=3, max_tries=100)
        begin = time.monotonic()
        with pytest.raises(RequestError, match="status 500"):
            exchange("POST", url, {}, headers={}, patience=patience)
        assert time.monotonic() - begin < 12
    assert 1 < len(times) < 8


def test_nobody_there_is_a_line_before_the_run_and_a_reason_in_it():
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    reward = HttpReward(url, **CALM)
    with pytest.raises(ConfigError, match=r"^url: ConnectionRefusedError: .*start the server first"):
        reward.check()
    with pytest.raises(RewardError, match="ConnectionRefusedError"):
        reward.setup()
    assert "ConnectionRefusedError" in reward.score([make_view("a")])[0].reason


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(RequestError("gone", 503)))
    assert (str(error), error.status) == ("gone", 503)


# --------------------------------------------------------------------------------- declarations, server


@pytest.mark.parametrize(
    ("declares", "message"),
    [
        ({}, 'declares.needs: the server has ["final_picture", "text"], the config ["text"]; '
             'set declares.needs=["final_picture", "text"]'),
        ({"needs": ["text", "final_picture"]}, "declares.larger_is_better: the server has false"),
        ({"needs": ["text", "final_picture"], "larger_is_better": False}, "declares.missing: the server has 100.0"),
    ],
)  # fmt: skip
def test_a_declaration_that_differs_from_the_servers_is_named(declares, message):
    with serving(LossReward()) as url, pytest.raises(ConfigError) as caught:
        HttpReward(url, declares=declares).check()
    assert message in str(caught.value)


def test_a_need_that_prompts_do_not_have_is_named():
    reward = HttpReward("http://a", declares={"needs": ["truht"]})
    with pytest.raises(
        ConfigError, match=r"^needs truht, which the run's prompts do not have; did you mean truth"
    ):
        reward.check_prompt(["degraded", "truth"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:80"}, "url: want http://host:port, got 'localhost:80'"),
        ({"url": "http://a:b"}, "url: want http://host:port"),
        ({"url": "http://a", "timeout_s": 0}, "timeout_s: want a number above 0 and at most 1e+06, got 0"),
        ({"url": "http://a", "declares": {"ned": []}}, "declares: unknown key 'ned'; did you mean needs?"),
        ({"url": "http://a", "declares": {"needs": "text"}}, "declares.needs: want a list, as in [text]"),
        (
            {"url": "http://a", "declares": {"low": 1, "high": 0}},
            "declares.low: want less than high (0), got 1",
        ),
        ({"url": "http://a", "declares": 3}, "declares: want a mapping of needs"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ConfigError) as caught:
        load_reward("mine", RewardConfig(target="rewards.http:HttpReward", options=options))
    assert str(caught.value).startswith(f"rewards.mine.options: {message}")


def test_a_token_is_asked_for_and_comes_from_the_environment(monkeypatch):
    with serving(DegradationReward(), token="secret") as url:
        declares = {"needs": ["text", "labels"]}
        with pytest.raises(ConfigError, match=r"status 401: .*want the server's token"):
            HttpReward(url, declares=declares).check()
        reward = HttpReward(url, declares=declares, token_env="REWARD_TOKEN")
        with pytest.raises(ConfigError, match="the environment has no variable REWARD_TOKEN"):
            reward.check()
        monkeypatch.setenv("REWARD_TOKEN", "secret")
        reward.check()
        assert reward.score([make_view()]) == [pytest.approx(0.6)]


BASE = {"chain_id": "a/0", "group_id": "a", "text": "x", "prompt": {"prompt_id": "a"}}


def asking(**prompt):
    return {"prompt": {"prompt_id": "a"} | prompt}


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ([], "want a message of version 2"),
        ({"version": 2}, "chains: want a list"),
        ({"version": 2, "chains": []}, "images: want a list"),
        ({"version": 2, "chains": [], "images": ["!"]}, "images: not a PNG in base64"),
        ({"version": 2, "chains": [], "images": ["aGFsbG8="]}, "images: not a PNG in base64"),
        ({"version": 2, "chains": [3], "images": []}, "chains[0]: want a dict"),
        (
            {"version": 2, "chains": [BASE | asking(pictures={"photo": 0})], "images": []},
            "chains[0].prompt.pictures.photo: want an index into the 0 images",
        ),
        (
            {"version": 2, "chains": [BASE | asking(shown=["photo"])], "images": []},
            "chains[0].prompt: a: shows ['photo'], its pictures are []",
        ),
        (
            {
                "version": 2,
                "chains": [BASE | asking(messages=[{"role": "user", "content": "x"}])],
                "images": [],
            },
            "chains[0].prompt.messages[0].content: want a list",
        ),
        ({"version": 2, "chains": [BASE | {"prompt": 1}], "images": []}, "chains[0].prompt: want a dict"),
        ({"version": 2, "chains": [BASE | {"finish": "now"}], "images": []}, "chains[0].finish: 'now'"),
        ({"version": 2, "chains": [BASE | {"text": None}], "images": []}, "chains[0].text: want a str"),
    ],
)
def test_a_request_that_is_not_of_the_schema_is_refused(message, said):
    with pytest.raises(WireError) as caught:
        decode_request(message)
    assert said in str(caught.value)
    with serving(DegradationReward()) as url, pytest.raises(RequestError) as refused:
        exchange(
            "POST",
            f"{url}/v1/score",
            message,
            headers={},
            patience=Patience(timeout_s=5, total_s=5, max_tries=1),
        )
    assert refused.value.status == 400


def test_the_server_says_what_it_serves_and_where():
    patience = Patience(timeout_s=5, total_s=5, max_tries=1)
    with serving(DegradationReward()) as url:
        described = exchange("GET", f"{url}/v1/reward", None, headers={}, patience=patience)
        with pytest.raises(RequestError, match="nothing at /; want GET /v1/reward or POST /v1/score"):
            exchange("GET", f"{url}/", None, headers={}, patience=patience)
    assert described == {
        "version": 2, "name": "mine", "needs": ["labels", "text"], "unit": "share", "low": 0.0, "high": 1.0,
        "missing": 0.0, "larger_is_better": True, "deterministic": True,
    }  # fmt: skip


def test_an_address_that_is_taken_is_named():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigError, match=r"--port \d+: cannot listen there: "),
    ):
        RewardServer(DegradationReward(), "mine", host="127.0.0.1", port=taken.getsockname()[1])


def test_one_client_does_not_wait_for_anothers_body_and_scoring_is_one_by_one():
    reward = PoisonReward()
    with serving(reward) as url:
        reward.gate.clear()
        found: list[object] = []
        threads = [
            threading.Thread(target=lambda n=n: found.append(HttpReward(url).score([make_view("a b")] * n)))
            for n in (1, 2, 3)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        reward.gate.set()
        for thread in threads:
            thread.join(10)
    assert sorted(reward.batches) == [1, 2, 3]
    assert sorted(map(len, found)) == [1, 2, 3]
