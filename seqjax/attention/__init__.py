"""Attention mechanisms with a common interface, one file per family.

`ATTENTIONS` is the registry. A mechanism is a frozen configuration with pure methods:

    memory  = attention.precompute(params, encoded, mask=mask)     project the keys, once
    state   = attention.initial_state(memory)                      carried from step to step
    context, weights, state = attention.attend(params, query, memory, state)

All mechanisms apply the source mask: the weight of a masked position is exactly 0, and the values
in padding do not affect outputs or gradients.
"""

from seqjax.attention._additive import (
    Additive,
    AdditiveParams,
    NormedAdditive,
    NormedAdditiveParams,
)
from seqjax.attention._base import Attended, Attention, DenseAttention, Memory, TanhAttention
from seqjax.attention._coverage import Coverage, CoverageParams, coverage_loss
from seqjax.attention._local import LocalP, LocalPParams
from seqjax.attention._location import LocationAware, LocationAwareParams
from seqjax.attention._luong import (
    Concat,
    ConcatParams,
    Dot,
    DotParams,
    General,
    GeneralParams,
    ScaledDot,
)
from seqjax.attention._monotonic import MoChA, MoChAParams, Monotonic, MonotonicParams
from seqjax.attention._multi_head import MultiHead, MultiHeadParams

__all__ = [
    "ATTENTIONS",
    "Additive",
    "AdditiveParams",
    "Attended",
    "Attention",
    "Concat",
    "ConcatParams",
    "Coverage",
    "CoverageParams",
    "DenseAttention",
    "Dot",
    "DotParams",
    "General",
    "GeneralParams",
    "LocalP",
    "LocalPParams",
    "LocationAware",
    "LocationAwareParams",
    "Memory",
    "MoChA",
    "MoChAParams",
    "Monotonic",
    "MonotonicParams",
    "MultiHead",
    "MultiHeadParams",
    "NormedAdditive",
    "NormedAdditiveParams",
    "ScaledDot",
    "TanhAttention",
    "coverage_loss",
]

ATTENTIONS: dict[str, type[Attention]] = {
    "additive": Additive,
    "normed_additive": NormedAdditive,
    "dot": Dot,
    "scaled_dot": ScaledDot,
    "general": General,
    "concat": Concat,
    "local_p": LocalP,
    "location_aware": LocationAware,
    "monotonic": Monotonic,
    "mocha": MoChA,
    "coverage": Coverage,
    "multi_head": MultiHead,
}
"""All mechanism classes by name. Each class is called as `Cls(query_size=…, memory_size=…)`."""
