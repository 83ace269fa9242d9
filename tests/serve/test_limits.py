"""How often a client may ask, and options that make no sense."""

import dataclasses
import threading

import pytest

pytest.importorskip("flask")
pytest.importorskip("waitress")
pytest.importorskip("tyro")
from examples.serve import Limits, RateLimiter
from examples.serve.__main__ import Config
from examples.serve.limits import FILES, allowed_connections, client_address


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_bucket_gives_its_burst_and_then_its_rate():
    clock = Clock()
    limiter = RateLimiter(4.0, 3, clock=clock)
    assert [limiter.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.25]
    clock.now = 0.2
    assert limiter.take("a") == pytest.approx(0.05)  # what was refused has cost nothing
    clock.now = 0.26
    assert limiter.take("a") == 0.0
    clock.now = 100.0  # it does not fill above its burst
    assert [limiter.take("a") > 0 for _ in range(4)] == [False, False, False, True]


def test_addresses_have_buckets_of_their_own_and_networks_share_one():
    limiter = RateLimiter(1.0, 1, clock=Clock())
    assert limiter.take("192.0.2.1") == 0.0
    assert limiter.take("192.0.2.2") == 0.0
    assert limiter.take("::ffff:192.0.2.1") > 0
    assert limiter.take("2001:db8::1") == 0.0
    assert limiter.take("2001:db8::ffff") > 0
    assert limiter.take("2001:db8:0:1::1") == 0.0
    assert limiter.take("no address") == 0.0
    assert limiter.take("no address") > 0


def test_memory_is_bounded_and_the_latest_stay():
    limiter = RateLimiter(1.0, 1, addresses=10, clock=Clock())
    for number in range(100):
        limiter.take(f"192.0.2.{number}")
    assert len(limiter._buckets) == 10
    assert limiter.take("192.0.2.99") > 0


def test_no_rate_is_no_limit():
    limiter = RateLimiter(0.0, 1)
    assert not any(limiter.take("a") for _ in range(1000))


def test_threads_share_a_bucket():
    limiter = RateLimiter(1e-9, 100)
    taken: list[bool] = []

    def work():
        taken.extend(limiter.take("a") == 0 for _ in range(100))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"port": 70000}, "--port: expected 0 to 65535, got 70000"),
        ({"port": -1}, "--port: expected at least 0, got -1"),
        ({"trusted_proxy": "nginx"}, "--trusted-proxy: expected an IP address, got 'nginx'"),
        ({"threads": 0}, "--threads: expected at least 1, got 0"),
        ({"rate": -1.0}, "--rate: expected at least 0, got -1.0"),
        ({"rate": float("nan")}, "--rate: expected at least 0, got nan"),
        ({"limits": Limits(text_words=0)}, "--limits.text-words: expected at least 1, got 0"),
    ],
)
def test_options_that_make_no_sense(change, message):
    Config().check()
    with pytest.raises(SystemExit, match=message):
        dataclasses.replace(Config(), **change).check()


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("203.0.113.9, 192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ('"192.0.2.1"', "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        *((junk, "10.0.0.1") for junk in ("", "banana", "192.0.2.1, ", "1.2.3.4:5:6", "[", "_x")),
    ],
)
def test_whom_a_trusted_proxy_names(forwarded, expected):
    assert client_address("10.0.0.1", forwarded, "10.0.0.1") == expected
    assert client_address("::ffff:10.0.0.1", forwarded, "10.0.0.1") in (
        expected,
        "::ffff:10.0.0.1",
    )
    assert client_address("10.0.0.1", forwarded, None) == "10.0.0.1"
    assert client_address("10.0.0.2", forwarded, "10.0.0.1") == "10.0.0.2"


@pytest.mark.parametrize(
    ("soft", "hard", "allowed", "raised"),
    [
        (4096, 4096, 1000, None),
        (256, 4096, 1000, 1000 + FILES),
        (256, -1, 1000, 1000 + FILES),
        (256, 512, 512 - FILES, 512),
        (50, 60, 0, 60),
        (-1, -1, 1000, None),
    ],
)
def test_connections_are_no_more_than_files_that_may_be_open(
    monkeypatch, soft, hard, allowed, raised
):
    resource = pytest.importorskip("resource")
    limits = []
    monkeypatch.setattr(resource, "RLIM_INFINITY", -1)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    assert allowed_connections(1000) == allowed
    assert limits == ([] if raised is None else [(raised, hard)])
