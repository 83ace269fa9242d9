"""Series of data frames, calendar features, windows, and evaluation from successive origins."""

from typing import Any

import jax
import numpy as np
import pandas
import pytest
from flax import nnx

import seqjax

forecasting: Any = seqjax.forecasting
read_frame = forecasting.read_frame
f32: Any = np.float32

HOURS = pandas.date_range("2024-02-28 21:00", periods=6, freq="h")


def wide():
    load = [1.0, 2.0, None, 4.0, 5.0, 6.0]
    return pandas.DataFrame(
        {"load": load, "heat": np.arange(6), "price": np.arange(6) / 10}, index=HOURS
    )


def long():
    rows = [("b", day, 10 + day, day % 2, 5.0, "north") for day in range(4)]
    rows += [("a", day, day, 0, 2.0, "south") for day in (3, 1, 2, 5)]  # no row for day 4
    names = ["shop", "day", "sold", "promotion", "area", "region"]
    frame = pandas.DataFrame(rows, columns=names)
    return frame.set_index(pandas.Timestamp("2024-01-01") + pandas.to_timedelta(frame["day"], "D"))


def test_a_wide_frame():
    table = read_frame(wide(), ["load", "heat"], known=["price"], calendar=["hour"])
    assert table.names == ("load", "heat") and table.lengths.tolist() == [6, 6]
    np.testing.assert_array_equal(table.values, f32([[1, 2, np.nan, 4, 5, 6], [0, 1, 2, 3, 4, 5]]))
    assert table.known_names == ("price", "hour_sin", "hour_cos")
    phase = 2 * np.pi * (np.arange(21, 27) % 24) / 24
    expected = np.stack([np.arange(6) / 10, np.sin(phase), np.cos(phase)], axis=-1)
    np.testing.assert_allclose(table.known, [expected, expected], atol=1e-6)
    assert (table.times(1) == HOURS).all()
    later = pandas.date_range("2024-02-29 03:00", periods=3, freq="h")
    assert (table.times(horizon=3) == later).all()
    future = pandas.DataFrame({"price": [7.0, 8.0, 9.0]}, index=later[::-1])
    ahead = table.future_known(3, future)
    assert ahead.shape == (2, 3, 3) and ahead[1, :, 0].tolist() == [9.0, 8.0, 7.0]
    np.testing.assert_allclose(ahead[0, :, 1], np.sin(2 * np.pi * np.array([3, 4, 5]) / 24))
    assert read_frame(wide(), "load").known is None
    assert read_frame(wide(), "load").future_known(2) is None


def test_a_long_frame():
    with pytest.raises(ValueError, match=r"known covariate 'promotion' .* 2024-01-05"):
        read_frame(long(), "sold", series="shop", known=["promotion"], freq="D")
    table = read_frame(
        long(), "sold", series="shop", static=["area"], categories=["region"],
        calendar=["day_of_week"], freq="D",
    )  # fmt: skip
    assert table.names == ("a", "b") and table.lengths.tolist() == [5, 4]
    np.testing.assert_array_equal(
        table.values, f32([[1, 2, 3, np.nan, 5], [10, 11, 12, 13, np.nan]])
    )
    assert table.static.tolist() == [[2.0], [5.0]] and table.static_names == ("area",)
    assert table.categories.tolist() == [[1], [0]]
    assert table.category_values == {"region": ["north", "south"]}
    assert table.category_sizes == {"region": 2}
    assert [str(table.times(n)[0].date()) for n in (0, 1)] == ["2024-01-02", "2024-01-01"]
    weekday = 2 * np.pi * np.array([[1, 2, 3, 4, 5], [0, 1, 2, 3, 0]]) / 7
    np.testing.assert_allclose(table.known[..., 0][:, :4], np.sin(weekday)[:, :4], atol=1e-6)
    assert not table.known[1, 4].any()
    ahead = table.future_known(2)  # the day after each series: Sunday the 7th, Friday the 5th
    np.testing.assert_allclose(ahead[:, 0, 0], np.sin(2 * np.pi * np.array([6, 4]) / 7), atol=1e-6)
    whole = long().loc[lambda frame: frame["shop"] == "b"]
    table = read_frame(whole, "sold", series="shop", known=["promotion"])
    rows = pandas.DataFrame(
        {"shop": ["a", "b", "b"], "promotion": [9, 1, 0]},
        index=pandas.to_datetime(["2024-01-05", "2024-01-05", "2024-01-06"]),
    )
    assert table.future_known(2, rows, series="shop")[0, :, 0].tolist() == [1.0, 0.0]


