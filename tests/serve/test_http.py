"""Requests to a real server with tiny models: answers, errors, limits, slow and rude clients."""

import contextlib
import errno
import http.client
import json
import logging
import select
import socket
import threading
import time
import unittest.mock
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flask")
pytest.importorskip("waitress")
pytest.importorskip("tyro")
from waitress import wasyncore

from examples.serve import RateLimiter, Service, validation
from examples.serve.app import HEADERS, create_app
from examples.serve.load import send
from examples.serve.server import Server
from tests.serve import tiny
from tests.serve.tiny import ask

SAY, REVIEW = "/api/pronounce", "/api/sentiment"


@pytest.fixture(scope="module")
def port(service):
    with tiny.running(service, channel_timeout=2) as port:
        yield port


@pytest.mark.quick()
def test_pronunciations(port, service):
    status, content, headers = ask(port, SAY, {"words": [" Bad", "cab"]})
    assert status == 200 and headers["Cache-Control"] == "no-store"
    expected = service.pronounce(["bad", "cab"])
    for word, found, said in zip(("bad", "cab"), content["words"], expected, strict=True):
        assert found["word"] == word and found["phonemes"] == said.phonemes
        assert found["score"] == pytest.approx(said.score, abs=1e-4)
        assert found["probability"] == pytest.approx(np.exp(said.score), abs=1e-4)
        np.testing.assert_allclose(found["attention"], said.attention, atol=1e-4)
        np.testing.assert_allclose(np.sum(found["attention"], axis=1), 1, atol=1e-3)


def test_sentiment(port, service):
    status, content, _ = ask(port, REVIEW, {"text": "This film is NOT good, frobnicate."})
    words = ["this", "film", "is", "not", "good", "frobnicate", "."]
    assert status == 200 and [step["word"] for step in content["words"]] == words
    course = [step["probability"] for step in content["words"]]
    np.testing.assert_allclose(course, service.sentiment(words), atol=1e-4)
    assert content["probability"] == course[-1]
    assert [step["known"] for step in content["words"]] == [True] * 5 + [False, True]


LONG_TEXT = "good " * 33
WRONG = [
    (SAY, b"", "body: expected JSON in UTF-8, got"),
    (SAY, b"\xff\xfe", "body: expected JSON in UTF-8, got"),
    (SAY, b'{"words": ["a"]', "body: expected JSON in UTF-8, got"),
    (SAY, b"[" * 4000, "body: expected JSON in UTF-8, got"),
    (SAY, b"9" * 4000, "body: expected"),
    (SAY, [], 'body: expected an object {"words": …}, got a list of 0'),
    (SAY, {}, "words: expected this field in the body, got no field"),
    (SAY, {"text": "a"}, "words: expected this field in the body, got 'text'"),
    (SAY, {"words": ["a"], "x": 1}, "body: expected the field words alone, got also 'x'"),
    (SAY, b'{"words": ["a"], "words": ["b"]}', "body: expected each field once, got 'words' twice"),
    (SAY, {"words": "a"}, "words: expected a list of words, got 'a'"),
    (SAY, {"words": None}, "words: expected a list of words, got null"),
    (SAY, {"words": []}, "words: expected 1 to 4 words, got 0"),
    (SAY, {"words": ["a"] * 5}, "words: expected 1 to 4 words, got 5"),
    (SAY, {"words": ["a", 1.5]}, "words[1]: expected a word, got 1.5"),
    (SAY, {"words": ["a", {"b": 1}]}, "words[1]: expected a word, got an object of 1"),
    (SAY, {"words": [" "]}, "words[0]: expected 1 to 16 letters, got 0"),
    (SAY, {"words": ["a" * 17]}, "words[0]: expected 1 to 16 letters, got 17"),
    (SAY, {"words": ["a", "naïve"]}, "words[1]: expected letters among abcdefghijklmnopqrstuvwxyz"),
    (SAY, {"words": ["<pad>"]}, "words[0]: expected letters among"),
    (SAY, {"words": ["\ud800"]}, "words[0]: expected letters among"),
    (REVIEW, {"text": 3}, "text: expected a text, got 3"),
    (REVIEW, {"text": ["good"]}, "text: expected a text, got a list of 1"),
    (REVIEW, {"text": " , "}, "text: expected 1 to 32 words, got 0"),
    (REVIEW, {"text": LONG_TEXT}, "text: expected 1 to 32 words, got 33"),
    (REVIEW, {"text": "a" * 401}, "text: expected at most 400 characters, got 401"),
]


