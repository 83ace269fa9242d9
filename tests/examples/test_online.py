"""The endless stream: drawn as described, and learned only by online gradients."""

import jax
import numpy as np
import pytest

pytest.importorskip("tyro")
from examples import online


def test_the_stream_asks_for_the_number_that_it_stored():
    stored = np.zeros(50, np.float32)
    step = jax.jit(lambda stored, key: online.draw(stored, key, 4))
    waits, since = [], np.zeros(50, int)
    for n in range(60):
        after, x, target, ask = map(np.asarray, step(stored, jax.random.key(n)))
        number, store, asked = x.T
        np.testing.assert_array_equal(store == 1, stored == 0)
        np.testing.assert_array_equal(asked == 1, ask)
        assert not (ask & (store == 1)).any() and (abs(number) == 1).all()
        np.testing.assert_array_equal(target[ask], stored[ask])
        np.testing.assert_array_equal(after, np.where(store == 1, number, np.where(ask, 0, stored)))
        since += 1
        waits += since[ask].tolist()
        since[ask] = 0
        stored = after
    assert 4 < np.mean(waits) < 6  # one step stores, and the question comes after 4 on average


@pytest.mark.slow
def test_only_online_gradients_learn(capsys):
    history = online.main(online.Config(steps=6_000, every=3_000, delay=5))
    by_online, by_one_step = history[-1]
    assert by_online < 0.3
    assert by_one_step > 0.7
    assert "one step" in capsys.readouterr().out


def test_mistakes():
    with pytest.raises(SystemExit, match="--delay: expected at least 1, got 0"):
        online.main(online.Config(delay=0))
