"""What strangers send to a reward server, or as one, costs little and reaches no terminal as it is."""

import base64
import json
import socket
import struct
import threading
import time
import zlib

import pytest

from configs.schema import RewardConfig
from rewards.base import evaluate
from rewards.degradation import DegradationReward
from rewards.http import HttpReward
from rewards.load import load_reward
from rewards.remote import server as server_module
from rewards.remote.wire import LARGEST_PIXELS, VERSION, WireError, decode_request
from rl.errors import ConfigError
from tests.reference.rewards import PoisonReward, make_view
from tests.rewards.remote.test_http import CALM, misbehaving, say, serving

HEAD = "POST /v1/score HTTP/1.1\r\nHost: a\r\n"


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def hear(sock: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    said = b""
    try:
        while part := sock.recv(65536):
            said += part
    except ConnectionResetError:
        pass
    return said


def png(width: int, height: int) -> str:
    """A picture that claims to be large, in 60 bytes."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b""))]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


# --------------------------------------------------------------------------------- at the server


@pytest.mark.parametrize("token", ["", "Authorization: Bearer wrong\r\n", "Authorization: Bearer é\r\n"])
def test_without_the_token_no_body_is_read(token):
    with serving(DegradationReward(), token="secret") as url, connect(url) as sock:
        sock.sendall(f"{HEAD}{token}Content-Length: 500000000\r\n\r\n".encode())
        assert b" 401 " in hear(sock)


def test_a_body_is_bounded_whatever_its_headers_say(monkeypatch):
    monkeypatch.setattr(server_module, "LARGEST_REQUEST", 1 << 20)
    with serving(DegradationReward()) as url, connect(url) as sock:
        sock.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        sock.sendall(chunk * 17)
        assert b" 413 " in hear(sock)


def test_pictures_that_unpack_to_too_much_are_refused_by_their_size():
    side = 9000
    images = [png(side, side)] * (LARGEST_PIXELS // side**2 + 1)
    with pytest.raises(WireError, match=f"^images: {len(images) * side**2} pixels together, want at most"):
        decode_request({"version": VERSION, "chains": [], "images": images})


@pytest.mark.parametrize("start", ["GET /v1/rew", f"{HEAD}Content-Length: 100\r\n\r\n"])
def test_a_byte_now_and_then_holds_no_connection(start, monkeypatch):
    monkeypatch.setattr(server_module, "HEAD_S", 0.3)
    monkeypatch.setattr(server_module, "BODY_S", 0.3)
    with serving(DegradationReward()) as url, connect(url) as sock:
        sock.sendall(start.encode())
        begin, is_open = time.monotonic(), True
        while is_open and time.monotonic() - begin < 10:
            try:
                sock.sendall(b"a")
            except OSError:
                is_open = False
            time.sleep(0.05)
        assert not is_open
        assert time.monotonic() - begin < 5


def test_connections_are_bounded_and_cost_no_thread(monkeypatch):
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 20)
    with serving(DegradationReward()) as url:
        HttpReward(url, declares={"needs": ["text", "labels"]}).check()
        before = threading.active_count()
        crowd = [connect(url) for _ in range(20)]
        with connect(url) as late:
            assert hear(late) == b""
        assert threading.active_count() == before
        for sock in crowd:
            sock.close()
        HttpReward(url, declares={"needs": ["text", "labels"]}).check()


def test_a_reward_scores_in_the_thread_that_serves():
    class Where(PoisonReward):
        def score(self, chains):
            return [float(threading.current_thread().name == "serves")] * len(chains)

    server = server_module.RewardServer(Where(), "mine", host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.serve_forever, name="serves")
    thread.start()
    assert HttpReward(f"http://127.0.0.1:{server.server_port}").score([make_view("a")]) == [1.0]
    server.shutdown()
    thread.join(5)
    assert not thread.is_alive()


# --------------------------------------------------------------------------------- at the client

CODES = "\x1b[2J\x1b]0;title\x07\x9b31m\r\nnext line\u202e"


@pytest.mark.parametrize(
    "answer",
    [
        say(f"{CODES}{'a' * (5 << 20)}".encode(), 500),
        say(json.dumps({"version": VERSION, "scores": [{"failure": CODES + "a" * (5 << 20)}]}).encode()),
        say(json.dumps({"version": VERSION, "scores": [{"missing": CODES + "a" * (5 << 20)}]}).encode()),
        say(json.dumps({"version": CODES * 10000}).encode()),
        say(json.dumps({"version": VERSION, "scores": [{CODES * 10000: 1}]}).encode()),
    ],
)
def test_what_a_server_says_is_cut_and_cleaned(answer):
    with misbehaving(answer) as (url, _):
        (reason,) = evaluate(HttpReward(url, **CALM), "mine", [make_view("a")]).reasons
    assert 10 < len(reason) < 1300
    assert reason.isprintable()


def test_a_declaration_of_a_server_is_cut():
    class Garrulous(DegradationReward):
        missing = 0.0
        needs = frozenset({"a" * 100000, "text"})

    with serving(Garrulous()) as url, pytest.raises(ConfigError) as caught:
        HttpReward(url).check()
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "url", ["http://me:secret@a:1", "http://me:secret@a:port", "ftp://secret@a", "http://a b@c"]
)
def test_a_password_in_an_address_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError, match="use token_env") as caught:
        load_reward("mine", RewardConfig(target="rewards.http:HttpReward", options={"url": url}))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("token", ["secret\n", "secret\r\nX-Other: 1", "sécret"])
def test_a_token_that_is_no_header_is_refused_and_not_repeated(token, monkeypatch):
    monkeypatch.setenv("REWARD_TOKEN", token)
    with (
        serving(DegradationReward()) as url,
        pytest.raises(ConfigError, match="REWARD_TOKEN has a line") as caught,
    ):
        HttpReward(url, token_env="REWARD_TOKEN").check()
    assert "cret" not in str(caught.value)