@pytest.mark.parametrize(("path", "body", "message"), WRONG)
def test_what_is_wrong_is_said(port, path, body, message):
    status, content, headers = ask(port, path, body, Content_Type="application/json")
    error = content["error"]
    assert status == error["status"] == 400 and headers["Content-Type"] == "application/json"
    assert error["message"].startswith(message)
    assert error["field"] == message.partition(":")[0]


def test_paths_methods_and_types(port):
    odd = (
        "/static//etc/passwd",
        "/static/",
        "/static/app.js/",
        "/%2e%2e/app.py",
    )
    for path in ("/nope", "/static/nope.js", "/static/../app.py", "/api", "/api/pronounce/", *odd):
        status, content, _ = ask(port, path)
        assert status == 404 and content["error"]["message"].startswith("path: expected one of")
    for method in ("GET", "PUT", "DELETE"):
        status, content, headers = ask(port, SAY, method=method)
        assert (status, headers["Allow"]) == (405, "OPTIONS, POST")
        assert content["error"]["message"].endswith(f"got {method}")
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        status, content, _ = ask(port, SAY, b'{"words": ["a"]}', Content_Type=kind)
        assert status == 415 and "expected application/json, got" in content["error"]["message"]
    packed = {"Content_Encoding": "gzip", "Content_Type": "application/json"}
    status, content, _ = ask(port, SAY, b'{"words": ["a"]}', **packed)
    assert (status, content["error"]["message"]) == (
        415,
        "Content-Encoding: expected none, got 'gzip'",
    )


@pytest.mark.parametrize("mark", [*"'’‘ʼ＇"])
def test_any_apostrophe_is_one(mark):
    known = [*"adeinot'"]
    found = validation.words_of([f"Don{mark}t"], known, tiny.LIMITS)
    assert found == ["don't"]
    assert validation.text_of(f"I don{mark}t", str.split, tiny.LIMITS) == ["I", "don't"]


def test_every_answer_has_the_headers(port):
    for path in ("/", "/static/app.js", "/health", "/nope"):
        _, content, headers = ask(port, path)
        assert content and HEADERS.items() <= headers.items() and "Server" not in headers
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_the_page_is_whole_and_takes_nothing_from_elsewhere(port):
    status, page, headers = ask(port, "/")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    for name in ("app.js", "style.css", "icon.svg"):
        assert f"/static/{name}".encode() in page
        status, content, _ = ask(port, f"/static/{name}")
        assert status == 200 and b"https://" not in content and b"innerHTML" not in content
    assert b"http" not in page and b"style=" not in page and b"onclick" not in page


def test_bodies_that_are_too_large(port):
    assert ask(port, SAY, b" " * 4096, Content_Type="application/json")[0] == 400
    # Refused before it has come, and told so although most of it is still on its way.
    for size in (4097, 8_000_000):
        status, content, headers = ask(port, SAY, b" " * size, Content_Type="application/json")
        assert status == 413 and HEADERS.items() <= headers.items()
        assert content["error"]["message"] == f"body: expected at most 4,096 bytes, got {size:,}"

    def endless():
        for _ in range(1000):
            yield b" " * 1000

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", SAY, endless(), {"Content-Type": "application/json"})  # in chunks
    response = connection.getresponse()
    message = json.loads(response.read())["error"]["message"]
    assert response.status == 413 and message == "body: expected at most 4,096 bytes, got more"
    connection.close()


