"""Writes the golden files: what Keras, Haiku and Equinox compute, and the gradients.

    python -m tests.interop.generate_golden

This needs the libraries (`pip install ".[bench]"`); `tests/interop/test_peers.py`, which reads the
files, does not. A file is one case of `tests/interop/peers.py`: each of its weights by a flat name,
`input`, and `output`. All but the output have a leading axis of two: the value, and the derivative
of Σ output ⊙ d with the d that `peers.inputs` draws.
"""

from pathlib import Path

import numpy as np

from tests.interop import peers

FOLDER = Path(__file__).resolve().parent / "golden"


def main() -> None:
    """Writes all files, and says how large they are."""
    FOLDER.mkdir(exist_ok=True)
    total = 0
    for name, case in peers.GOLDEN.items():
        weights = peers.draw(name)
        outputs, gradients = peers.value_and_gradients(case.peer(), name, weights)
        values = {**weights, "input": peers.inputs(name)[0]}
        arrays = {key: np.stack([values[key], gradients[key]]) for key in values}
        path = FOLDER / f"{name}.npz"
        # The stub's named parameter `allow_pickle` claims every keyword.
        np.savez_compressed(path, output=outputs[None], **arrays)  # type: ignore[arg-type]
        total += path.stat().st_size
    print(f"{len(peers.GOLDEN)} files, {total} bytes")


if __name__ == "__main__":
    main()
