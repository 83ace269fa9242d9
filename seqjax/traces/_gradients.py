"""Gradients with respect to the state and the input of each step."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from seqjax import checks, sequences
from seqjax._unroll import unroll
from seqjax.cells._base import Cell, widened
from seqjax.nn._layer import Layer
from seqjax.traces._probe import cell_probe, probed, with_plain_loops
from seqjax.types import Array, PyTree, Shape

__all__ = ["cell_gradient_norms", "gradient_norms", "saliency"]

Model = TypeVar("Model", bound=nnx.Module)


def gradient_norms(loss: Callable[[Model], Array], model: Model) -> dict[str, Array]:
    """Return the norm of a loss's gradient with respect to each state, for all recurrent layers.

        norms_t = ‖∂loss/∂s_t‖

    In this formula, s_t is the whole state, such as (h_t, c_t) of an LSTM. The derivative includes
    all dependencies of the loss on s_t, including those through later steps. As for `gates`, the
    result includes `seqjax.nn.Recurrent` and its subclasses, but not cells whose steps another
    module runs, such as those of `seq2seq.Decoder`.

    Args:
      loss: a function from a model to a scalar, such as
        `lambda model: loss_of(model(xs, lengths=lengths))`. The function must run the model that it
        receives.
      model: a layer, or a module that contains layers.

    Returns:
      A dict from the path of each layer and direction to norms, float `[..., T]` (`[T, ...]` for
      time-major layers): one norm per sequence and step, zero at masked steps.

    Raises:
      TypeError: if the loss is not a floating-point scalar.
      ValueError: if no recurrent layer has run.
      RuntimeError: if a layer runs inside a transformation other than `jax.jit` or a loop.

    Example:
      >>> from seqjax import nn
      >>> layer = nn.RNN(3, 5, rngs=nnx.Rngs(0))
      >>> xs, lengths = jnp.ones([2, 7, 3]), jnp.array([7, 4])
      >>> norms = gradient_norms(lambda m: m(xs, lengths=lengths).state[0].sum(), layer)
      >>> norm = norms["layers.0.forward"]
      >>> norm.shape, bool((norm[1, 4:] == 0).all()), bool(norm[1, 0] < norm[1, 3])
      ((2, 7), True, True)
    """
    return with_plain_loops(lambda: _gradient_norms(loss, model))


def _gradient_norms(loss: Callable[[Model], Array], model: Model) -> dict[str, Array]:
    shapes: dict[str, Any] = {}

    def learn(path: str, outputs: Any, nudges: PyTree) -> None:
        shapes[path] = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), nudges)

    leads: dict[str, int] = {}

    def learned() -> Any:
        value = loss(probed(model, learn, leads=leads))
        _check_numbers("loss", value, [()])
        return value

    jax.eval_shape(learned)
    if not shapes:
        if any(isinstance(module, Layer) for _, module in nnx.iter_modules(model)):
            raise ValueError(
                "loss: expected it to run recurrent layers of its argument, got a function that "
                "runs none of them; write it as lambda model: ..."
            )
        raise ValueError(
            f"model: expected a module with recurrent layers, got {type(model).__name__}"
        )

    def nudged(nudges: Any) -> Array:
        return loss(probed(model, lambda *_: None, given=nudges))

    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    gradient = jax.grad(nudged)(zeros)
    return {path: _norms(gradient[path], leads[path]) for path in shapes}


def cell_gradient_norms(
    loss: Callable[[PyTree], Array],
    cell: Cell[Any, Any],
    params: PyTree,
    xs: PyTree,
    **options: Any,
) -> Array:
    """Return the norm of a loss's gradient with respect to each state of a cell.

        norms_t = ‖∂loss/∂s_t‖

    Args:
      loss: a function from the outputs, `[..., T, O]`, to a scalar.
      cell: the cell.
      params: the parameters of the cell.
      xs: inputs, as for `seqjax.unroll`.
      **options: options of `seqjax.unroll`, such as `lengths`; `zoneout` is not supported.

    Returns:
      The norms, float `[..., T]` (`[T, ...]` if time-major), as in `gradient_norms`.

    Raises:
      TypeError, ValueError: see `seqjax.unroll`.

    References:
      Bengio, Simard, Frasconi (1994), Learning long-term dependencies with gradient descent is
      difficult; Pascanu, Mikolov, Bengio (2013), On the difficulty of training recurrent neural
      networks.

    Example:
      >>> from seqjax.cells import Elman
      >>> from seqjax.cells.initializers import Identity
      >>> cell = Elman(1, 1, activation="identity", recurrent_init=Identity(0.5))
      >>> params, xs = cell.init(jax.random.key(0)), jnp.ones([4, 1])
      >>> cell_gradient_norms(lambda outputs: outputs[-1].sum(), cell, params, xs).tolist()
      [0.125, 0.25, 0.5, 1.0]
    """
    probe, (xs, zeros), lead, options = cell_probe("cell_gradient_norms", cell, xs, options)

    def of_nudges(nudges: PyTree) -> Array:
        return loss(unroll(probe, params, (xs, nudges), **options).outputs)

    return _norms(jax.grad(of_nudges)(zeros), lead)


def saliency(
    score: Callable[[Array], Array],
    xs: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    time_major: bool = False,
    times_input: bool = False,
) -> Array:
    """Return the first-order influence of each step's input on a chosen output.

        saliency_t = ‖∂score/∂x_t‖          or, with `times_input`,  x_t · ∂score/∂x_t

    Args:
      score: a function from inputs like xs to one number per sequence, `[...]`, such as the logit
        of a class. The score of a sequence must not depend on other sequences, so the model must
        run in evaluation mode: call `model.eval()`, or pass `deterministic=True`.
      xs: float `[..., T, I]` (`[T, ..., I]` if time-major), inputs or embeddings of tokens.
      lengths: integers of the batch shape, the number of real steps. `score` must use the same
        lengths or mask.
      mask: bool `[..., T]` (`[T, ...]` if time-major), True at real steps. Pass `lengths` or
        `mask`, not both.
      time_major: whether the time axis is first.
      times_input: whether to return the product of gradient and input. The sign of the product
        tells whether the step increases or decreases the score.

    Returns:
      The saliency, float `[..., T]` (`[T, ...]` if time-major), zero in padding.

    Raises:
      TypeError: if xs or the scores are not floating-point arrays.
      ValueError: if xs has no time axis, the scores are not one number per sequence, or lengths or
        mask are not valid for `seqjax.unroll`.

    References:
      Simonyan, Vedaldi, Zisserman (2014), Deep inside convolutional networks; Shrikumar, Greenside,
      Shcherbina, Kundaje (2016), Not just a black box (the product of gradient and input).

    Example:
      >>> xs = jnp.array([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
      >>> score = lambda xs: (xs[:, :, 0] * jnp.array([1.0, -2.0, 3.0])).sum(-1)
      >>> saliency(score, xs, lengths=jnp.array([2])).tolist()
      [[1.0, 2.0, 0.0]]
      >>> saliency(score, xs, times_input=True).tolist()
      [[1.0, -6.0, 15.0]]
    """
    xs = checks.require_array("xs", xs, jnp.floating, "floating-point inputs")
    if xs.ndim < 2:
        raise ValueError(f"xs: expected [..., T, I], got {xs.shape}")
    axis = 0 if time_major else xs.ndim - 2
    steps, batch_shape = xs.shape[axis], (*xs.shape[:axis], *xs.shape[axis + 1 : -1])
    real = sequences.step_mask(
        batch_shape, steps, lengths=lengths, mask=mask, time_major=time_major
    )
    xs = sequences.zero_masked(xs, mask=real)

    def total(xs: Array) -> Array:
        scores = score(xs)
        _check_numbers("score", scores, [batch_shape, ()])
        return scores.sum()

    gradient = widened(jax.grad(total)(xs))
    if times_input:
        values = (widened(xs) * gradient).sum(axis=-1)
    else:
        values = _root(jnp.square(gradient).sum(axis=-1))
    return values if real is None else jnp.where(real, values, 0)


def _norms(gradient: PyTree, lead: int) -> Array:
    """Return the norm of all arrays of a pytree together, over all axes but the leading ones."""
    squares = [
        jnp.square(leaf).reshape(*leaf.shape[:lead], math.prod(leaf.shape[lead:])).sum(axis=-1)
        for leaf in jax.tree.leaves(widened(gradient))
    ]
    return _root(sum(squares[1:], squares[0]))


def _root(squares: Array) -> Array:
    """Return the square root, with a finite derivative at zero."""
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), squares)


def _check_numbers(name: str, value: Any, shapes: list[Shape]) -> None:
    """Raise an error if a result is not a floating-point array of one of the shapes."""
    wanted = " or ".join(map(str, dict.fromkeys(shapes)))
    pair = isinstance(value, tuple)
    hint = "; of a pair such as (loss, aux) or (outputs, state), return the first" if pair else ""
    dtype = getattr(value, "dtype", None)
    if dtype is None or isinstance(value, nnx.Module) or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{name}: expected it to return floating-point numbers of shape {wanted}, got "
            f"{checks.brief(value)} ({type(value).__name__}){hint}"
        )
    if value.shape not in shapes:
        raise ValueError(f"{name}: expected it to return shape {wanted}, got {value.shape}")