def talk(port, *parts, pause=0.0):
    """What the server says to bytes until it closes the connection; it may interrupt."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
            if pause and select.select([connection], [], [], pause)[0]:
                break
        said = b""
        with contextlib.suppress(ConnectionError):
            while more := connection.recv(65536):
                said += more
        return said


POST = b"POST /api/pronounce HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b'10\r\n{"words": ["a"]}\r\n0\r\n\r\n'


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"rubbish\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # of TLS
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (POST + b"Content-Length: -3\r\n\r\n", 400),
        (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n", 400),
        (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", 413),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
        (POST + CHUNKED + b"\r\nxyz\r\n\r\n", 400),
        (POST + CHUNKED + b"\r\n" + b"f" * 40 + b"\r\n", 413),
        (POST + CHUNKED + CHUNKED + b"\r\n" + CHUNKS, 400),
        (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKS, 400),
        (POST + CHUNKED + b"Content-Length: 4\r\n\r\n" + CHUNKS, 400),
        (POST.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n" + CHUNKS, 400),
        (b"GET http://[/health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: <x>\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n", 400),
        (b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n", 400),
        (b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\n\r\n", 431),
    ],
)
def test_malformed_requests_are_told_so_in_json(port, raw, status):
    head, _, body = talk(port, raw).partition(b"\r\n\r\n")
    assert head.split()[1] == b"%d" % status and b"Content-Security-Policy" in head
    assert json.loads(body)["error"]["status"] == status
    assert ask(port, "/health")[0] == 200


def test_chunks_are_a_body_too_and_an_old_client_needs_no_host(port):
    said = talk(port, POST + CHUNKED + b"Connection: close\r\n\r\n" + CHUNKS)
    assert b" 200 OK" in said and b'"word":"a"' in said
    assert b" 200 OK" in talk(port, b"GET /health HTTP/1.0\r\n\r\n")


def test_who_asks_whether_to_go_on_is_told(port):
    expect = POST + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: "
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(expect + b"16\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b'{"words": ["a"]}')
        assert b" 200 OK" in connection.recv(100)
    said = talk(port, expect + b"9999999\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 413 ") and b"100 Continue" not in said


def test_an_upgrade_is_refused_in_words(port):
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13"}
    status, content, _ = ask(port, "/", **upgrade)
    message = "Upgrade: expected none, got 'websocket'"
    assert (status, content["error"]["message"]) == (400, message)


def never_reads(port, raw):
    """A connection that sends as much as is taken, and reads nothing."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        connection.send(raw)
    return connection


def test_who_reads_no_answers_costs_one_and_is_cut_off(service, monkeypatch):
    waiting: list[int] = []
    maintenance = Server.maintenance

    def watch(self, now):
        waiting.extend(channel.total_outbufs_len for channel in self.active_channels.values())
        maintenance(self, now)

    monkeypatch.setattr(Server, "maintenance", watch)
    raw = b"GET /static/app.js HTTP/1.1\r\nHost: x\r\n\r\n" * 2000
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(tiny.running(service, channel_timeout=1))
        rude = [stack.enter_context(never_reads(port, raw)) for _ in range(4)]
        cut = select.poll()
        for connection in rude:
            cut.register(connection, 0)  # errors and resets alone
        end, seen = time.monotonic() + 10, set[int]()
        while len(seen) < len(rude) and time.monotonic() < end:
            seen |= {number for number, _ in cut.poll(200)}
        assert len(seen) == len(rude)
        assert ask(port, "/health")[0] == 200
    assert 0 < max(waiting) < 20_000  # bytes: two files, not two thousand


def test_who_reads_nothing_does_not_hold_up_the_end(service):
    raw = b"GET /static/app.js HTTP/1.1\r\nHost: x\r\n\r\n" * 2000
    with tiny.running(service, channel_timeout=1, grace=30) as port:
        rude = never_reads(port, raw)
        time.sleep(0.5)
        start = time.monotonic()
    assert time.monotonic() - start < 5
    rude.close()


def test_a_system_without_free_files_is_not_asked_all_the_time(service, monkeypatch, caplog):
    accept, asked = wasyncore.dispatcher.accept, []

    def fail(self):
        asked.append(time.monotonic())
        raise OSError(errno.EMFILE, "Too many open files")

    with tiny.running(service) as port, caplog.at_level(logging.INFO):
        monkeypatch.setattr(wasyncore.dispatcher, "accept", fail)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(1.5)
            assert 1 <= len(asked) <= 2
            monkeypatch.setattr(wasyncore.dispatcher, "accept", accept)
            assert b" 200 OK" in connection.recv(100)  # it was not lost
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "Too many open files" in record.getMessage() and not record.exc_info


def test_who_comes_when_another_is_closed_is_not_taken_for_it(service, monkeypatch):
    maintenance = Server.maintenance
    with contextlib.ExitStack() as stack:
        late = stack.enter_context(socket.socket())
        late.settimeout(10)

        def and_then_connect(self, now):
            before = len(self.active_channels)
            maintenance(self, now)
            if len(self.active_channels) < before:
                monkeypatch.setattr(Server, "maintenance", maintenance)
                late.connect(("127.0.0.1", int(self.effective_port)))
                late.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")

        monkeypatch.setattr("examples.serve.server.LINGER", 0.2)
        monkeypatch.setattr(Server, "maintenance", and_then_connect)
        port = stack.enter_context(tiny.running(service))
        refused = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        refused.sendall(b"rubbish\r\n\r\n")
        assert b" 400 " in refused.recv(65536)
        end = time.monotonic() + 10
        while Server.maintenance is not maintenance and time.monotonic() < end:
            time.sleep(0.05)
        assert b" 200 OK" in late.recv(65536)


