"""A server process that is told to end: what it has accepted it answers, and it leaves with 0."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest.mock
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flask")
pytest.importorskip("waitress")
pytest.importorskip("tyro")
from examples.serve import Service
from examples.serve.__main__ import Config, serve
from tests.serve import tiny
from tests.serve.tiny import ask

pytestmark = pytest.mark.slow  # each test starts a server process

ROOT = Path(__file__).resolve().parents[2]
# As tests/conftest.py has it, for a process of its own.
CACHE = {
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


class Process:
    """The server of tests/serve/tiny.py."""

    def __init__(self, seconds, grace):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.serve.tiny", "0", str(seconds), str(grace)],
            cwd=ROOT, env={**CACHE, **os.environ}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.lines = []
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        self.port = int(self._wait(r"listening at http://127\.0\.0\.1:(\d+)").group(1))

    def _read(self):
        for line in self.process.stderr or ():
            self.lines.append(line)

    def _wait(self, pattern, timeout=60):
        end = time.monotonic() + timeout
        while time.monotonic() < end and self.process.poll() is None:
            if found := re.search(pattern, "".join(self.lines)):
                return found
            time.sleep(0.05)
        raise AssertionError("".join(self.lines))

    def ready(self):
        self._wait(r":ready\n")
        return self

    def end(self, number=signal.SIGTERM):
        """Status and seconds that it took."""
        start = time.monotonic()
        self.process.send_signal(number)
        status = self.process.wait(30)
        self.reader.join()
        return status, time.monotonic() - start

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        if self.process.stderr is not None:
            self.process.stderr.close()


def request(words):
    body = json.dumps({"words": words}).encode()
    head = f"POST /api/pronounce HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: application/json\r\n\r\n".encode() + body


def answer(connection):
    said = b""
    while more := connection.recv(65536):
        said += more
    return said


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def test_what_was_accepted_is_answered_after_sigterm():
    with Process(seconds=0.3, grace=20) as server:
        server.ready()
        idle, asking, slow = connect(server.port), [], connect(server.port)
        raw = request(["slow"])
        slow.sendall(raw[:-5])  # one that has not come yet
        for number in range(40):  # more than worker threads
            connection = connect(server.port)
            connection.sendall(request(["abcdefgh"[number % 8 :]]))
            asking.append(connection)
        time.sleep(0.1)
        ended = []
        ending = threading.Thread(target=lambda: ended.append(server.end()))
        ending.start()
        time.sleep(0.1)
        slow.sendall(raw[-5:])
        said = [answer(connection) for connection in [*asking, slow]]
        for raw in said:
            assert raw.startswith(b"HTTP/1.1 200 OK") and raw.endswith(b"\n")
            assert b"Connection: close" in raw
        assert b'"word":"slow"' in said[-1]
        assert answer(idle) == b""
        ending.join()
        status, seconds = ended[0]
        assert status == 0 and seconds < 15
        with pytest.raises(ConnectionError):
            connect(server.port)
        for connection in (idle, slow, *asking):
            connection.close()
        assert "unanswered" not in "".join(server.lines)


def test_the_end_comes_in_bounded_time_and_sigint_is_as_good():
    with Process(seconds=0.0, grace=1.0) as server:
        assert ask(server.port, "/health")[1]["live"]
        never = connect(server.port)
        never.sendall(request(["never"])[:-1])
        time.sleep(0.2)
        status, seconds = server.end(signal.SIGINT)
        never.close()
        assert status == 0 and seconds < 6
        assert "stopped with 1 requests unanswered after 1 s" in "".join(server.lines)


def test_it_can_end_before_it_is_ready():
    with Process(seconds=0.0, grace=1.0) as server:
        status, seconds = server.end()
        assert status == 0 and seconds < 6


def test_models_that_fail_end_it_with_1(monkeypatch, caplog):
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest's own stay
    service = Service(tiny.pronouncer(), tiny.reviewer(), tiny.LIMITS)
    monkeypatch.setattr(service.pronouncer, "alphabet", [])
    assert serve(Config(port=0, grace=1.0), lambda: service) == 1
    service.close()
    assert "the models cannot be warmed up" in caplog.text


def test_a_run_that_cannot_be_read_ends_it_with_1_and_one_line(monkeypatch, caplog):
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def load():
        raise SystemExit("--pronounce: expected a run, got none")

    assert serve(Config(port=0, grace=1.0), load) == 1
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.message == "--pronounce: expected a run, got none" and not record.exc_info


def test_a_port_or_host_that_cannot_be_is_named_before_models_are_read(monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    load = unittest.mock.Mock()
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(SystemExit, match=r"--port: .*in use"),
    ):
        serve(Config(port=taken.getsockname()[1]), load)
    for host in ("300.1.2.3", "192.0.2.77"):  # none, and none of this machine's
        with pytest.raises(SystemExit, match="--host: "):
            serve(Config(port=0, host=host), load)
    load.assert_not_called()


def test_while_models_are_read_it_lives_and_can_be_ended(monkeypatch):
    handlers: dict[Any, Any] = {}
    reading, gate = threading.Event(), threading.Event()
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    found: dict[str, int] = {}

    def load():
        reading.set()
        gate.wait(20)
        raise SystemExit("too late")

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    thread = threading.Thread(
        target=lambda: found.update(status=serve(Config(port=port, grace=1.0), load))
    )
    thread.start()
    assert reading.wait(10)
    assert ask(port, "/health")[:2] == (
        503,
        {"live": True, "ready": False, "models": {"pronounce": False, "sentiment": False}},
    )
    status, content, headers = ask(port, "/api/pronounce", {"words": ["a"]})
    assert status == 503 and headers["Retry-After"] == "5"
    assert content["error"]["message"] == "the models are not read yet"
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    thread.join(10)
    gate.set()
    assert not thread.is_alive() and found == {"status": 0}
