"""The attention mechanism of a decoder, with its parameters."""

from typing import Any

from flax import nnx

from seqjax import checks
from seqjax.attention import ATTENTIONS, Attention
from seqjax.nn._parameters import Parameters

__all__ = ["Mechanism", "mechanism_of"]


class Mechanism(Parameters):
    """An attention mechanism with its parameters."""

    def __init__(self, mechanism: Attention, *, param_dtype: Any, rngs: nnx.Rngs) -> None:
        self.mechanism = mechanism
        self._names, self._structure = self._store(
            "", mechanism.init(rngs.params(), dtype=param_dtype)
        )

    @property
    def params(self) -> Any:
        return self._restored(self._names, self._structure)


def mechanism_of(
    attention: str | Attention | None, query_size: int, memory_size: int | None
) -> Attention | None:
    """Return the mechanism that `attention` specifies, and check its sizes."""
    if attention is None:
        return None
    if memory_size is None:
        raise ValueError(
            "memory_size: expected the number of features of the memory with attention, got None"
        )
    checks.require_integer("memory_size", memory_size)
    if isinstance(attention, str):
        kind = ATTENTIONS[checks.require_name("attention", attention, ATTENTIONS)]
        return kind(query_size=query_size, memory_size=memory_size)
    if not isinstance(attention, Attention):
        raise TypeError(
            f"attention: expected a name of ATTENTIONS, a mechanism or None, "
            f"got {checks.brief(attention)}"
        )
    if (attention.query_size, attention.memory_size) != (query_size, memory_size):
        raise ValueError(
            f"attention: expected query_size={query_size} and memory_size={memory_size}, "
            f"got {attention.query_size} and {attention.memory_size}"
        )
    return attention
