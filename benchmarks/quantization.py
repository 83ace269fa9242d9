"""File sizes and error rates of the pronunciation model, in float32 and with int8 weights.

    python -m examples.pronounce
    python -m benchmarks.quantization --run out/pronounce

The first part exports greedy decoding as a program, with and without `quantize="int8"`. The second
part exports the encoder's LSTM as an ONNX graph, quantizes the graph by ONNX Runtime, and decodes
greedily from its outputs. Each row has the size of the file and the error rates on the test words.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from examples.serve.models import Pronouncer, load_pronouncer
from examples.shipped import pronunciations
from seqjax import decoding, export
from seqjax._machine import description
from seqjax.seq2seq import Encoded

BATCH, LETTERS, PHONEMES = 512, 40, 40  # one shape, so that each program is compiled once

Answer = Callable[[np.ndarray, np.ndarray], Any]  # from letters and lengths to tokens and lengths


class Row(NamedTuple):
    """A line of the table: bytes of the file, and shares of wrong words and phonemes."""

    size: int
    words: float
    phonemes: float


def batches(pronouncer: Pronouncer, words: Sequence[str]) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield letters `[BATCH, LETTERS]` and lengths; the last batch repeats its first word."""
    for start in range(0, len(words), BATCH):
        ids = [pronouncer.letters.encode(word)[:LETTERS] for word in words[start : start + BATCH]]
        ids += ids[:1] * (BATCH - len(ids))
        letters = np.zeros((BATCH, LETTERS), np.int32)
        for row, each in zip(letters, ids, strict=True):
            row[: len(each)] = each
        yield letters, np.array([*map(len, ids)], np.int32)


def error_rates(
    answer: Answer, pronouncer: Pronouncer, words: Sequence[str], right: Sequence[Any]
) -> tuple[float, float]:
    """Return the shares of wrong words and phonemes."""
    said: list[tuple[str, ...]] = []
    for letters, lengths in batches(pronouncer, words):
        tokens, counts = map(np.asarray, answer(letters, lengths))
        for row, count in zip(tokens, counts, strict=True):
            said.append(tuple(pronouncer.phonemes.decode(row[:count])))
    return pronunciations.error_rates(said[: len(words)], right)


def programs(pronouncer: Pronouncer, folder: Path) -> Iterator[tuple[str, int, Answer]]:
    """Yield the name, the size and the call of each exported program, read from its file."""
    for name in ("float32", "int8"):
        path = folder / f"{name}.zip"
        artifact = export.export_decoding(
            pronouncer.model, begin=pronouncer.phonemes.begin, end=pronouncer.phonemes.end,
            max_length=PHONEMES, quantize=None if name == "float32" else name,
        )  # fmt: skip
        export.save(path, artifact)
        loaded = export.load(path)

        def answer(letters: Any, lengths: Any, loaded: export.Artifact = loaded) -> Any:
            found = loaded(letters, lengths)
            return found["tokens"], found["lengths"]

        yield f"program, {name}", path.stat().st_size, answer


def graphs(pronouncer: Pronouncer, folder: Path) -> Iterator[tuple[str, int, Answer]]:
    """Yield the name, the size and the call of each ONNX graph of the encoder's LSTM."""
    from onnxruntime import InferenceSession
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = pronouncer.model
    layer = model.encoder.recurrent
    source = folder / "encoder.onnx"
    export.export_onnx(layer, source, state=False)
    structure = jax.tree.structure(layer.initial_state(()))

    @jax.jit
    def decode(model: Any, encoded: Encoded) -> Any:
        step, state = model.decoding(encoded)
        found = decoding.greedy(
            step, state, begin=pronouncer.phonemes.begin, end=pronouncer.phonemes.end,
            max_length=PHONEMES,
        )  # fmt: skip
        return found.tokens[:, 0], found.lengths[:, 0]

    embed = jax.jit(lambda embedding, letters: embedding(letters))
    kinds: dict[str, dict[str, Any] | None] = {
        "float32": None,
        "int8": {"reduce_range": True},
        "int8, reduce_range=False": {"reduce_range": False},
    }
    for name, options in kinds.items():
        path = source
        if options is not None:
            path = folder / "int8.onnx"
            quantize_dynamic(source, path, weight_type=QuantType.QInt8, per_channel=True, **options)
        session = InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

        def answer(letters: Any, lengths: Any, session: Any = session) -> Any:
            xs = np.asarray(embed(model.encoder.embedding, letters))
            outputs, *finals = session.run(None, {"xs": xs, "lengths": lengths})
            names = [output.name for output in session.get_outputs()][1:]
            by_name = dict(zip(names, finals, strict=True))
            state = jax.tree.unflatten(structure, [by_name[n] for n in _state_names(layer)])
            real = np.arange(LETTERS) < lengths[:, None]
            return decode(model, Encoded(outputs, real, state, None))

        yield f"ONNX encoder, {name}", path.stat().st_size, answer


def _state_names(layer: Any) -> list[str]:
    """Return the names of the final states in a graph, in the order of the leaves of a state."""
    paths = jax.tree_util.tree_leaves_with_path(layer.initial_state(()))
    keys = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]
    return [f"final.{key}" for key in keys]


def main(arguments: Sequence[str] | None = None) -> dict[str, Row]:
    """Measure all files and print a table; return its rows by name."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantization",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--run", type=Path, default=Path("out/pronounce"), help="folder of examples.pronounce"
    )
    parser.add_argument("--words", type=int, help="number of test words; by default all")
    options = parser.parse_args(arguments)
    pronouncer = load_pronouncer(options.run)
    dictionary, (_, _, words) = pronunciations.load(None, 0.1)
    words = words[: options.words]
    right = [dictionary[word] for word in words]
    print(f"{len(words):,} test words; {description(('onnx', 'onnxruntime'))}")
    print("| file | bytes | wrong words | wrong phonemes |\n|---|---|---|---|")
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in (programs, graphs):
            for name, size, answer in part(pronouncer, Path(folder)):
                rows[name] = Row(size, *error_rates(answer, pronouncer, words, right))
                _, wrong, phones = rows[name]
                print(f"| {name} | {size:,} | {wrong:.2%} | {phones:.2%} |", flush=True)
    return rows


if __name__ == "__main__":
    main()