def test_the_past_of_series_of_all_lengths():
    table = read_frame(
        long(), "sold", series="shop", static=["area"], categories=["region"],
        calendar=["day_of_week"], freq="D",
    )  # fmt: skip
    past = table.past(3)
    np.testing.assert_array_equal(past["values"], f32([[3, np.nan, 5], [11, 12, 13]]))
    assert past["mask"].all() and past["values"].dtype == np.float32
    np.testing.assert_array_equal(past["known"], [table.known[0, 2:5], table.known[1, 1:4]])
    assert past["static"] is table.static and past["categories"] is table.categories
    past = table.past(6)
    assert past["mask"].tolist() == [[False] + [True] * 5, [False] * 2 + [True] * 4]
    np.testing.assert_array_equal(
        past["values"], f32([[np.nan, 1, 2, 3, np.nan, 5], [np.nan, np.nan, 10, 11, 12, 13]])
    )
    assert not past["known"][~past["mask"]].any()
    np.testing.assert_array_equal(past["known"][1, 2:], table.known[1, :4])
    assert list(read_frame(wide(), "load").past(2)) == ["values", "mask"]
    with pytest.raises(ValueError, match="steps: expected a positive"):
        table.past(0)


@pytest.mark.quick()
def test_a_series_shorter_than_the_context():
    table = read_frame(wide().iloc[3:], "load", known=["price"])
    model = forecasting.AutoregressiveForecaster(4, lags=[1, 5], known=["price"], rngs=nnx.Rngs(0))
    draws = [
        model.sample(
            **table.past(steps), key=jax.random.key(0), horizon=2, num_samples=3,
            future_known=np.ones((2, 1)),
        )
        for steps in (3, 8)
    ]  # fmt: skip
    np.testing.assert_allclose(draws[0], draws[1], rtol=1e-5)


def test_a_later_frame_has_the_codes_of_the_first():
    values = read_frame(
        long(), "sold", series="shop", categories=["region"], freq="D"
    ).category_values
    later = long().loc[lambda frame: frame["region"] == "south"]
    table = read_frame(later, "sold", series="shop", categories=values, freq="D")
    assert table.categories.tolist() == [[1]] and table.category_sizes == {"region": 2}
    with pytest.raises(ValueError, match="one of 1 known values in 'region', such as 'n', got 's"):
        read_frame(later, "sold", series="shop", categories={"region": ["n"]}, freq="D")


@pytest.mark.parametrize("unit", ["h", "D"])
def test_time_zones(unit):
    """The clock of Berlin jumps on 2024-03-31 at 2:00, so this day has no 2:30."""
    index = pandas.date_range("2024-03-30 01:30", periods=60, freq=unit, tz="Europe/Berlin")
    table = read_frame(pandas.DataFrame({"a": range(60)}, index), "a", calendar=["hour"])
    assert table.values.tolist() == [list(range(60))] and (table.times() == index).all()
    ahead = pandas.date_range(index[-1], periods=3, freq=unit)[1:]
    assert (table.times(horizon=2) == ahead).all()
    phase = 2 * np.pi * (ahead.hour + 0.5) / 24
    np.testing.assert_allclose(table.future_known(2)[0, :, 0], np.sin(phase), atol=1e-6)


