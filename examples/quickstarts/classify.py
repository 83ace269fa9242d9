"""Classify sequences of different lengths: is a noisy wave a sine, a square or a sawtooth?

Copy the whole file. For your own data, replace `SHAPES` and `make_data`. The first size of the GRU
is the number of features of a step. The file needs only seqjax, flax and optax.

    python -m examples.quickstarts.classify
"""

import numpy as np
import optax
from flax import nnx

import seqjax

SHAPES = ("sine", "square", "sawtooth")
STEPS, BATCH, EPOCHS = 60, 64, 8


def make_data(rng, size):
    """Return waves [N, T, 1] padded with zeros, their lengths [N] and their classes [N]."""
    labels, lengths = rng.integers(3, size=size), rng.integers(15, STEPS + 1, size=size)
    period, shift = rng.uniform(8, 16, size=(size, 1)), rng.uniform(size=(size, 1))
    phase = (np.arange(STEPS) / period + shift) % 1
    waves = np.stack([np.sin(2 * np.pi * phase), np.sign(phase - 0.5), 2 * phase - 1])
    noisy = waves[labels, np.arange(size)] + rng.normal(scale=0.3, size=(size, STEPS))
    xs = np.where(np.arange(STEPS) < lengths[:, None], noisy, 0)
    return xs[..., None].astype(np.float32), lengths, labels


class Classifier(nnx.Module):
    """A GRU that reads a sequence, and a linear layer that predicts the class."""

    def __init__(self, rngs):
        self.recurrent = seqjax.nn.GRU(1, 32, rngs=rngs)
        self.readout = nnx.Linear(32, len(SHAPES), rngs=rngs)

    def __call__(self, xs, lengths):
        vectors = self.recurrent(xs, lengths=lengths, return_sequences=False).outputs
        return self.readout(vectors)


@nnx.jit
def train_step(model, optimizer, xs, lengths, labels):
    """Update the model by one batch and return the loss."""

    def loss_fn(model):
        return seqjax.losses.cross_entropy(model(xs, lengths), labels)

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss


def main():
    """Train, and return the accuracy on held-out sequences."""
    rng = np.random.default_rng(0)
    train, (xs, lengths, labels) = make_data(rng, 4096), make_data(rng, 1000)
    model = Classifier(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(5e-3), wrt=nnx.Param)
    predict = nnx.jit(lambda model, xs, lengths: model(xs, lengths).argmax(-1))
    for epoch in range(EPOCHS):
        for rows in rng.permutation(4096).reshape(-1, BATCH):
            loss = train_step(model, optimizer, *(array[rows] for array in train))
        accuracy = float(np.mean(predict(model, xs, lengths) == labels))
        print(f"epoch {epoch + 1}  loss {loss:.3f}  held-out accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
