"""The named layers, such as `LSTM`. Each layer is a `Recurrent` with a fixed kind of cell."""

from typing import Any

from seqjax import cells, checks
from seqjax.nn._options import cell_of, shows_options
from seqjax.nn._recurrent import Recurrent

__all__ = ["GRU", "GRUD", "LRU", "LSTM", "RGLRU", "RNN", "S5", "SLSTM", "SRU", "CfC"]


@shows_options(cells.Elman)
class RNN(Recurrent):
    """A simple recurrent layer, like PyTorch's `RNN` and Keras's `SimpleRNN`.

    Args:
      input_size: the number of features of an input, I.
      hidden_size: the number of features of the hidden state, H.
      options: the options of `seqjax.cells.Elman`, such as `activation="relu"`, and of `Recurrent`,
        such as `num_layers`. `rngs` is required.

    Raises:
      TypeError, ValueError: `seqjax.cells.Elman` or `Recurrent` does not accept an argument.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = RNN(3, 5, activation="relu", rngs=nnx.Rngs(0))
      >>> layer(jnp.ones([2, 7, 3])).outputs.shape
      (2, 7, 5)
    """

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        cell = cell_of(RNN, cells.Elman, (input_size, hidden_size), options)
        super().__init__(cell, **options)


@shows_options(cells.LSTM)
class LSTM(Recurrent):
    """A long short-term memory layer.

    Args:
      input_size: the number of features of an input, I.
      hidden_size: the number of features of the hidden state, H.
      proj_size: the number of features, P, to which the hidden state is projected. If `proj_size`
        is None or 0, there is no projection.
      options: the options of `seqjax.cells.LSTM`, such as `forget_bias`, and of `Recurrent`, such
        as `num_layers`. `rngs` is required.

    Raises:
      TypeError, ValueError: `seqjax.cells.LSTM` or `Recurrent` does not accept an argument.

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
        cell = cell_of(LSTM, cell_class, (input_size, hidden_size), options)
        super().__init__(cell, **options)


@shows_options(cells.GRU)
class GRU(Recurrent):
    """A gated recurrent layer.

    Args:
      input_size: the number of features of an input, I.
      hidden_size: the number of features of the hidden state, H.
      reset_after: whether the reset gate acts after the recurrent product, as in PyTorch, in cuDNN
        and by default in Keras. If `reset_after` is True, the product has its own bias. If
        `reset_after` is False, the reset gate acts before the product (Cho et al. 2014).
      options: the options of `seqjax.cells.GRU`, such as `kernel_init`, and of `Recurrent`, such as
        `num_layers`. `rngs` is required.

    Raises:
      TypeError, ValueError: `seqjax.cells.GRU` or `Recurrent` does not accept an argument.

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
        cell = cell_of(GRU, cell_class, (input_size, hidden_size), options)
        super().__init__(cell, **options)


@shows_options(cells.LRU)
class LRU(Recurrent):
    """A layer of linear recurrent units, whose states are complex.

    Args:
      input_size: the number of features of an input, I.
      hidden_size: the number of complex features of the hidden state, H.
      options: the options of `seqjax.cells.LRU`, such as `r_min`, and of `Recurrent`, such as
        `num_layers`. `rngs` is required.

    Raises:
      TypeError, ValueError: `seqjax.cells.LRU` or `Recurrent` does not accept an argument.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = LRU(3, 8, output_size=5, r_min=0.9, rngs=nnx.Rngs(0))
      >>> outputs, state = layer(jnp.ones([2, 7, 3]))
      >>> outputs.shape, state[0].shape
      ((2, 7, 5), (2, 8))
    """

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        cell = cell_of(LRU, cells.LRU, (input_size, hidden_size), options)
        super().__init__(cell, **options)


@shows_options(cells.RGLRU)
class RGLRU(Recurrent):
    """A layer of real-gated linear recurrent units.

    Args:
      input_size: the number of features of an input, I.
      hidden_size: the number of features of the hidden state, H.
      options: the options of `seqjax.cells.RGLRU`, such as `num_heads`, and of `Recurrent`, such as
        `num_layers`. `rngs` is required.

    Raises:
      TypeError, ValueError: `seqjax.cells.RGLRU` or `Recurrent` does not accept an argument.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = RGLRU(3, 6, num_heads=2, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones([2, 7, 3])).outputs.shape
      (2, 7, 6)
    """

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        cell = cell_of(RGLRU, cells.RGLRU, (input_size, hidden_size), options)
        super().__init__(cell, **options)