def test_calendar_features():
    index = pandas.DatetimeIndex(["2024-01-01 00:00", "2024-12-31 12:30", "2023-02-15 06:45"])
    phases = {
        "minute": [0, 30 / 60, 45 / 60], "hour": [0, 12.5 / 24, 6.75 / 24],
        "day_of_week": [0, 1 / 7, 2 / 7], "day_of_month": [0, 30 / 31, 14 / 28],
        "day_of_year": [0, 365 / 366, 45 / 365], "week_of_year": [0, 0, 6 / 53],
        "month": [0, 11 / 12, 1 / 12],
    }  # fmt: skip
    frame = forecasting.calendar_features(index, list(phases))
    assert (frame.index == index).all() and (frame.dtypes == np.float32).all()
    for name, phase in phases.items():
        angle = 2 * np.pi * np.array(phase)
        np.testing.assert_allclose(frame[f"{name}_sin"], np.sin(angle), atol=1e-6, err_msg=name)
        np.testing.assert_allclose(frame[f"{name}_cos"], np.cos(angle), atol=1e-6, err_msg=name)
    local = index.tz_localize("Europe/Zurich")
    np.testing.assert_array_equal(forecasting.calendar_features(local, list(phases)), frame)


def changed(frame, **columns):
    return frame.assign(**columns)


def two_grids():
    """Two series by the hour, one at 0 minutes and one at 30 minutes past the hour."""
    index = pandas.date_range("2024-01-01", periods=8, freq="30min")
    return pandas.DataFrame({"shop": ["a", "b"] * 4, "sold": range(8)}, index)


def labelled(**columns):
    """Read a long frame with new columns."""
    options: dict[str, Any] = {"series": "shop", "freq": "D"}
    for name in ("static", "categories", "known"):
        if name in columns:
            options[name] = columns.pop(name)
    return lambda: read_frame(long().assign(**columns), "sold", **options)


MONTH_ENDS = pandas.to_datetime(["2024-01-31", "2024-02-29", "2024-04-30", "2024-05-31"])


def test_month_ends_and_odd_names():
    frame = pandas.DataFrame({"a": [1.0, 2.0, 3.0, 4.0]}, MONTH_ENDS)
    with pytest.raises(ValueError, match=r'freq="MS" or "ME" for the first or the last days'):
        read_frame(frame, "a")
    np.testing.assert_array_equal(read_frame(frame, "a", freq="ME").values, [[1, 2, np.nan, 3, 4]])
    same = long().rename_axis(index="shop")
    assert read_frame(same, "sold", series="shop", freq="D").names == ("a", "b")
    assert read_frame(wide(), np.array(["load", "heat"])).names == ("load", "heat")


