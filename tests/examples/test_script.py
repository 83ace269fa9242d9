"""What scripts share: options that make no sense, runs that cannot go on as asked."""

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

import jax
import matplotlib.figure
import numpy as np
import pytest
from flax import nnx

from examples import script
from seqjax import metrics
from seqjax._machine import processor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    warmup: int = 0
    shift: int = -1
    layers: int = 2
    dropout: float = 0.1
    width: int = 3
    data: Path = Path("here")
    shares: ClassVar[tuple[str, ...]] = ("dropout",)
    after_training: ClassVar[tuple[str, ...]] = ("width",)


def loss_fn(model, batch, rngs):
    return metrics.mean_squared_error(model(batch["x"]), batch["y"]).value(), {}


def go(config):
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(12, 3)).astype(np.float32)
    source = config.batches({"x": xs, "y": xs[:, :1]}, sequence_keys=())
    return config.fit(nnx.Linear(3, 1, rngs=nnx.Rngs(config.seed)), loss_fn, source, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": -1}, "--warmup: expected at least 0, got -1"),
        ({"layers": 0}, "--layers: expected at least 1, got 0"),
        ({"batch_size": 0}, "--batch-size: expected at least 1, got 0"),
        ({"seed": -1}, "--seed: expected at least 0, got -1"),
        ({"dropout": 1.0}, r"--dropout: expected at least 0, less than 1, got 1\.0"),
        ({"average": -0.1}, "--average: expected at least 0, less than 1"),
        ({"learning_rate": 0.0}, "--learning-rate: expected more than 0"),
        ({"devices": 99}, "--devices: count: expected 1"),
        ({"distributed": "here"}, "--distributed: where: expected INDEX/COUNT@HOST:PORT"),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        Config(out=tmp_path, **options).prepare()
    Config(out=tmp_path, shift=-5).prepare()


def test_a_run_leaves_its_traces_and_goes_on_only_as_it_was(tmp_path, monkeypatch):
    config = Config(out=tmp_path, epochs=2, batch_size=4, average=0.5)
    config.prepare()
    figures = config.report(go(config), error=0.5)
    names = {path.name for path in tmp_path.iterdir()}
    files = {"history.jsonl", "learning_curve.png", "options.json", "result.json"}
    assert names == files | {"checkpoints"}
    with pytest.raises(SystemExit, match=r"--out: .* without a run, got .* with --resume"):
        config.prepare()
    resumed = dataclasses.replace(config, resume=True)
    resumed.prepare()
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["machine"]["processor"] == processor() and record["machine"]["cores"] >= 1
    assert record["versions"]["jax"] == jax.__version__ and "optax" in record["versions"]
    # Another machine that reports the run without training says where it was trained.
    monkeypatch.setattr(script, "processor", lambda: "another")
    assert resumed.report(go(resumed), error=0.5) == figures
    assert json.loads((tmp_path / "result.json").read_text()) == record | {
        "options": record["options"] | {"resume": "True"}
    }
    changes: list[dict[str, Any]] = [
        {"learning_rate": 0.5}, {"clip_norm": 0.1}, {"batch_size": 2}, {"average": 0.9},
        {"epochs": 5}, {"seed": 1}, {"shift": 3}, {"data": tmp_path / "other"},
    ]  # fmt: skip
    for change in changes:
        [(name, value)] = change.items()
        flag = "--" + name.replace("_", "-")
        with pytest.raises(SystemExit, match=rf"^{flag}: expected .* as in .*, got {value}.*--out"):
            dataclasses.replace(resumed, **change).prepare()
    assert {path.name for path in tmp_path.iterdir()} == names
    for change in ({"width": 9}, {"devices": 1}, {"data": Path("here")}):
        dataclasses.replace(resumed, **change).prepare()


def test_files_made_from_the_data_are_those_of_the_run(tmp_path: Path) -> None:
    config = Config(out=tmp_path / "run")
    config.prepare()

    def keep(config: Config, text: str) -> None:
        config.keep("words.txt", lambda path: path.write_text(text))

    keep(config, "a b")
    keep(config, "a c")  # nothing has been trained
    go(config)
    resumed = dataclasses.replace(config, resume=True)
    resumed.prepare()
    keep(resumed, "a c")
    with pytest.raises(SystemExit, match=r"^--data: expected the data of the run in .*words\.txt"):
        keep(resumed, "a b")
    kept = sorted(path.name for path in config.out.iterdir() if "words" in path.name)
    assert kept == ["words.txt"] and (config.out / "words.txt").read_text() == "a c"


def test_the_options_of_a_run_of_an_earlier_version_are_not_known(tmp_path: Path) -> None:
    config = Config(out=tmp_path)
    config.prepare()
    go(config)
    (tmp_path / "options.json").unlink()
    dataclasses.replace(config, resume=True, shift=4).prepare()
    assert not (tmp_path / "options.json").exists()  # they are not guessed


@pytest.mark.parametrize("out", ["~/run", Path("~/run")])
def test_the_folder_of_a_run_is_a_path_of_this_machine(out: Any) -> None:
    assert script.ScriptOptions(out=out).out == Path.home() / "run"


def test_the_folder_of_a_run_may_be_text_and_is_no_url(tmp_path):
    text: Any = str(tmp_path / "run")
    options = script.ScriptOptions(out=text)
    options.prepare()
    assert options.out == tmp_path / "run" and options.out.is_dir()
    urls: list[Any] = ["gs://bucket/run", Path("gs://bucket/run")]
    for url in urls:
        with pytest.raises(ValueError, match=r"^out: expected a path on this machine"):
            script.ScriptOptions(out=url)
    wrong: Any = 3
    with pytest.raises(TypeError, match=r"^out: expected a path, got 3"):
        script.ScriptOptions(out=wrong)


@pytest.mark.parametrize("process", [0, 1])
def test_only_the_first_process_writes_figures(tmp_path, monkeypatch, process):
    config = Config(out=tmp_path)
    figure = matplotlib.figure.Figure()
    monkeypatch.setattr(jax, "process_index", lambda: process)
    config.save_figure(figure, "empty.png")
    assert [path.name for path in tmp_path.iterdir()] == ["empty.png"] * (1 - process)