def test_static_files_come_from_memory(port, monkeypatch):
    opened = unittest.mock.Mock(side_effect=OSError(errno.EMFILE, "Too many open files"))
    monkeypatch.setattr("builtins.open", opened)
    monkeypatch.setattr("io.open", opened)
    status, _, headers = ask(port, "/static/style.css")
    assert status == 200 and headers["Content-Type"] == "text/css; charset=utf-8"
    assert ask(port, "/static/style.css", If_None_Match=headers["Etag"])[0] == 304
    opened.assert_not_called()


def test_slow_clients_hold_nobody_up_and_are_told_when_it_takes_too_long(port):
    body = b'{"words": ["bad"]}'
    head = (
        f"POST {SAY} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    said = {}

    def drip(number, raw, pause):
        said[number] = talk(port, *(raw[i : i + 1] for i in range(len(raw))), pause=pause)

    # More of them than worker threads: 40 that would take 20 s, and one that is slow but in time.
    threads = [
        threading.Thread(target=drip, args=(number, b"POST /" + b"a" * 94, 0.2))
        for number in range(40)
    ]
    threads.append(threading.Thread(target=drip, args=("slow", head + body, 0.005)))
    for thread in threads:
        thread.start()
    start = time.monotonic()
    answers = [ask(port, SAY, {"words": ["bad"]})[0] for _ in range(20)]
    assert answers == [200] * 20 and time.monotonic() - start < 3
    for thread in threads:
        thread.join(20)
    assert time.monotonic() - start < 12
    assert b" 200 OK" in said["slow"] and b'"word":"bad"' in said["slow"]
    timeouts = [raw for number, raw in said.items() if number != "slow"]
    assert len(timeouts) == 40 and all(raw.startswith(b"HTTP/1.0 408") for raw in timeouts)
    assert b"expected all of it in 2 seconds, got a part" in timeouts[0]


def asking(body):
    """A request for pronunciations as it goes over the wire."""
    return (
        f"POST {SAY} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def test_who_waits_for_a_connection_when_the_server_ends_is_answered(service):
    raw = asking(b'{"words": ["bad"]}')
    with contextlib.ExitStack() as stack:
        with tiny.running(service, connection_limit=3) as port:  # of which the server needs two
            first, second = (
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
                for _ in range(2)
            )
            first.sendall(raw)
            assert b"200 OK" in first.recv(65536)
            second.sendall(raw)
            assert not select.select([second], [], [], 0.3)[0]
        said = second.recv(65536)
    assert b"200 OK" in said and b"Connection: close" in said


def test_several_requests_on_one_connection(port):
    one = asking(b'{"words": ["bad"]}')
    last = one.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nConnection: close\r\n")
    said = talk(port, one + one + last)  # without waiting for answers
    assert said.count(b"200 OK") == 3 and said.count(b'"word":"bad"') == 3


@pytest.mark.slow
def test_thousands_of_requests_lose_none_compile_nothing_and_are_right(port, service):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice([*"abcdefgh"], n)) for n in rng.integers(1, 17, 40)]
    texts = [
        " ".join(rng.choice(["not", "good", "bad", "film"], n)) for n in rng.integers(1, 33, 40)
    ]
    spoken = dict(zip(words, [service.pronounce([word])[0] for word in words], strict=True))
    courses = {text: service.sentiment(text.split()) for text in texts}
    asked: list[tuple[str, Any]] = []
    wrong = 0
    for number in range(2000):
        if number % 20 == 7:  # someone is always wrong
            asked.append((SAY, {"words": ["!"]}))
        elif number % 2:
            asked.append(
                (SAY, {"words": [words[i] for i in rng.integers(40, size=number % 4 + 1)]})
            )
        else:
            asked.append((REVIEW, {"text": texts[number % 40]}))
    with tiny.compilations() as compiled:
        answers = send("127.0.0.1", port, asked, 64)
    assert len(answers) == 2000 and not compiled
    for answer in answers:
        if answer.body == {"words": ["!"]}:
            wrong += 1
            assert answer.status == 400 and answer.content["error"]["field"] == "words[0]"
        elif answer.status == 503:  # the queue was full, and it says so
            assert "more to do" in answer.content["error"]["message"]
        elif answer.path == SAY:
            for word, found in zip(answer.body["words"], answer.content["words"], strict=True):
                assert (found["word"], found["phonemes"]) == (word, spoken[word].phonemes)
                assert found["score"] == pytest.approx(spoken[word].score, abs=1e-3)
        else:
            course = [step["probability"] for step in answer.content["words"]]
            np.testing.assert_allclose(course, courses[answer.body["text"]], atol=2e-4)
    assert wrong == 100 and sum(answer.status == 200 for answer in answers) > 1000