WRONG = {
    "huge known": (
        lambda: read_frame(changed(wide(), price=1e39), "load", known=["price"]),
        r"frame: expected numbers in 'price', got 1e\+39, which does not fit into float32",
    ),
    "huge static": (
        labelled(area=1e39, static=["area"]),
        r"static: expected numbers in 'area', got 1e\+39, which does not fit into float32",
    ),
    "infinite static": (
        labelled(area=np.inf, static=["area"]),
        "static: expected finite numbers in 'area', got inf",
    ),
    "NA label": (
        labelled(region=pandas.NA, categories=["region"]),
        "expected one value of 'region' in",
    ),
    "None label": (
        labelled(region=None, categories=["region"]),
        "expected one value of 'region' in",
    ),
    "NA static": (labelled(area=pandas.NA, static=["area"]), "expected one value of 'area' in"),
    "timedelta": (
        lambda: read_frame(wide(), "load", freq=np.timedelta64(1, "h")),
        "freq: expected an offset",
    ),
    "freq 1": (lambda: read_frame(wide(), "load", freq=1), "freq: expected an offset .*, got 1"),
    "freq 0": (lambda: read_frame(wide(), "load", freq="0h"), "freq: expected a positive offset"),
    "freq -1": (lambda: read_frame(wide(), "load", freq="-1h"), "freq: expected a positive offset"),
    "two levels": (
        lambda: read_frame(pandas.concat({"x": wide()}, axis=1), ("x", "load")),
        "frame: expected columns with names of one level, got a MultiIndex",
    ),
    "set": (lambda: read_frame(wide(), {"load", "heat"}), "target: expected a list of columns"),
    "nested": (lambda: read_frame(wide(), [["load"]]), "target: expected the name of a column"),
    "series list": (
        lambda: read_frame(long(), "sold", series=["shop"]),
        r"series: expected the name of a column, got \['shop'\]",
    ),
    "same": (
        lambda: read_frame(long(), "sold", series="sold"),
        "series: expected another column than",
    ),
    "no labels": (
        labelled(categories={"region": None}),
        r"categories\['region'\]: expected a list of values",
    ),
    "label text": (
        labelled(categories={"region": "abc"}),
        r"categories\['region'\]: expected a list of val",
    ),
    "label twice": (
        labelled(categories={"region": ["south", "north", "south"]}),
        r"categories\['region'\]: expected each value once, got 'south' twice",
    ),
    "periods": (
        lambda: read_frame(wide().to_period("h"), "load"),
        r"got PeriodIndex; use frame.to_timestamp\(\)",
    ),
    "levels": (
        lambda: read_frame(long().set_index("shop", append=True), "sold"),
        "got MultiIndex; use frame.reset_index",
    ),
    "list": (lambda: read_frame([1], "a"), "frame: expected a pandas.DataFrame"),
    "index": (lambda: read_frame(wide().reset_index(), "load"), "expected a pandas.DatetimeIndex"),
    "column": (lambda: read_frame(wide(), "lod"), "frame: expected the columns 'lod'"),
    "twice": (lambda: read_frame(long(), "sold"), "got 2024-01-04 .* twice"),
    "gap": (lambda: read_frame(wide().iloc[[0, 1, 3, 4]], "load"), 'pass freq="h"'),
    "freq": (lambda: read_frame(wide(), "load", freq="odd"), "freq: expected an offset"),
    "off": (lambda: read_frame(wide(), "load", freq="2h"), "expected times every 2h"),
    "text": (lambda: read_frame(changed(wide(), load="x"), "load"), "expected numbers in 'load'"),
    "huge": (lambda: read_frame(changed(wide(), load=1e39), "load"), "does not fit into float32"),
    "infinite": (
        lambda: read_frame(changed(wide(), heat=[0, 1, np.inf, 3, 4, 5]), "heat"),
        "frame: expected finite numbers, or NaN .* in 'heat', got inf at 2024-02-28 23:00",
    ),
    "letters": (lambda: read_frame(wide(), "load", known="p"), "known: expected a list of columns"),
    "leak": (
        lambda: read_frame(wide(), ["load", "heat"], known=["price", "heat"]),
        "known: expected columns that are known in advance, got the target 'heat'",
    ),
    "static text": (
        lambda: read_frame(long(), "sold", series="shop", static=["region"], freq="D"),
        r"static: expected numbers in 'region', got 'south'; .* categories=\['region'\]",
    ),
    "mixed labels": (
        lambda: read_frame(
            changed(long(), region=[1] * 4 + ["x"] * 4),
            "sold",
            series="shop",
            categories=["region"],
            freq="D",
        ),
        "categories: expected labels of one type in 'region'",
    ),
    "future array": (
        lambda: read_frame(wide(), "load", known=["price"]).future_known(1, np.zeros((1, 1))),
        "future: expected a pandas.DataFrame",
    ),
    "future numbers": (
        lambda: read_frame(wide(), "load", known=["price"]).future_known(1, wide().reset_index()),
        "future: expected times as index, such as 2024-02-29 03:00:00, got",
    ),
    "future zone": (
        lambda: read_frame(wide(), "load", known=["price"]).future_known(
            1, wide().tz_localize("UTC")
        ),
        "future: expected times as index, such as 2024-02-29 03:00:00, got",
    ),
    "no name": (
        lambda: read_frame(changed(long(), shop=["b"] * 7 + [None]), "sold", series="shop"),
        "frame: expected a name of 'shop' in each row, got none at 2024-01-06",
    ),
    "two grids": (
        lambda: read_frame(two_grids(), "sold", series="shop"),
        "frame: expected times every 30min, as in all series together, got no two .* in 'a'",
    ),
    "known": (
        lambda: read_frame(wide(), "heat", known=["load"]),
        "known covariate 'load' of the series 'heat' at each of 6 steps .*, got none at "
        "2024-02-28 23:00",
    ),
    "target twice": (
        lambda: read_frame(wide(), ["heat", "heat"]),
        "target: expected each name once, got 'heat' twice",
    ),
    "calendar twice": (
        lambda: read_frame(
            wide().rename(columns={"load": "hour_sin"}),
            "heat",
            known=["hour_sin"],
            calendar=["hour"],
        ),
        "known, calendar: expected each name once, got 'hour_sin' twice",
    ),
    "calendar": (lambda: read_frame(wide(), "load", calendar=["hours"]), "did you mean 'hour'"),
    "static": (lambda: read_frame(wide(), "load", static=["heat"]), "expected none without"),
    "changes": (
        lambda: read_frame(long(), "sold", series="shop", static=["day"], freq="D"),
        "expected one value of 'day' in the series 'a'",
    ),
    "empty": (lambda: read_frame(wide().iloc[:0], "load"), "frame: expected rows"),
    "future": (
        lambda: read_frame(wide(), "load", known=["price"]).future_known(2),
        "future: .* the known covariates 'price' of the 2 steps after 2024-02-29 02:00",
    ),
    "future column": (
        lambda: read_frame(wide(), "load", known=["price"]).future_known(2, wide()[["heat"]]),
        "future: expected the columns 'price'",
    ),
    "future rows": (
        lambda: read_frame(wide(), "load", known=["price"]).future_known(2, wide()),
        "future: .* 'price' of the series 'load' at each of 2 steps from 2024-02-29 03:00",
    ),
    "features": (lambda: forecasting.calendar_features(HOURS, "hour"), "expected a list of names"),
    "no index": (lambda: forecasting.calendar_features([1], ["hour"]), "index: expected"),
    "NaT": (
        lambda: forecasting.calendar_features(pandas.DatetimeIndex([None]), ["hour"]),
        "no missing time",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_frames(name):
    call, message = WRONG[name]
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_windows_of_series_of_all_lengths():
    nan = np.nan
    values = np.array(
        [np.arange(9.0), [0, 1, 2, 3, 4, 5, nan, nan, nan], [7, 8, 9] + [nan] * 6, [5] + [nan] * 8]
    )
    known = np.stack([np.arange(9.0), np.arange(9.0) * 10], axis=-1)
    windows = forecasting.training_windows(
        values, context=4, horizon=2, stride=2, known=known, static=np.arange(4.0)[:, None],
        categories=np.arange(4)[:, None] * 2,
    )  # fmt: skip
    assert windows["series"].tolist() == [0, 0, 1, 2]
    assert windows["origin"].tolist() == [4, 6, 4, 1]
    assert windows["values"].tolist() == [
        [0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5], [0, 0, 0, 7, 8, 9]
    ]  # fmt: skip
    assert windows["mask"].sum(axis=1).tolist() == [6, 6, 6, 3]
    assert windows["known"][1].tolist() == [[t, 10 * t] for t in range(2, 8)]
    assert windows["known"][3, :, 0].tolist() == [0, 0, 0, 0, 1, 2]
    assert windows["static"].ravel().tolist() == [0, 0, 1, 2]
    assert windows["categories"].ravel().tolist() == [0, 0, 2, 4]
    with pytest.raises(ValueError, match="values: expected a series with observed values"):
        forecasting.training_windows(values[3:], context=4, horizon=2)
    with pytest.raises(ValueError, match="values: expected finite numbers"):
        forecasting.training_windows(np.full((1, 9), np.inf), context=4, horizon=2)


def test_windows_have_an_observed_value_in_their_context():
    values = np.array([[np.nan, np.nan, np.nan, 1e6, 2e6, 3e6]])
    windows = forecasting.training_windows(values, context=3, horizon=1)
    assert windows["origin"].tolist() == [4, 5]
    with pytest.raises(ValueError, match="observed values in 3 steps and in the horizon=1 steps"):
        forecasting.training_windows(values[:, :4], context=3, horizon=1)


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e39])
def test_wrong_numbers_of_covariates(number):
    values, known = np.arange(8.0)[None], np.ones((8, 2))
    known[5, 1] = number
    expected = (
        "1e\\+39, which does not fit" if number == 1e39 else f"{number} in the feature 1 of 2"
    )

    def forecast(past, key, **covariates):
        return past[:, :1]

    with pytest.raises(ValueError, match=f"known: expected .*{expected}"):
        forecasting.training_windows(values, context=3, horizon=1, known=known)
    with pytest.raises(ValueError, match=f"known: expected .*{expected}"):
        forecasting.backtest(
            forecast, values, jax.random.key(0), context=3, horizon=1, first=4, known=known
        )
    with pytest.raises(ValueError, match="static: expected"):
        forecasting.training_windows(values, context=3, horizon=1, static=[[number]])
    model = forecasting.AutoregressiveForecaster(3, known=["price", "offer"], rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="known: expected"):
        model.sample(
            values, jax.random.key(0), horizon=1, known=known, future_known=np.ones((1, 2))
        )
    if np.isnan(number):  # no window reads it
        known[5, 1], known[7, 1] = 1.0, np.nan
        values[0, 7] = np.nan
        assert forecasting.training_windows(values, context=3, horizon=1, known=known)


