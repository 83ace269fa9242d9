"""`data.elapsed`: gaps from times of many kinds, and how they travel in batches."""

import datetime
from typing import Any

import numpy as np
import pytest
from flax import nnx

from seqjax import cells, data, nn

DATES = np.array(["2024-02-28T12:00", "2024-02-29T12:00", "2024-03-01T18:00"], "datetime64[m]")


@pytest.mark.parametrize(
    ("times", "unit", "wanted"),
    [
        ([5, 7, 7, 10], 1, [0, 2, 2 - 2, 3]),
        (np.array([1, 3], np.uint8), 0.5, [0, 4]),
        (np.array([2.0, 2.5], np.float32), 1.0, [0, 0.5]),
        (np.array([[0, 1, 3], [2, 2, 6]]), 2.0, [[0, 0.5, 1], [0, 0, 2]]),
        (1.7e9 + np.array([0.0, 0.25]), 1.0, [0, 0.25]),  # float32 would say 0
        (DATES, "D", [0, 1, 1.25]),
        (DATES, "h", [0, 24, 30]),
        (DATES.astype("datetime64[ns]"), "m", [0, 1440, 1800]),
        (DATES.tolist(), "D", [0, 1, 1.25]),
        ([datetime.date(2024, 2, 28), datetime.date(2024, 3, 6)], "W", [0, 1]),
        ([], 1.0, []),
        (np.zeros((2, 0)), 1.0, [[], []]),
        ([3.0], 1.0, [0]),
    ],
)
def test_values(times, unit, wanted):
    found = data.elapsed(times, unit=unit)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(wanted, np.float32))


def test_columns_of_pandas():
    pandas = pytest.importorskip("pandas")
    for column in (pandas.Series(DATES), pandas.DatetimeIndex(DATES)):
        for dated in (column, pandas.DatetimeIndex(column).tz_localize("Europe/Berlin")):
            np.testing.assert_array_equal(data.elapsed(dated, unit="h"), [0, 24, 30])
    # The night in which the clock goes forward is one hour shorter.
    night = pandas.date_range("2024-03-30 12:00", periods=2, freq="D", tz="Europe/Berlin")
    assert data.elapsed(pandas.Series(night), unit="h").tolist() == [0, 23]


@pytest.mark.parametrize(
    ("times", "unit", "message"),
    [
        (
            [1, 3, 2],
            1.0,
            "times: expected times in increasing order, got 2 after 3 at step 2; sort",
        ),
        ([[1, 2], [4, 3]], 1.0, "got 3 after 4 at step 1"),
        (np.array([3, 1], np.uint8), 1.0, "got 1 after 3 at step 1"),
        (DATES[::-1], "h", "times: expected times in increasing order, got 2024-02-29T12:00 after"),
        ([1.0, np.nan], 1.0, "times: expected no missing times, got nan"),
        (
            np.array(["2024", "NaT"], "datetime64[s]"),
            "h",
            "times: expected no missing times, got NaT",
        ),
        (3.0, 1.0, "times: expected a time axis"),
        (["2024-01-01"], "h", "times: expected numbers or dates, got dtype <U10; convert texts"),
        ([True, False], 1.0, "times: expected numbers or dates, got dtype bool"),
        ([object()], 1.0, "times: expected numbers or dates"),
        (DATES, 1.0, 'unit: expected a unit of time for dates, such as "h", got 1.0'),
        (DATES, "M", "unit: expected one of"),
        ([1, 2], "h", "unit: expected a number for times that are numbers, got 'h'"),
        ([1, 2], 0, "unit: expected a positive number, got 0"),
        ([1, 2], None, "unit: expected a number"),
    ],
)
def test_errors(times, unit, message):
    with pytest.raises((TypeError, ValueError), match=message):
        data.elapsed(times, unit=unit)


@pytest.mark.quick()
def test_batches_and_packed_rows_carry_the_elapsed_times():
    """A row of a batch, and a packed sequence, give what the sequence gives alone."""
    rng = np.random.default_rng(0)
    times = [np.cumsum(rng.exponential(size=n)) for n in (5, 2, 4)]
    values = [rng.normal(size=(len(each), 3)).astype(np.float32) for each in times]
    values[0][1, 2] = np.nan
    fields: Any = {"values": values, "elapsed": [data.elapsed(each) for each in times]}
    layer = nn.Recurrent(cells.GRUD(3, 4), bidirectional=True, rngs=nnx.Rngs(0))
    alone = [
        np.asarray(layer(xs, elapsed=gaps).outputs)
        for xs, gaps in zip(*fields.values(), strict=True)
    ]
    [batch] = data.batches(fields, batch_size=3)
    padded = layer(batch["values"], elapsed=batch["elapsed"], lengths=batch["lengths"]).outputs
    packed = data.pack(fields, length=6)
    rows = layer(
        packed["values"], elapsed=packed["elapsed"], resets=packed["resets"], mask=packed["mask"]
    ).outputs
    for n, wanted in enumerate(alone):
        assert np.isfinite(wanted).all()
        np.testing.assert_allclose(padded[n, : len(wanted)], wanted, atol=1e-6)
        np.testing.assert_allclose(data.unpack(np.asarray(rows), packed)[n], wanted, atol=1e-6)
