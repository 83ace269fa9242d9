"""The table that every cross-cutting test runs over: all registered mechanisms, and their options.

A mechanism joins by standing in `seqjax.attention.ATTENTIONS`; an option worth testing on its own
is one more line.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import attention as attentions
from seqjax.attention import ATTENTIONS
from tests.attention import references
from tests.cases import draw_like

Q, M, S, T = 3, 4, 6, 3

# Padding on the right, on the left, holes, nothing real, nothing masked, one real position.
MASK = np.array(
    [
        [1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 1],
        [0, 1, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1],
        [0, 0, 1, 0, 0, 0],
    ],
    bool,
)
BATCH = MASK.shape[:1]


class Case(NamedTuple):
    """A mechanism, and the registry name under which its NumPy twin stands."""

    name: str
    attention: Any

    @property
    def query_size(self) -> int:
        """Q of the mechanism."""
        return self.attention.query_size


def _default(name: str) -> Any:
    size = M if name in ("dot", "scaled_dot") else Q
    return ATTENTIONS[name](query_size=size, memory_size=M)


CASES: dict[str, Case] = {name: Case(name, _default(name)) for name in ATTENTIONS} | {
    "additive-units": Case("additive", attentions.Additive(Q, M, units=5)),
    "additive-temperature": Case("additive", attentions.Additive(Q, M, temperature=0.3)),
    "normed_additive-temperature": Case(
        "normed_additive", attentions.NormedAdditive(Q, M, units=5, temperature=0.3)
    ),
    "dot-temperature": Case("dot", attentions.Dot(M, M, temperature=0.3)),
    "scaled_dot-temperature": Case("scaled_dot", attentions.ScaledDot(M, M, temperature=0.3)),
    "general-temperature": Case("general", attentions.General(Q, M, temperature=0.3)),
    "concat-options": Case("concat", attentions.Concat(Q, M, units=5, temperature=0.3)),
    "local_p-narrow": Case("local_p", attentions.LocalP(Q, M, window=1, units=5, temperature=0.3)),
    "local_p-2": Case("local_p", attentions.LocalP(Q, M, window=2)),
    "location_aware-options": Case(
        "location_aware",
        attentions.LocationAware(Q, M, filters=2, kernel_size=3, units=5, temperature=0.3),
    ),
    "location_aware-even": Case(
        "location_aware", attentions.LocationAware(Q, M, filters=2, kernel_size=4)
    ),
    "monotonic-temperature": Case(
        "monotonic", attentions.Monotonic(Q, M, units=5, temperature=0.3)
    ),
    "monotonic-hard": Case("monotonic", attentions.Monotonic(Q, M, mode="hard")),
    "mocha-1": Case("mocha", attentions.MoChA(Q, M, chunk_width=1)),
    "mocha-options": Case("mocha", attentions.MoChA(Q, M, chunk_width=2, units=5, temperature=0.3)),
    "mocha-wide": Case("mocha", attentions.MoChA(Q, M, chunk_width=9)),
    "mocha-hard": Case("mocha", attentions.MoChA(Q, M, chunk_width=3, mode="hard")),
    "coverage-options": Case("coverage", attentions.Coverage(Q, M, units=5, temperature=0.3)),
    "multi_head-options": Case(
        "multi_head", attentions.MultiHead(Q, M, heads=2, head_size=3, temperature=0.3)
    ),
}

REGISTERED = {name: CASES[name] for name in ATTENTIONS}


def all_cases(function: Any) -> Any:
    """Parametrises a test over every case."""
    return pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())(function)


def registered(function: Any) -> Any:
    """Parametrises a test over every registered mechanism with its defaults."""
    return pytest.mark.parametrize("case", REGISTERED.values(), ids=REGISTERED.keys())(function)


@functools.cache
def params_of(attention: Any, seed: int = 1) -> Any:
    """Random parameters; no bias is zero."""
    shapes = jax.eval_shape(attention.init, jax.random.key(0))
    return jax.tree.map(jnp.asarray, draw_like(shapes, seed, 0.7))


def inputs_of(case: Case, steps: int = T, seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Random queries `[T, B, Q]` and a random memory `[B, S, M]`."""
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=(steps, *BATCH, case.query_size))
    memory = rng.normal(size=(*MASK.shape, M))
    return queries.astype(np.float32), memory.astype(np.float32)


def with_garbage(memory: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The memory with NaN and inf at masked positions."""
    garbage = np.where(np.arange(memory.shape[-1]) % 2, np.nan, np.inf).astype(memory.dtype)
    return np.where(mask[..., None], memory, garbage)


def attend_steps(attention: Any, params: Any, queries: Any, memory: Any, mask: Any = None) -> Any:
    """Contexts, weights and states of consecutive steps, the state carried: a scan."""
    prepared = attention.precompute(params, memory, mask=mask)

    def step(state: Any, query: Any) -> Any:
        context, weights, state = attention.attend(params, query, prepared, state)
        return state, (context, weights, state)

    return jax.lax.scan(step, attention.initial_state(prepared), queries)[1]


run = jax.jit(attend_steps, static_argnums=0)


def reference(case: Case, params: Any, queries: Any, memory: Any, mask: Any) -> Any:
    """What the NumPy twin says."""
    return references.attend_steps(case.name, case.attention, params, queries, memory, mask)