def test_origins():
    assert forecasting.rolling_origins(10, 2, first=8).tolist() == [8]
    assert forecasting.rolling_origins(10, 2, first=1, stride=4).tolist() == [1, 5]
    with pytest.raises(ValueError, match="first, horizon: expected a sum of at most 10"):
        forecasting.rolling_origins(10, 2, first=9)


def test_a_forecast_never_gets_a_value_that_it_predicts():
    values = np.arange(20.0).reshape(2, 10)
    seen = []

    def forecast(past, key, *, known, future_known, static):
        seen.append((past.copy(), known[..., 0].copy(), future_known[..., 0].copy()))
        past += 1000.0  # a copy
        future_known += 1000.0
        assert static.tolist() == [[0.0], [1.0]]
        static += 1000.0
        return past[:, -1:, None] * np.ones((1, 2, 3)) + jax.random.uniform(key)

    result = forecasting.backtest(
        forecast, values, jax.random.key(0), context=3, horizon=2, first=5, stride=3,
        known=np.arange(10.0)[:, None], static=np.array([[0.0], [1.0]]),
    )  # fmt: skip
    assert result.origins.tolist() == [5, 8] and result.forecasts.shape == (2, 2, 2, 3)
    assert result.targets.tolist() == [[[5, 6], [8, 9]], [[15, 16], [18, 19]]]
    assert seen[0][0].tolist() == [[2, 3, 4], [12, 13, 14]]
    assert seen[1][0].tolist() == [[5, 6, 7], [15, 16, 17]]
    assert seen[1][1].tolist() == [[5, 6, 7]] * 2 and seen[1][2].tolist() == [[8, 9]] * 2
    assert result.forecasts[0, 0, 0, 0] % 1 != result.forecasts[0, 1, 0, 0] % 1  # the keys differ
    assert int(forecasting.crps(result.forecasts, result.targets).count) == 8
    assert values.max() == 19.0


def backtested(forecast=lambda past, key: past[:, :2], **options):
    given = {"context": 3, "horizon": 2, "first": 5} | options
    return forecasting.backtest(forecast, np.zeros((1, 9)), jax.random.key(0), **given)


def test_wrong_backtests():
    sizes = iter((1, 2))
    assert backtested().forecasts.shape == (1, 2, 2)
    wrong: dict[str, Any] = {
        "context: expected at most first=5": {"context": 6},
        "first, horizon: expected a sum of at most 9": {"first": 8},
        r"forecast: expected a result \[1, 2, ...\]": {"forecast": lambda past, key: past},
        "forecast: expected a function": {"forecast": 3},
        r"known: expected \[N, T, K\]": {"known": np.zeros((8, 1))},
        "static: expected one row": {"static": np.zeros((2, 1))},
        "stride: expected a positive": {"stride": 0},
        r"results of one shape, \(1, 2, 1\) as at the origin 5, got \(1, 2, 2\)": {
            "forecast": lambda past, key: np.ones((1, 2, next(sizes)))
        },
    }
    for message, options in wrong.items():
        with pytest.raises((TypeError, ValueError), match=message):
            backtested(**options)
