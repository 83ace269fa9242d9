"""Options of layers and blocks that are options of their cells, too."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from flax import nnx

from seqjax import checks
from seqjax._hints import hints

__all__ = ["cell_of", "shows_options"]

L = TypeVar("L", bound=type[nnx.Module])

# Options of PyTorch, Keras and Flax that do not exist here. Each has a hint for the error message.
FOREIGN = {
    "activation": "the activation is tanh, and only RNN and CfC have a choice",
    "bias": "use use_bias",
    "nonlinearity": "use activation",
    "batch_first": "use time_major, which is its opposite; batch-major is the default",
    "units": "the sizes are (input_size, hidden_size), and hidden_size is the number of units",
    "return_state": "a call always returns the state",
    "return_sequences": "pass it to the call, layer(xs, return_sequences=False)",
    "go_backwards": "use seqjax.unroll(..., reverse=True)",
    "stateful": "wrap the layer in seqjax.nn.Stateful",
    "recurrent_activation": "gates are always sigmoids",
    "recurrent_initializer": "use recurrent_init",
    "kernel_initializer": "use kernel_init",
    "bias_initializer": "use bias_init",
    "kernel_regularizer": "add the penalty to the loss, or use weight decay of the optimiser",
    "recurrent_regularizer": "add the penalty to the loss, or use weight decay of the optimiser",
    "input_shape": "the first argument is the number of features of an input",
    "unit_forget_bias": "use forget_bias=1.0, if the cell has it",
    "zero_output_for_mask": "the outputs of masked steps are always zero",
}


def cell_of(
    layer: type[nnx.Module],
    cell_class: type[Any],
    sizes: tuple[int, int],
    options: dict[str, Any],
    **fixed: Any,
) -> Any:
    """Build the cell of a layer or block, and remove the options of the cell from `options`.

    Args:
      layer: the class of the layer or block.
      cell_class: the class of the cell.
      sizes: the input size and the hidden size of the cell.
      options: the options that the user passed. The options that are left belong to the base class
        of the layer.
      **fixed: the options of the cell that the user cannot choose.

    Raises:
      TypeError: an option belongs neither to the cell nor to the base class of the layer.
        `shows_options` adds a hint to the message.
    """
    own = {field.name for field in dataclasses.fields(cell_class)}
    checks.require_options(layer.__name__, options, layer.__init__)
    chosen = {name: options.pop(name) for name in sorted(own & options.keys())}
    return cell_class(*sizes, **chosen, **fixed)


def shows_options(cell_class: type[Any], *fixed: str) -> Callable[[L], L]:
    """Return a decorator that completes the signature of the `__init__` of a layer or block.

    The decorator adds the options of the cell, except those in `fixed`, and the options of the base
    class, such as `Recurrent`. An option of the cell that the `__init__` names keeps the default
    that the `__init__` gives it. Calls with other options get the hints of `FOREIGN`.
    """

    def decorated(layer: L) -> L:
        classes: tuple[Any, ...] = layer, layer.__base__
        own, base = (dict(inspect.signature(c.__init__).parameters) for c in classes)
        shown = {name: p for name, p in own.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
        named = {name: p for name, p in own.items() if p.kind is p.KEYWORD_ONLY}
        for field in dataclasses.fields(cell_class)[2:]:
            if field.name in named:
                shown[field.name] = named.pop(field.name)
            elif field.name not in fixed:
                shown[field.name] = inspect.Parameter(
                    field.name, base["rngs"].kind, default=field.default, annotation=field.type
                )
        shown |= named | {name: p for name, p in base.items() if p.kind is p.KEYWORD_ONLY}
        layer.__init__.__signature__ = inspect.Signature([*shown.values()])  # type: ignore[attr-defined]
        layer.__init__ = hints(**FOREIGN)(layer.__init__)  # type: ignore[method-assign]
        return layer

    return decorated
