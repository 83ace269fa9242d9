"""The layers people ask for by name; each is `Recurrent` with its cell."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from seqjax import cells, checks
from seqjax.nn._recurrent import Recurrent

__all__ = ["GRU", "LSTM", "RNN"]

L = TypeVar("L", bound=type[Recurrent])

# What PyTorch, Keras and Flax call options that have other names here, or none.
FOREIGN = {
    "bias": "use_bias",
    "nonlinearity": "activation",
    "batch_first": "time_major, which is its opposite; batch-major is the default",
    "units": "hidden_size",
    "return_state": "nothing: a call always returns the state",
    "return_sequences": "return_sequences of a call, layer(xs, return_sequences=False)",
    "go_backwards": "seqjax.sequences.reverse of the inputs and of the outputs",
    "stateful": "seqjax.nn.Stateful around the layer",
    "recurrent_activation": "nothing: gates are sigmoids",
    "recurrent_initializer": "recurrent_init",
    "kernel_initializer": "kernel_init",
    "bias_initializer": "bias_init",
}


def _cell(
    layer: type[Recurrent], cell_class: type[Any], sizes: tuple[int, int], options: dict[str, Any]
) -> Any:
    """Builds a layer's cell from those of the options that are its own, taking them out of these.

    Raises:
      TypeError: an option that is neither the cell's nor `Recurrent`'s.
    """
    for name in sorted(options.keys() & FOREIGN.keys()):
        raise TypeError(
            f"{layer.__name__}: got an option it does not have, {name!r}; "
            f"here it is {FOREIGN[name]}"
        )
    checks.require_options(layer.__name__, options, layer.__init__)
    own = {field.name for field in dataclasses.fields(cell_class)} & options.keys()
    return cell_class(*sizes, **{name: options.pop(name) for name in sorted(own)})


def _shows_options(cell_class: type[Any]) -> Callable[[L], L]:
    """Put the options of a cell and of `Recurrent` into the signature of a layer's `__init__`."""

    def decorated(layer: L) -> L:
        shown, rest = (dict(inspect.signature(c.__init__).parameters) for c in (layer, Recurrent))
        del shown["options"], rest["cell"]
        for field in dataclasses.fields(cell_class)[2:]:
            shown[field.name] = inspect.Parameter(
                field.name, rest["rngs"].kind, default=field.default, annotation=field.type
            )
        layer.__init__.__signature__ = inspect.Signature([*(shown | rest).values()])  # type: ignore[attr-defined]
        return layer

    return decorated


@_shows_options(cells.Elman)
class RNN(Recurrent):
    """The simple recurrent network as a layer, PyTorch's `RNN` and Keras's `SimpleRNN`.

    Args:
      input_size: I.
      hidden_size: H.
      options: those of `seqjax.cells.Elman`, such as `activation="relu"`, and those of `Recurrent`,
        such as `num_layers`; `rngs` among them, which must be given.

    Raises:
      TypeError, ValueError: see there.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = RNN(3, 5, activation="relu", rngs=nnx.Rngs(0))
      >>> layer(jnp.ones([2, 7, 3])).outputs.shape
      (2, 7, 5)
    """

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        cell = _cell(RNN, cells.Elman, (input_size, hidden_size), options)
        super().__init__(cell, **options)


@_shows_options(cells.LSTM)
class LSTM(Recurrent):
    """Long short-term memory as a layer.

    Args:
      input_size: I.
      hidden_size: H.
      proj_size: P, to project the hidden state to P features; not projected if None or 0.
      options: those of `seqjax.cells.LSTM`, such as `forget_bias`, and those of `Recurrent`, such
        as `num_layers`; `rngs` among them, which must be given.

    Raises:
      TypeError, ValueError: see there.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = LSTM(3, 5, num_layers=2, bidirectional=True, rngs=nnx.Rngs(0))
      >>> outputs, state = layer(jnp.ones([2, 7, 3]), lengths=jnp.array([7, 4]))
      >>> outputs.shape, state[-1].forward.h.shape
      ((2, 7, 10), (2, 5))
      >>> layer(jnp.ones([2, 7, 3]), return_sequences=False).outputs.shape
      (2, 10)
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, proj_size: int | None = None, **options: Any
    ) -> None:
        cell_class = cells.ProjectedLSTM if proj_size else cells.LSTM
        if proj_size:
            options["proj_size"] = proj_size
        cell = _cell(LSTM, cell_class, (input_size, hidden_size), options)
        super().__init__(cell, **options)


@_shows_options(cells.GRU)
class GRU(Recurrent):
    """The gated recurrent unit as a layer.

    Args:
      input_size: I.
      hidden_size: H.
      reset_after: whether the reset gate acts after the recurrent product, with a bias of its own
        (PyTorch, cuDNN, Keras's default), or before it (Cho et al. 2014).
      options: those of `seqjax.cells.GRU`, such as `kernel_init`, and those of `Recurrent`, such as
        `num_layers`; `rngs` among them, which must be given.

    Raises:
      TypeError, ValueError: see there.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = GRU(3, 5, learned_initial_state=True, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones([2, 7, 3])).state[0].shape
      (2, 5)
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, reset_after: bool = True, **options: Any
    ) -> None:
        after = checks.require_bool("reset_after", reset_after)
        cell_class = cells.GRU if after else cells.ChoGRU
        cell = _cell(GRU, cell_class, (input_size, hidden_size), options)
        super().__init__(cell, **options)
