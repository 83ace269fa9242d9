"""The script with irregular times: its data, drawn and made up, and short runs."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("tyro")
from examples import irregular
from examples.shipped import irregular_series
from seqjax.data import batches

HEADER = ",".join(["id", "year", *irregular_series.LABS, "ascites,hepatomegaly,spiders,edema"])


def test_events_are_changes_and_their_times_give_back_the_bits():
    drawn = irregular_series.draw_xor(5, 400)
    lengths = set()
    fields = (drawn["values"], drawn["elapsed"], drawn["target"])
    for events, times, target in zip(*fields, strict=True):
        values, gaps = events[:, 0].astype(int), np.round(times * 32).astype(int)
        assert (gaps >= 1).all()
        changes = np.diff(values) != 0
        assert changes[:-1].all()  # the last event may repeat a value
        # An event is at the first bit of a run; earlier bits have the value of the event before.
        bits = [values[0]] * gaps[0]
        for before, value, gap in zip(values, values[1:], gaps[1:], strict=False):
            bits += [before] * (gap - 1) + [value]
        assert sum(bits) % 2 == target
        lengths.add(len(bits))
    assert lengths == set(range(2, 32))
    assert 0.4 < drawn["target"].mean() < 0.6


@pytest.fixture
def table(tmp_path):
    """Forty patients whose bilirubin grows by their own rate, with gaps in other values."""
    rng, lines = np.random.default_rng(0), [HEADER]
    for patient in range(40):
        years = np.cumsum(np.append(0.0, rng.exponential(1.0, rng.integers(0, 6))))
        for year in years:
            labs = [np.exp(0.3 * year), *rng.uniform(1, 2, 6)]
            texts = [f"{lab:.4f}" for lab in labs]
            if rng.random() < 0.4:
                texts[1] = "NA"
            signs = ["Yes" if rng.random() < 0.5 else "No" for _ in range(3)]
            signs[0] = "NA" if rng.random() < 0.2 else signs[0]
            lines.append(",".join([str(patient), f"{year:.4f}", *texts, *signs, "No edema"]))
    path = tmp_path / "pbc2.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_visits_of_a_patient_are_in_one_part_and_fields_are_shifted(table):
    patients = irregular_series.visits(table)
    found = irregular_series.pbc(table, "nan")
    kept = sum(len(years) > 1 for years, _ in patients)
    assert sum(len(part["values"]) for part in found.values()) == kept
    for part in found.values():
        for values, gaps, ahead, last, target in zip(*part.values(), strict=True):
            np.testing.assert_array_equal(last, values[:, 0])
            assert len(values) == len(gaps) == len(ahead) == len(target) and gaps[0] == 0
            np.testing.assert_array_equal(gaps[1:], ahead[:-1])
            np.testing.assert_array_equal(values[1:, 0], target[:-1])
    whole = np.concatenate(found["train"]["values"])
    assert np.isnan(whole[:, 1]).any() and np.isnan(whole[:, 7]).any()
    assert not np.isnan(whole[:, 0]).any()
    full = np.concatenate(irregular_series.pbc(table, "fill")["train"]["values"])
    assert full.shape[1] == 22 and np.isfinite(full).all()
    np.testing.assert_array_equal(full[:, 11:], ~np.isnan(whole))
    np.testing.assert_array_equal(full[:, :11][~np.isnan(whole)], whole[~np.isnan(whole)])


def with_bilirubin(table, visit, value):
    """Write another value of serBilir in one line of the table."""
    lines = table.read_text().splitlines()
    fields = lines[visit].split(",")
    fields[2] = value
    lines[visit] = ",".join(fields)
    table.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("cell", ["gru_d", "gru"])
def test_a_missing_value_is_no_target(table, cell):
    patients = irregular_series.visits(table)
    many = next(n for n, (years, _) in enumerate(patients) if len(years) >= 4)
    line = 1 + sum(len(years) for years, _ in patients[:many]) + 1  # of the second visit
    with_bilirubin(table, line, "NA")
    missing: Any = "nan" if cell == "gru_d" else "fill"
    found = irregular_series.pbc(table, missing)
    [part] = [part for part in found.values() if any(np.isnan(x).any() for x in part["target"])]
    [n] = [n for n, target in enumerate(part["target"]) if np.isnan(target).any()]
    assert np.isnan(part["target"][n]).tolist() == [True] + [False] * (len(part["target"][n]) - 1)
    assert part["last"][n][1] == part["last"][n][0] and np.isfinite(part["last"][n]).all()
    assert np.isfinite(list(irregular.baseline("pbc", part).values())).all()
    config = irregular.Config(cell=cell, hidden_size=4)
    model = irregular.Model(config, part["values"][0].shape[1], rngs=nnx.Rngs(0))
    [batch] = batches(part, batch_size=len(part["target"]), sequence_keys=tuple(part))
    loss, grads = nnx.value_and_grad(lambda m: irregular.loss_fn(m, batch, nnx.Rngs(0))[0])(model)
    predicted = np.asarray(model(batch))
    real = np.arange(predicted.shape[1]) < np.asarray(batch["lengths"])[:, None]
    errors = (predicted - batch["target"])[real & ~np.isnan(batch["target"])]
    np.testing.assert_allclose(loss, np.mean(errors**2), rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_years_and_numbers_of_patients(table):
    header, *rows = table.read_text().splitlines()

    def fails(message, lines):
        table.write_text("\n".join([header, *lines]) + "\n")
        with pytest.raises(ValueError, match=message):
            irregular_series.pbc(table, "nan")

    later, earlier = ("99,3.0," + rows[0].split(",", 2)[2], "99,1.0," + rows[0].split(",", 2)[2])
    fails(r"column year of .*pbc2.csv, patient 99: expected times in increasing order, got 1.0",
          [*rows, later, earlier])  # fmt: skip
    fails("column year of .*pbc2.csv, patient 99: expected no missing times, got nan",
          [*rows, earlier.replace("1.0", "", 1)])  # fmt: skip
    fails("expected patients for training, validation and test, got 1 patients", [earlier, later])
    single = [f"{n}," + rows[0].split(",", 1)[1] for n in range(10)]
    fails("expected patients for train with a value of serBilir at a second or later", single)


def test_the_last_observed_value_is_repeated():
    nan = np.nan
    found = irregular_series.filled(np.array([[nan, 1.0], [2.0, nan], [nan, nan]], np.float32))
    assert found.tolist() == [[0, 1, 0, 1], [2, 1, 1, 0], [2, 1, 0, 0]]


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["gru_d", "decay_gru", "gru", "cfc"])
def test_a_short_run_on_patients(table, tmp_path, cell):
    options: Any = {"epochs": 25, "batch_size": 8, "hidden_size": 8, "learning_rate": 0.02}
    config = irregular.Config(task="pbc", cell=cell, data=table, out=tmp_path / "out", **options)
    figures = irregular.main(config)
    assert figures["test_loss"] < 0.7 * figures["baseline_loss"]


@pytest.mark.slow
def test_a_short_run_on_bits(tmp_path, monkeypatch):
    """Bits of which all changes are recorded: a mixed CfC learns to count a little in one epoch."""
    draw = irregular_series.draw_xor
    monkeypatch.setattr(irregular_series, "draw_xor", lambda seed, size: draw(seed, size // 100))
    config = irregular.Config(
        task="xor", cell="mixed_cfc", hidden_size=8, epochs=1, out=tmp_path / "out"
    )
    figures = irregular.main(config)
    assert set(figures) == {"test_loss", "test_accuracy", "baseline_accuracy"}
    assert 0.5 <= figures["baseline_accuracy"] < 0.6


def test_values_that_have_no_meaning_are_errors(table):
    header, first, *rows = table.read_text().splitlines()
    fields = first.split(",")

    def fails(message, **changed):
        line = [
            changed.get(name, text) for name, text in zip(header.split(","), fields, strict=True)
        ]
        table.write_text("\n".join([header, ",".join(line), *rows]) + "\n")
        with pytest.raises(ValueError, match=message):
            irregular_series.visits(table)

    fails(r"expected one of No, .* in column spiders of .*pbc2.csv, got 'yes'", spiders="yes")
    for value in ("0", "-1", "inf"):
        expected = r"expected positive finite numbers in column serBilir of .*pbc2.csv, got "
        fails(expected + value, serBilir=value)
    fails(r"expected finite numbers in column albumin of .*, got -inf", albumin="-inf")


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match=r"--data: .*none\.csv"):
        irregular.main(
            irregular.Config(task="pbc", data=tmp_path / "none.csv", out=tmp_path / "out")
        )
