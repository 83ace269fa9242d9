"""The comparison of file sizes and error rates, on a few words and a model of random weights."""

import subprocess
import sys

import pytest
from flax import nnx

from benchmarks import quantization
from examples.serve.models import Pronouncer
from examples.shipped import pronunciations
from seqjax import seq2seq
from seqjax.data import Vocabulary
from tests.nn.helpers import drawn

WORDS = {"tea": [("T", "IY")], "team": [("T", "IY", "M")], "eat": [("IY", "T")]}


@pytest.mark.slow
def test_programs_and_graphs_of_one_model_agree(monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    letters, phonemes = Vocabulary("aemt"), Vocabulary(["IY", "M", "T"])
    model = drawn(
        lambda: seq2seq.Seq2Seq(
            source_vocabulary=len(letters), target_vocabulary=len(phonemes), embed_size=64,
            hidden_size=64, rngs=nnx.Rngs(0),
        ),
        seed=6,
    )  # fmt: skip
    model.eval()
    pronouncer = Pronouncer(model, letters, phonemes)
    for module, name, value in (
        (quantization, "BATCH", 2),
        (quantization, "PHONEMES", 5),
        (quantization, "load_pronouncer", lambda folder: pronouncer),
        (pronunciations, "load", lambda *_: (WORDS, ([], [], list(WORDS)))),
    ):
        monkeypatch.setattr(module, name, value)
    said: list[list[tuple[str, ...]]] = []
    real = pronunciations.error_rates

    def spy(found, right):
        said.append(found)
        return real(found, right)

    monkeypatch.setattr(pronunciations, "error_rates", spy)
    rows = quantization.main(["--run", "nowhere"])
    assert list(rows) == [
        "program, float32",
        "program, int8",
        "ONNX encoder, float32",
        "ONNX encoder, int8",
        "ONNX encoder, int8, reduce_range=False",
    ]
    assert rows["program, int8"].size < 0.35 * rows["program, float32"].size
    assert rows["ONNX encoder, int8"].size < 0.35 * rows["ONNX encoder, float32"].size
    assert said[0] == said[2]  # both in float32
    assert [len(found) for found in said] == [3] * 5
    assert len(set(said[0])) == 3
    assert "| program, int8 |" in capsys.readouterr().out


def test_no_web_server_is_needed():
    """The models of the server are imported without Flask and waitress."""
    hidden = "sys.modules['flask'] = sys.modules['waitress'] = None"
    code = f"import sys; {hidden}; import benchmarks.quantization"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