@shows_options(cells.SLSTM)
class SLSTM(Recurrent):
    """A layer of scalar LSTMs with exponential gates.

    Args:
      input_size: the number of features of an input, I.
      hidden_size: the number of features of the hidden state, H.
      options: the options of `seqjax.cells.SLSTM`, such as `num_heads`, and of `Recurrent`, such as
        `num_layers`. `rngs` is required.

    Raises:
      TypeError, ValueError: `seqjax.cells.SLSTM` or `Recurrent` does not accept an argument.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = SLSTM(3, 6, num_heads=2, head_norm=True, rngs=nnx.Rngs(0))
      >>> outputs, state = layer(jnp.ones([2, 7, 3]))
      >>> outputs.shape, state[0].h.shape
      ((2, 7, 6), (2, 6))
    """

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        cell = cell_of(SLSTM, cells.SLSTM, (input_size, hidden_size), options)
        super().__init__(cell, **options)


@shows_options(cells.S5)
class S5(Recurrent):
    """A state-space layer with a diagonal state matrix.

    Args:
      input_size: the number of features of an input, I.
      hidden_size: the number of complex features of the hidden state, H.
      options: the options of `seqjax.cells.S5`, such as `num_blocks`, and of `Recurrent`, such as
        `num_layers`. `rngs` is required.

    Raises:
      TypeError, ValueError: `seqjax.cells.S5` or `Recurrent` does not accept an argument.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = S5(3, 8, discretization="bilinear", rngs=nnx.Rngs(0))
      >>> outputs, state = layer(jnp.ones([2, 7, 3]))
      >>> outputs.shape, state[0].shape
      ((2, 7, 3), (2, 8))
    """

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        cell = cell_of(S5, cells.S5, (input_size, hidden_size), options)
        super().__init__(cell, **options)


@shows_options(cells.SRU)
class SRU(Recurrent):
    """A layer of simple recurrent units.

    Args:
      input_size: the number of features of an input, I.
      hidden_size: the number of features of the hidden state, H.
      options: the options of `seqjax.cells.SRU`, such as `use_peephole`, and of `Recurrent`, such
        as `num_layers`. `rngs` is required.

    Raises:
      TypeError, ValueError: `seqjax.cells.SRU` or `Recurrent` does not accept an argument.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = SRU(3, 5, num_layers=2, use_peephole=False, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones([2, 7, 3])).outputs.shape
      (2, 7, 5)
    """

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        cell = cell_of(SRU, cells.SRU, (input_size, hidden_size), options)
        super().__init__(cell, **options)


@shows_options(cells.GRUD)
class GRUD(Recurrent):
    """A layer of GRU-Ds, for missing values and steps at irregular times.

    A call needs `elapsed`, and NaN in xs means a missing value.

    Args:
      input_size: the number of features of an input, I.
      hidden_size: the number of features of the hidden state, H.
      options: the options of `seqjax.cells.GRUD`, such as `means`, and of `Recurrent`, such as
        `num_layers`. `rngs` is required.

    Raises:
      TypeError, ValueError: `seqjax.cells.GRUD` or `Recurrent` does not accept an argument.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = GRUD(3, 5, rngs=nnx.Rngs(0))
      >>> xs = jnp.ones([2, 7, 3]).at[0, 2:5, 1].set(jnp.nan)
      >>> outputs, state = layer(xs, elapsed=jnp.full([2, 7], 0.5))
      >>> outputs.shape, bool(jnp.isfinite(outputs).all())
      ((2, 7, 5), True)
    """

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        cell = cell_of(GRUD, cells.GRUD, (input_size, hidden_size), options)
        super().__init__(cell, **options)


@shows_options(cells.CfC)
class CfC(Recurrent):
    """A layer of closed-form continuous-time networks, for steps at irregular times.

    A call needs `elapsed`.

    Args:
      input_size: the number of features of an input, I.
      hidden_size: the number of features of the hidden state, H.
      mixed_memory: whether the layer also has the memory of an LSTM (`seqjax.cells.MixedCfC`).
      options: the options of `seqjax.cells.CfC`, such as `mode`, and of `Recurrent`, such as
        `num_layers`. `rngs` is required.

    Raises:
      TypeError, ValueError: `seqjax.cells.CfC` or `Recurrent` does not accept an argument.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = CfC(3, 5, mixed_memory=True, rngs=nnx.Rngs(0))
      >>> outputs, state = layer(jnp.ones([2, 7, 3]), elapsed=jnp.full([2, 7], 0.5))
      >>> outputs.shape, state[0].c.shape
      ((2, 7, 5), (2, 5))
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, mixed_memory: bool = False, **options: Any
    ) -> None:
        mixed = checks.require_bool("mixed_memory", mixed_memory)
        cell_class = cells.MixedCfC if mixed else cells.CfC
        cell = cell_of(CfC, cell_class, (input_size, hidden_size), options)
        super().__init__(cell, **options)
