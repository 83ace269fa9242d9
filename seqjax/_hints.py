"""Error messages for arguments that other libraries have and a function of this package lacks."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from seqjax import checks

__all__ = ["ALIGNMENT_LOSSES", "LOSSES", "hints"]

P = ParamSpec("P")
R = TypeVar("R")

LOSSES = {
    "from_logits": "the scores are always logits",
    "ignore_index": "pass mask=labels != ignore_index",
    "reduction": "the result is a mean over real positions; losses have per_sequence=True",
    "sample_weight": "pass mask to leave positions out",
    "weight": "pass mask to leave positions out",
    "weights": "pass mask=weights",
}
"""The advice of losses and metrics."""

ALIGNMENT_LOSSES = {
    "blank_id": "use blank",
    "blank_index": "use blank",
    "clamp": "clip the gradients with training.optimizer(..., clip_norm=...)",
    "fused_log_softmax": "logits are unnormalised",
    "input_lengths": "use lengths",
    "label_length": "use label_lengths",
    "label_paddings": "use label_lengths, the numbers of labels",
    "log_probs": "use logits, [B, T, V]; log-probabilities are logits, too",
    "logit_length": "use lengths",
    "logit_lengths": "use lengths",
    "logit_paddings": "use mask, which is its opposite, or lengths",
    "mask_index": "use blank",
    "output_length": "use lengths",
    "reduction": "the result is a mean over the sequences; per_sequence=True returns each loss",
    "target_length": "use label_lengths",
    "target_lengths": "use label_lengths",
    "targets": "use labels",
}
"""The advice of the losses of `seqjax.ctc` and `seqjax.transducer`."""


def hints(**advice: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that explains calls with arguments that a function does not have.

    If a keyword argument is unknown, the `TypeError` gives the advice for it or, without advice,
    the most similar name that the function has. If there are too many positional arguments, the
    `TypeError` says which arguments must be named. If there are too few, it lists them.

    Args:
      advice: for names of arguments in PyTorch, Keras or Flax, the end of the error message.

    Example:
      >>> @hints(shuffle="pass seed=0 to shuffle")
      ... def batches(examples, *, seed=None):
      ...     return examples
      >>> batches([1, 2], shuffle=True)
      Traceback (most recent call last):
      TypeError: batches: got an option it does not have, 'shuffle'; pass seed=0 to shuffle
      >>> batches([1, 2], sead=0)
      Traceback (most recent call last):
      TypeError: batches: got an option it does not have, 'sead'; did you mean 'seed'?
      >>> batches([1, 2], 0)
      Traceback (most recent call last):
      TypeError: batches: expected 1 argument without a name, (examples), got 2; write seed=…
      >>> batches(seed=0)
      Traceback (most recent call last):
      TypeError: batches: expected the argument (examples), got a call without examples
    """

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except TypeError:
                _explain(function, advice, args, kwargs)
                raise

        return called

    return decorated


def _explain(
    function: Callable[..., Any], advice: dict[str, str], args: tuple[Any, ...], kwargs: Any
) -> None:
    """Raise a `TypeError` with a hint if the arguments do not fit the signature of a function."""
    known = inspect.signature(function).parameters.values()
    names = [p.name for p in known if p.kind is not inspect.Parameter.VAR_KEYWORD]
    method = names[:1] == ["self"]
    owner = type(args[0]).__name__ if method else function.__name__
    unknown = [name for name in kwargs if name not in names]
    if unknown and len(names) == len(known):
        name = unknown[0]
        hint = f"; {advice[name]}" if name in advice else checks.nearest(name, sorted(names))
        raise TypeError(f"{owner}: got an option it does not have, {name!r}{hint}") from None
    places = [p.name for p in known if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD][method:]
    named = [p.name for p in known if p.kind is inspect.Parameter.KEYWORD_ONLY]
    given = len(args) - method
    missing = [
        p.name
        for p in known
        if p.name in places[given:] and p.default is p.empty and p.name not in kwargs
    ]
    if missing:
        plural = "" if len(places) == 1 else "s"
        raise TypeError(
            f"{owner}: expected the argument{plural} ({', '.join(places)}), "
            f"got a call without {', '.join(missing)}"
        ) from None
    if given > len(places) and named:
        # PyTorch's layers take it without a name.
        named.sort(key=lambda name: name != "num_layers")
        plural = "" if len(places) == 1 else "s"
        raise TypeError(
            f"{owner}: expected {len(places)} argument{plural} without a name, "
            f"({', '.join(places)}), got {given}; write {', '.join(f'{n}=…' for n in named[:4])}"
        ) from None