def test_health_tells_ready_from_live():
    service = Service(tiny.pronouncer(), tiny.reviewer(), tiny.LIMITS)
    with tiny.running(service) as port:
        status, content, headers = ask(port, "/health")
        assert (status, content["live"], content["ready"]) == (503, True, False)
        assert headers["Retry-After"] == "1"
        status, content, headers = ask(port, SAY, {"words": ["a"]})
        assert status == 503 and headers["Retry-After"] == "5"
        assert content["error"]["message"] == "the model pronounce is not ready yet"
        service.ready = {"pronounce": True, "sentiment": True}
        status, content, _ = ask(port, "/health")
        assert status == 200 and content["ready"] and content["models"]["sentiment"]
    service.close()


def test_a_full_queue_says_when_to_come_again(service):
    blocked = Service(tiny.pronouncer(), tiny.reviewer(), tiny.LIMITS)
    blocked.ready["sentiment"] = True
    gate, begun = threading.Event(), threading.Event()

    def run(shape, items):
        begun.set()
        gate.wait(10)
        return [0.5] * len(items)

    blocked.batchers["sentiment"].run = run
    blocked.batchers["sentiment"].capacity = 4
    with tiny.running(blocked) as port:
        first = threading.Thread(target=ask, args=(port, REVIEW, {"text": "good"}))
        first.start()
        assert begun.wait(10)
        status, content, headers = ask(port, REVIEW, {"text": "this film is not good"})
        gate.set()
        first.join()
        assert status == 503 and headers["Retry-After"] == "1"
        assert "more to do than it can" in content["error"]["message"]
    blocked.close()


def test_the_rate_is_bounded_by_address(service):
    limiter = RateLimiter(0.5, 3)
    with tiny.running(service, limiter=limiter) as port:
        found = [ask(port, SAY, {"words": ["a"]}) for _ in range(4)]
        assert [status for status, _, _ in found] == [200, 200, 200, 429]
        _, content, headers = found[-1]
        assert headers["Retry-After"] == "2" and "0.5 requests a second" in str(content)
        assert ask(port, "/health")[0] == 200  # what costs little is free
        # Who claims to come by a proxy that is not trusted stays who it is.
        assert ask(port, SAY, {"words": ["a"]}, X_Forwarded_For="192.0.2.7")[0] == 429


def test_behind_a_trusted_proxy_the_client_counts(service):
    limiter = RateLimiter(0.001, 1)
    with tiny.running(service, limiter=limiter, trusted_proxy="127.0.0.1") as port:
        for client in ("192.0.2.1", "192.0.2.2"):
            statuses = [
                ask(port, SAY, {"words": ["a"]}, X_Forwarded_For=f"203.0.113.9, {client}")[0]
                for _ in range(2)
            ]
            assert statuses == [200, 429]
        # What is no address shares the bucket of the proxy.
        found = [ask(port, SAY, {"words": ["a"]}, X_Forwarded_For=f"ban{n}")[0] for n in range(2)]
        assert found == [200, 429]


def test_the_application_bounds_bodies_under_any_server(service):
    client = create_app(service, tiny.LIMITS, RateLimiter(0, 1)).test_client()
    response = client.post(SAY, data=b" " * 4097, content_type="application/json")
    message = "body: expected at most 4,096 bytes, got 4,097"
    assert response.status_code == 413 and response.json == {
        "error": {"status": 413, "message": message}
    }


def test_a_mistake_of_ours_has_an_id_and_no_traceback(service, caplog):
    broken = Service(tiny.pronouncer(), tiny.reviewer(), tiny.LIMITS)
    broken.ready["sentiment"] = True

    def run(shape, items):
        raise RuntimeError("a secret")

    broken.batchers["sentiment"].run = run
    with tiny.running(broken) as port, caplog.at_level(logging.ERROR, "examples.serve"):
        status, content, headers = ask(port, REVIEW, {"text": "good"})
    broken.close()
    assert status == 500 and HEADERS.items() <= headers.items()
    assert "secret" not in str(content) and "Traceback" not in str(content)
    assert content["error"]["id"] in caplog.text and "a secret" in caplog.text
