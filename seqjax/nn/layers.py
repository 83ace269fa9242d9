"""The layers people ask for by name; each is `Recurrent` with its cell."""

import dataclasses
from typing import Any

from seqjax import cells, checks
from seqjax.nn.recurrent import Recurrent

__all__ = ["GRU", "LSTM", "RNN"]


def _cell(cell_class: type[Any], sizes: tuple[int, int], options: dict[str, Any]) -> Any:
    """Builds a cell from those of the options that are its own, which it takes out of them."""
    own = {field.name for field in dataclasses.fields(cell_class)} & options.keys()
    return cell_class(*sizes, **{name: options.pop(name) for name in sorted(own)})


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
        super().__init__(_cell(cells.Elman, (input_size, hidden_size), options), **options)


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
        super().__init__(_cell(cell_class, (input_size, hidden_size), options), **options)


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
        super().__init__(_cell(cell_class, (input_size, hidden_size), options), **options)
