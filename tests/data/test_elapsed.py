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
        (np.array([-100, 100], np.int8), 1, [0, 200]),
        (np.array([-30_000, 30_000], np.int16), 1, [0, 60_000]),
        (np.array([-2_000_000_000, 2_000_000_000], np.int32), 1e9, [0, 4]),
        (np.array([-(2**63), 2**63 - 1]), 2.0**63, [0, 2]),
        (np.array([2**63 - 1, 2**63 + 1], np.uint64), 1, [0, 2]),
        ([2**70, 2**70 + 3], 1, [0, 3]),
        (np.array([1, 2.5], object), 0.5, [0, 3]),
        (np.array(["2023", "2024", "2025"], "datetime64[Y]"), "D", [0, 365, 366]),
        (np.array(["2024-02", "2024-03"], "datetime64[M]"), "h", [0, 29 * 24]),
        (np.array(["0001-01-01", "2024-01-01"], "datetime64[D]"), "ns", [0, 738885 * 86400e9]),
        (np.array(["1700-01-01", "2200-01-01"], "datetime64[ns]"), "D", [0, 182621]),
        (np.array([0, 3], "datetime64[500ps]"), "ns", [0, 1.5]),
        (np.array([], "datetime64"), "D", []),
    ],
)
def test_values(times, unit, wanted):
    found = data.elapsed(times, unit=unit)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(wanted, np.float32))


@pytest.mark.filterwarnings("error")
def test_dates_of_python():
    first, second = datetime.datetime(1400, 1, 1), datetime.datetime(2024, 1, 1)
    days = (second - first).days
    assert days == 227_911
    assert data.elapsed([first, second], unit="D").tolist() == [0, days]
    assert data.elapsed([first.date(), second], unit="D").tolist() == [0, days]
    last = datetime.datetime(9999, 12, 31)
    assert data.elapsed([second, last], unit="D").tolist() == [0, (last - second).days]
    zone = datetime.timezone(datetime.timedelta(hours=2))
    aware = [second.replace(tzinfo=zone), second.replace(tzinfo=datetime.UTC)]
    assert data.elapsed(aware, unit="h").tolist() == [0, 2]
    earliest = datetime.datetime.min.replace(tzinfo=zone)  # in UTC, it is before the year 1
    assert data.elapsed([earliest, aware[0]], unit="D").tolist() == [0, 738885]
    with pytest.raises(ValueError, match=r"got 2024-01-01 00:00:00.* after 9999-12-31 00:00:00"):
        data.elapsed([last, second], unit="D")
    for mixed in ([aware[1], last], [second, aware[1]], [first.date(), aware[0]]):
        with pytest.raises(ValueError, match="times: expected dates that all have a time zone, or"):
            data.elapsed(mixed, unit="h")


def test_columns_of_pandas():
    pandas = pytest.importorskip("pandas")
    for column in (pandas.Series(DATES), pandas.DatetimeIndex(DATES)):
        for dated in (column, pandas.DatetimeIndex(column).tz_localize("Europe/Berlin")):
            np.testing.assert_array_equal(data.elapsed(dated, unit="h"), [0, 24, 30])
    # The night in which the clock goes forward is one hour shorter.
    night = pandas.date_range("2024-03-30 12:00", periods=2, freq="D", tz="Europe/Berlin")
    assert data.elapsed(pandas.Series(night), unit="h").tolist() == [0, 23]
    assert data.elapsed(list(night), unit="h").tolist() == [0, 23]
    old = pandas.Series(pandas.to_datetime(["1500-01-01", "2024-01-01"]).as_unit("us"))
    assert data.elapsed(old.dt.tz_localize("UTC"), unit="D").tolist() == [0, 191387]
    stamps = [pandas.Timestamp("2024-01-01") + pandas.Timedelta(n, "ns") for n in (1, 4)]
    assert data.elapsed(stamps, unit="ns").tolist() == [0, 3]
    with pytest.raises(TypeError, match=r"times: .*, got a DataFrame; pass one of its columns"):
        data.elapsed(pandas.DataFrame({"t": [0, 5, 9]}))
    with pytest.raises(ValueError, match="times: expected no missing times, got NaT"):
        data.elapsed([pandas.Timestamp("2024-01-01"), pandas.NaT], unit="D")
    with pytest.raises(ValueError, match="times: expected no missing times, got <NA>; leave out"):
        data.elapsed(pandas.array([1, pandas.NA, 4], "Int64"))
    with pytest.raises(TypeError, match=r"times: .*, got '2024-01-01' .*pandas\.to_datetime"):
        data.elapsed(pandas.Series(["2024-01-01", "now"]), unit="D")


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
        (np.array([100, -100], np.int8), 1.0, "got -100 after 100 at step 1; sort"),
        (np.array([2**31 - 1, -(2**31)], np.int32), 1.0, "got -2147483648 after 2147483647"),
        (np.array([2**62, -(2**62) - 5]), 1.0, "got -4611686018427387909 after 461168601842738790"),
        (np.array([2**64 - 2, 5], np.uint64), 1.0, "got 5 after 18446744073709551614 at step 1"),
        (
            np.ma.array([0.0, 1, 2], mask=[False, True, False]),
            1.0,
            "times: expected no masked entries",
        ),
        (np.array(["2024-01-01", "now"], object), "D", "times: .*; convert texts with pandas"),
        ([DATES[0].item(), "now"], "D", "times: .* got 'now' .*; convert texts with pandas"),
        ([DATES[0].item(), 3], "D", "times: expected numbers or dates, got 2024-02-28 12.* and 3"),
        ([DATES[0].item(), None], "D", "times: expected no missing times, got None"),
        (np.array([1.0, np.nan], object), 1.0, "times: expected no missing times, got nan"),
        (np.array([1.0, np.inf], object), 1.0, "times: expected no missing times, got inf"),
        ([[0, 1], [0, 1, 2]], 1.0, "times: expected an array .*; call elapsed once per sequence"),
        ([-1e308, 1e308], 1.0, "times: expected gaps that float32 can hold, got inf; use a larger"),
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
