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


def probability(errors, learned, gap, step):
    """Return the tail probability of one step, as Python numbers."""
    u = float(np.quantile(errors[1:learned], 0.98))
    past = [float(e) for e in errors[: step + 1 - gap]]
    above = [e - u for e in past if e > u]
    share = max(len(above), 1) / len(past)
    if errors[step] <= u:
        return 1.0
    mean = max(sum(above) / max(len(above), 1), 0.05)
    variance = max(sum(a * a for a in above) / max(len(above), 1) - mean * mean, mean * mean)
    xi = min(0.5 * (1 - mean * mean / variance), 0.49)
    x = errors[step] - u
    if xi < 1e-6:
        return share * np.exp(-x / mean)
    return share * (1 + xi * x / (mean * (1 - xi))) ** (-1 / xi)


@pytest.mark.parametrize("heavy", [True, False])
def test_a_score_is_that_of_the_past(heavy):
    rng = np.random.default_rng(0)
    errors = rng.pareto(3.0, 400) if heavy else rng.uniform(size=400)
    errors[300:320] += 2 * np.quantile(errors, 0.98)  # a stretch whose means are unusual, too
    one, recent = made_up(np.zeros(400), []), 10  # 100 steps to train, 200 to learn
    units = errors / errors[1:100].mean()
    means = np.array([units[max(0, t - 9) : t + 1].sum() / 10 for t in range(400)])
    expected = np.ones((2, 400))
    for row, (values, gap) in enumerate(((units, 1), (means, recent))):
        expected[row, 200:] = [probability(values, 200, gap, t) for t in range(200, 400)]
        found = anomaly.tail_probabilities(values, 200, gap)
        np.testing.assert_allclose(found, expected[row], rtol=1e-9)
    assert (expected[0] < expected[1]).any() and (expected[1] < expected[0]).any()
    scores = anomaly.surprises(one, errors, recent)
    np.testing.assert_allclose(scores, -np.log10(np.minimum(1, 2 * expected.min(0))), atol=1e-9)
    again = anomaly.surprises(one, np.append(errors[:351], np.full(49, 100.0)), recent)
    np.testing.assert_allclose(again[:351], scores[:351], atol=1e-9)


def test_a_tail_of_large_errors_is_that_of_their_distribution():
    """The estimated probabilities of Pareto's and of exponential errors are near the true ones."""
    rng = np.random.default_rng(0)
    for errors, tail in (
        (rng.exponential(size=50_000), lambda x: np.exp(-x)),
        (rng.pareto(5.0, 50_000), lambda x: (1 + x) ** -5.0),
    ):
        x = np.quantile(errors, 0.9995)
        found = anomaly.tail_probabilities(np.append(errors, x), len(errors), 1)[-1]
        np.testing.assert_allclose(found, tail(x), rtol=0.2)
    assert np.isfinite(anomaly.surprises(made_up(np.zeros(600), []), np.zeros(600), 10)).all()


def test_mistakes(folder, tmp_path):
    def fails(message, **options):
        with pytest.raises(SystemExit, match=message):
            anomaly.main(config(options.pop("data", folder), tmp_path / "out", **options))

    fails("--tail: expected at least 0, less than 1, got 2", tail=2.0)
    fails("--tail: expected more than 0, got 0", tail=0.0)
    fails("--cell: ", cell="none")
    fails(r"--data: expected --probation of made_up/first.csv to hold", probation=0.05)
    path = folder / "data" / NAMES[1]
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:5], rows[5].split(",")[0] + ",", *rows[6:]]))
    fails("--data: .*column 'value'.*, line 6: expected a number, got ''$")
    path.write_text("\n".join([*rows[:5], rows[5].split(",")[0] + ",many", *rows[6:]]))
    fails(r"--data: .*column 'value' .*, line 6: ambiguous, 'many' is not a number, .* fields are$")
    path.write_text("\n".join([rows[0], *(row.split(",")[0] + ",many" for row in rows[1:])]))
    fails("--data: expected numbers as values of made_up/second.csv, got text")
    path.write_text("\n".join([*rows[:5], rows[5].split(",")[0] + ",inf", *rows[6:]]))
    fails("--data: expected finite values in made_up/second.csv, got inf")
    path.write_text("\n".join([rows[0], *rows[:0:-1]]))
    fails("--data: expected rows of made_up/second.csv in order of time, got 2024-03-04T10:10:00")
    path.write_text("\n".join(rows[:650]))
    fails("--data: expected windows in the time of made_up/second.csv")
    labels = folder / "labels/combined_windows.json"
    labels.write_text("{}")
    fails("--data: expected made_up/first.csv in .*combined_windows.json, got no such key")
    labels.write_text("no json")
    fails("--data: .*combined_windows.json: expected JSON, got error: Expecting value")
    labels.write_text("[1]")
    fails(r"--data: .*combined_windows.json: expected an object .*, got \[1\]")
    for windows in (None, ["2024-03-01", "2024-03-02"], [["2024-03-01"]]):
        labels.write_text(json.dumps({NAMES[0]: windows}))
        fails("combined_windows.json, made_up/first.csv: expected a list of pairs of times")
    labels.unlink()
    fails("--data: .*combined_windows.json")


def test_hidden_files_and_a_byte_order_mark(folder):
    (folder / "data/made_up/._first.csv").write_bytes(b"\0\1")
    labels = folder / "labels/combined_windows.json"
    labels.write_bytes(b"\xef\xbb\xbf" + labels.read_bytes())
    assert [one.name for one in anomalies.load(folder, 0.3, 50)] == list(NAMES)


def test_a_name_with_dollar_signs_is_drawn(tmp_path):
    one = made_up(np.zeros(300), [])._replace(name="a $_$ b")
    figure = anomalies.plot([one], [np.zeros(300)], 5.0)
    figure.savefig(tmp_path / "detections.png")
    assert r"a \$_\$ b" in "".join(axes.get_title() + axes.get_ylabel() for axes in figure.axes)


def test_a_clock_may_be_set_back_by_an_hour(folder):
    """A series of NAB has a clock that is set back by 55 minutes."""
    path = folder / "data" / NAMES[0]
    rows = path.read_text().splitlines()
    path.write_text("\n".join(rows[:100] + rows[88:]))  # 55 minutes back
    assert [len(one.values) for one in anomalies.load(folder, 0.3, 50)] == [1012, 1000]


def test_missing_data_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps aeon"):
        anomaly.main(anomaly.Config(out=tmp_path))
