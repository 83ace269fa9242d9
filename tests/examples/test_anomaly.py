"""The anomaly detection script on a small made-up folder in NAB's form."""

import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from examples import anomaly
from examples.shipped import anomalies

NAMES = ("made_up/first.csv", "made_up/second.csv")


@pytest.fixture
def folder(tmp_path):
    """Two noisy sines of 1,000 steps, in each of which the level shifts at one step."""
    rng = np.random.default_rng(0)
    steps = np.arange(1000)
    times = np.datetime64("2024-03-01T00:00:00") + 5 * steps.astype("timedelta64[m]")
    labels = {}
    (tmp_path / "nab/data/made_up").mkdir(parents=True)
    (tmp_path / "nab/labels").mkdir()
    for name, shift in zip(NAMES, (500, 700), strict=True):
        values = np.sin(2 * np.pi * steps / 25) + rng.normal(0, 0.05, 1000) + 4 * (steps >= shift)
        rows = [f"{str(t).replace('T', ' ')},{v:.4f}" for t, v in zip(times, values, strict=True)]
        (tmp_path / "nab/data" / name).write_text("\n".join(["timestamp,value", *rows]) + "\n")
        ends = times[[shift - 20, shift + 40]]
        labels[name] = [[f"{str(t).replace('T', ' ')}.000000" for t in ends]]
    (tmp_path / "nab/labels/combined_windows.json").write_text(json.dumps(labels))
    return tmp_path / "nab"


def config(folder, out, **options):
    defaults: Any = {
        "probation": 0.3, "window": 50, "hidden_size": 16, "epochs": 4, "learning_rate": 0.01,
    }  # fmt: skip
    return anomaly.Config(data=folder, out=out, **(defaults | options))


@pytest.mark.slow
def test_a_short_run_finds_both_windows_and_goes_on(folder, tmp_path):
    out = tmp_path / "out"
    figures = anomaly.main(config(folder, out))
    assert figures["recall"] == 1
    assert figures["f1"] > 2 * figures["chance_f1"]
    names = {path.name for path in out.iterdir()}
    assert {"checkpoints", "detections.png", "learning_curve.png", "result.json"} <= names
    assert anomaly.main(config(folder, out, resume=True)) == figures


def made_up(values: Any, windows: Any) -> anomalies.Series:
    return anomalies.Series(
        "made up", values, values[:, None], np.reshape(windows, (-1, 2)), 100, 200
    )


def test_alarms_are_judged_by_window():
    one = made_up(np.zeros(1000), [(300, 349), (500, 549)])
    # Found once, though detected thrice; 700 to 709 are one alarm; 710 begins another.
    figures = anomalies.judge([one], [np.array([310, 320, 349, 700, 705, 709, 710])])
    assert figures == {"precision": 1 / 3, "recall": 0.5, "f1": 0.4, "false_alarms": 2}
    nothing = anomalies.judge([one], [np.array([], int)])
    assert nothing == {"precision": 0, "recall": 0, "f1": 0, "false_alarms": 0}
    everywhere = anomalies.judge([one], [np.arange(200, 1000)])
    assert everywhere["recall"] == 1 and everywhere["false_alarms"] == 70
    hit, missed = (anomalies.judge([one], [np.array([210])], [x])["recall"] for x in (0.125, 0.5))
    assert (hit, missed) == (0.5, 0)


def test_a_score_is_that_of_the_past():
    """It compares the mean of the recent errors with the means that ended before those began."""
    rng = np.random.default_rng(0)
    errors = rng.exponential(size=600)
    one, recent, step = made_up(np.zeros(600), []), 10, 450
    scores = anomaly.deviations(one, errors, recent)
    errors /= errors[1:100].mean()
    past = np.log1p(errors[100 : step + 1 - recent])
    means = np.convolve(past, np.full(recent, 1 / recent), "valid")
    now = np.log1p(errors[step + 1 - recent : step + 1]).mean()
    np.testing.assert_allclose(scores[step], (now - means.mean()) / max(means.std(), 0.05))
    assert (scores[:200] == 0).all() and (scores[200:] != 0).all()
    errors[step + 1 :] = 100
    again = anomaly.deviations(one, errors, recent)[: step + 1]
    np.testing.assert_allclose(again, scores[: step + 1], atol=1e-9)


def test_mistakes(folder, tmp_path):
    def fails(message, **options):
        with pytest.raises(SystemExit, match=message):
            anomaly.main(config(options.pop("data", folder), tmp_path / "out", **options))

    fails("--tail: expected at least 0, less than 1, got 2", tail=2.0)
    fails("--cell: ", cell="none")
    fails(r"--data: expected --probation of made_up/first.csv to hold", probation=0.05)
    path = folder / "data" / NAMES[1]
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:5], rows[5].split(",")[0] + ",", *rows[6:]]))
    fails("--data: .*column 'value'.*, line 6: expected a number, got ''")
    path.write_text("\n".join([*rows[:5], rows[5].split(",")[0] + ",many", *rows[6:]]))
    fails(r"--data: .*column 'value' .*, line 6: ambiguous, 'many' .*na_values=\['many'\]")
    path.write_text("\n".join([rows[0], *(row.split(",")[0] + ",many" for row in rows[1:])]))
    fails("--data: expected numbers as values of made_up/second.csv, got text")
    path.write_text("\n".join(rows[:650]))
    fails("--data: expected windows in the time of made_up/second.csv")
    labels = folder / "labels/combined_windows.json"
    labels.write_text("{}")
    fails("--data: expected made_up/first.csv in combined_windows.json, got no such key")
    labels.write_text("no json")
    fails("--data: Expecting value")
    labels.unlink()
    fails("--data: .*combined_windows.json")


def test_missing_data_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps aeon"):
        anomaly.main(anomaly.Config(out=tmp_path))
