"""The queue: batches of few sizes, and rows that do not hear of their neighbours."""

import threading
import time

import pytest

pytest.importorskip("flask")
pytest.importorskip("waitress")
from examples.serve.batching import Batcher, Full


class Recorder:
    """Squares numbers, remembers its batches, waits for `gate`, and dislikes 13."""

    def __init__(self):
        self.batches, self.gate, self.begun = [], threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, shape, items):
        self.begun.set()
        assert self.gate.wait(10)
        self.batches.append((shape, list(items)))
        if 13 in items:
            raise ValueError("13")
        return [item * item for item in items]


@pytest.fixture
def run():
    return Recorder()


@pytest.fixture
def batcher(run):
    made = Batcher(run, sizes=(2, 4), wait=0.05, capacity=8)
    yield made
    run.gate.set()
    made.close()
    assert not made._thread.is_alive()


def results(*futures):
    return [result for future in futures for result in future.result(10)]


def hold(batcher, run, item=0):
    """Has the thread begin a batch that does not end before the gate opens."""
    run.gate.clear()
    run.begun.clear()
    held = batcher.submit("held", [item])
    assert run.begun.wait(10)
    return held


def test_rows_of_requests_share_a_batch_and_keep_their_results(batcher, run):
    held = hold(batcher, run)
    first, second = batcher.submit("a", [1, 2]), batcher.submit("a", [3])
    run.gate.set()
    assert results(held) == [0] and results(first) == [1, 4] and results(second) == [9]
    assert run.batches[1] == ("a", [1, 2, 3, 1])  # filled up with its first row


def test_sizes_are_the_given_ones_and_shapes_do_not_mix(batcher, run):
    held = hold(batcher, run)
    futures = [batcher.submit(shape, [item]) for shape, item in zip("abab", (1, 2, 3, 4))]  # noqa: B905
    more = batcher.submit("a", [5, 6, 7])
    run.gate.set()
    assert [results(future) for future in futures] == [[1], [4], [9], [16]]
    assert results(more) == [25, 36, 49] and results(held) == [0]
    assert run.batches[1:] == [("a", [1, 3, 5, 6]), ("b", [2, 4]), ("a", [7, 7])]


def test_a_batch_waits_for_company_but_not_when_it_is_full(run):
    batcher = Batcher(run, sizes=(4,), wait=30.0)
    start = time.monotonic()
    first = batcher.submit("a", [1, 2])
    second = batcher.submit("a", [3, 4])
    assert results(first, second) == [1, 4, 9, 16]
    assert time.monotonic() - start < 10 and run.batches == [("a", [1, 2, 3, 4])]
    alone = batcher.submit("a", [5])
    batcher.close()  # it waits no longer, and loses nothing
    assert alone.result(0) == [25] and time.monotonic() - start < 10


def test_a_full_queue_takes_all_rows_of_a_request_or_none(batcher, run):
    held = hold(batcher, run)
    taken = batcher.submit("a", range(6))
    with pytest.raises(Full):
        batcher.submit("a", range(3))
    last = batcher.submit("a", range(2))
    run.gate.set()
    assert results(held, taken, last) == [0, 0, 1, 4, 9, 16, 25, 0, 1]
    assert sum(len(items) for _, items in run.batches) == 2 + 4 + 4


def test_an_error_is_the_answer_to_its_request_alone(batcher, run):
    held = hold(batcher, run)
    good, bad, fine = (
        batcher.submit("a", [1]),
        batcher.submit("a", [13, 4]),
        batcher.submit("a", [2]),
    )
    run.gate.set()
    assert results(held, good, fine) == [0, 1, 4]
    with pytest.raises(ValueError, match="13"):
        bad.result(10)
    assert results(batcher.submit("a", [3])) == [9]  # and the thread lives


def test_a_function_with_too_few_results_is_an_error():
    batcher = Batcher(lambda shape, items: items[:1], sizes=(2,), wait=0.0)
    with pytest.raises(ValueError, match="run: expected 2 results, got 1"):
        batcher.submit("a", [1]).result(10)
    batcher.close()


def test_what_is_cancelled_does_not_run(batcher, run):
    held = hold(batcher, run)
    assert batcher.submit("a", [1, 2, 3]).cancel()
    last = batcher.submit("b", [5])
    assert held.cancel()  # while it runs
    run.gate.set()
    assert results(last) == [25]
    assert [shape for shape, _ in run.batches] == ["held", "b"]


def test_a_request_larger_than_a_batch_is_cut_into_several(batcher, run):
    assert results(batcher.submit("a", range(7))) == [n * n for n in range(7)]
    assert [len(items) for _, items in run.batches] == [4, 4]


def test_closed_takes_no_more(run):
    batcher = Batcher(run, sizes=(1,))
    batcher.close()
    with pytest.raises(Full):
        batcher.submit("a", [1])


def test_many_threads(run):
    batcher = Batcher(run, sizes=(1, 8), wait=0.001, capacity=10_000)
    wrong = []

    def work(seed):
        for number in range(100):
            item = 100 + seed * 100 + number  # never 13
            if results(batcher.submit(item % 3, [item, item + 1])) != [item**2, (item + 1) ** 2]:
                wrong.append(item)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batcher.close()
    assert not wrong and {len(items) for _, items in run.batches} <= {1, 8}
    assert len(run.batches) < 3200  # some of them were joined
