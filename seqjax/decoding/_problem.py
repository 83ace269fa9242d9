"""The checked arguments of a decoder, and one step of the model on all hypotheses."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax.cells.ops import accumulator_dtype
from seqjax.decoding._calls import require_pair, require_same_state
from seqjax.decoding._constraints import Constraints, apply_constraints
from seqjax.decoding._ends import end_tokens
from seqjax.decoding._results import Alignment, Decoded, Step, check_end, gains_of
from seqjax.types import Array, PyTree

__all__ = ["Problem", "existing", "make_problem", "write"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """The checked arguments of a decoder.

    Each of B sentences has `copies` hypotheses, which are adjacent among the N = B · copies rows.

    Attributes:
      begin: int32 `[N]`, the tokens that are fed to the first step.
      state: the initial state, with leaves `[N, …]`.
      constant: for each leaf of the state, whether the step returns it unchanged.
      vocabulary: number of tokens, V.
      dtype: dtype of log-probabilities, float32 or wider.
      weights: the shape and dtype of the attention weights `[N, S]` of a step; None without
        `alignment`.
      ends: the end tokens. An output that does not exist (see `Decoded`) is filled with the first
        end token.
    """

    step: Step
    alignment: Alignment | None
    begin: Array
    state: PyTree
    constant: tuple[bool, ...]
    batch: int
    copies: int
    vocabulary: int
    dtype: Any
    weights: jax.ShapeDtypeStruct | None
    ends: tuple[int, ...]
    max_length: int
    constraints: Constraints

    def advance(
        self, t: Array, last: Array, tokens: Array, state: PyTree
    ) -> tuple[Array, Array | None, PyTree]:
        """Run one step of the model.

        Return log p(y_t) or the scores of the step, `[N, V]` (-inf for forbidden tokens), the
        attention weights and the new state.
        """
        logits, state = self.step(last, state)
        log_probs = apply_constraints(self.constraints, t, tokens, gains_of(self.step, logits))
        weights = None if self.alignment is None else jnp.asarray(self.alignment(state))
        return log_probs, weights, state

    def reorder(self, state: PyTree, parents: Array) -> PyTree:
        """Return, for each hypothesis, the state of its parent in `parents`, int32 `[B, copies]`.

        Leaves that are equal for all hypotheses of a sentence are not copied.
        """
        first = jnp.arange(self.batch, dtype=jnp.int32)[:, None] * self.copies
        rows = (first + parents).reshape(-1)
        leaves, structure = jax.tree.flatten(state)
        pairs = zip(leaves, self.constant, strict=True)
        new = [leaf if same else leaf[rows] for leaf, same in pairs]
        return jax.tree.unflatten(structure, new)

    def no_tokens(self) -> Array:
        """Return the tokens of empty outputs, int32 `[N, L]`."""
        return jnp.full((self.batch * self.copies, self.max_length), self.ends[0], jnp.int32)

    def no_alignments(self) -> Array | None:
        """Return the alignments of empty outputs, `[N, L, S]`."""
        if self.weights is None:
            return None
        rows, source = self.weights.shape
        return jnp.zeros((rows, self.max_length, source), self.weights.dtype)


def write(array: Array, t: Array, value: Array, *, axis: int) -> Array:
    """Return `array` with `value` written at step t of `axis`."""
    update = jnp.expand_dims(value, axis).astype(array.dtype)
    return jax.lax.dynamic_update_slice_in_dim(array, update, t, axis)


def existing(decoded: Decoded, end: Array, fill: int) -> Decoded:
    """Return the outputs, with their end token from `end` `[B, n]` at all positions after the last.

    An output of probability zero does not exist: its length becomes 0, and all its tokens become
    `fill`.
    """
    exists = decoded.log_probs > -jnp.inf
    lengths = jnp.where(exists, decoded.lengths, 0)
    after = jnp.where(exists, end, fill)
    position = jnp.arange(decoded.tokens.shape[-1], dtype=jnp.int32)[None, None]
    alignments = decoded.alignments
    if alignments is not None:
        alignments = jnp.where(exists[..., None, None], alignments, 0)
    return decoded._replace(
        tokens=jnp.where(position < lengths[..., None], decoded.tokens, after[..., None]),
        lengths=lengths,
        finished=decoded.finished & exists,
        alignments=alignments,
    )


def make_problem(
    step: Step,
    state: PyTree,
    *,
    begin: Any,
    end: Any,
    max_length: int,
    copies: int = 1,
    min_length: int = 0,
    no_repeat_ngram: int = 0,
    prefix: Any = None,
    prefix_lengths: Any = None,
    alignment: Alignment | None = None,
) -> Problem:
    """Check the arguments of a decoder, and repeat each sentence in `copies` rows."""
    if not callable(step):
        raise TypeError(f"step: expected a function, got {checks.brief(step)}")
    if alignment is not None and not callable(alignment):
        raise TypeError(f"alignment: expected a function of the state, got {alignment!r}")
    end_tokens(end)  # before the step is traced
    max_length = checks.require_integer("max_length", max_length)
    min_length = checks.require_integer("min_length", min_length, least=0)
    no_repeat_ngram = checks.require_integer("no_repeat_ngram", no_repeat_ngram, least=0)
    if min_length > max_length:
        raise ValueError(f"min_length: expected at most max_length={max_length}, got {min_length}")
    begin, state, batch = _sentences(begin, state)
    rows = jnp.repeat(jnp.arange(batch, dtype=jnp.int32), copies)
    if copies > 1:
        begin, state = begin[rows], jax.tree.map(lambda leaf: leaf[rows], state)
    constant, logits, weights = _traced(step, alignment, begin, state)
    vocabulary = logits.shape[1]
    ends = end_tokens(end, vocabulary)
    if len(ends) == 1:
        check_end(step, ends[0])
    prefix, prefix_lengths = _checked_prefix(prefix, prefix_lengths, batch, max_length, vocabulary)
    if prefix is not None and prefix_lengths is not None:
        prefix, prefix_lengths = prefix[rows], prefix_lengths[rows]
    return Problem(
        step=step,
        alignment=alignment,
        begin=begin,
        state=state,
        constant=constant,
        batch=batch,
        copies=copies,
        vocabulary=vocabulary,
        dtype=accumulator_dtype(logits.dtype),
        weights=weights,
        ends=ends,
        max_length=max_length,
        constraints=Constraints(ends, min_length, no_repeat_ngram, prefix, prefix_lengths),
    )


def _sentences(begin: Any, state: PyTree) -> tuple[Array, PyTree, int]:
    """Return the first tokens `[B]`, the state as arrays, and the batch size B."""
    begin = checks.require_ids("begin", begin, "a token or tokens [B]")
    if not checks.is_traced(begin) and begin.size:
        least = np.asarray(begin).min()  # `begin.min()` would be traced inside of `jax.jit`
        if least < 0:
            raise ValueError(f"begin: expected non-negative tokens, got {least}")
    try:
        state = jax.tree.map(jnp.asarray, state)
    except (TypeError, ValueError):
        raise TypeError(f"state: expected arrays, got {checks.brief(state)}") from None
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    sizes = {shape[:1] for shape in shapes} | ({begin.shape} if begin.ndim else set())
    if len(sizes) != 1 or sizes == {()} or begin.ndim > 1:
        raise ValueError(
            "state, begin: expected arrays with the same leading axis B, and a token or tokens "
            f"[B], got {checks.brief(state)} and {begin.shape}"
        )
    (batch,) = sizes.pop()
    return jnp.broadcast_to(begin.astype(jnp.int32), (batch,)), state, batch


def _traced(
    step: Step, alignment: Alignment | None, tokens: Array, state: PyTree
) -> tuple[tuple[bool, ...], jax.ShapeDtypeStruct, jax.ShapeDtypeStruct | None]:
    """Return which leaves of the state never change, and the shapes of logits and weights."""
    leaves = jax.tree.leaves(state)
    structure: Any = jax.tree.structure(state)

    def run(tokens: Array, *leaves: Array) -> tuple[Array, PyTree, Array | None]:
        result = step(tokens, jax.tree.unflatten(structure, leaves))
        require_pair("step", "logits", result)
        logits, new = jnp.asarray(result[0]), jax.tree.map(jnp.asarray, result[1])
        return logits, new, None if alignment is None else jnp.asarray(alignment(new))

    closed, (logits, new, weights) = jax.make_jaxpr(run, return_shape=True)(tokens, *leaves)
    rows = tokens.shape[0]
    _check_rows("step", "logits [N, V]", logits, rows)
    if weights is not None:
        _check_rows("alignment", "weights [N, S]", weights, rows)
    require_same_state("step", state, new)
    outputs = closed.jaxpr.outvars[1 : 1 + len(leaves)]
    constant = tuple(new is old for new, old in zip(outputs, closed.jaxpr.invars[1:], strict=True))
    return constant, logits, weights


def _check_rows(function: str, expected: str, got: jax.ShapeDtypeStruct, rows: int) -> None:
    if not jnp.issubdtype(got.dtype, jnp.floating):
        raise TypeError(
            f"{function}: expected it to return floating-point {expected}, got {got.dtype}"
        )
    if got.ndim != 2 or got.shape[0] != rows or got.shape[1] == 0:
        raise ValueError(
            f"{function}: expected it to return {expected} with N={rows}, got {got.shape}"
        )


def _checked_prefix(
    prefix: Any, lengths: Any, batch: int, max_length: int, vocabulary: int
) -> tuple[Array | None, Array | None]:
    """Return the prefix `[B, P]` and its lengths `[B]` as int32; both are None without a prefix."""
    if prefix is None:
        if lengths is not None:
            raise ValueError("prefix_lengths: expected None without a prefix, got lengths")
        return None, None
    given = prefix
    prefix = checks.require_ids("prefix", prefix, "tokens [B, P]")
    if prefix.ndim != 2 or prefix.shape[0] != batch or prefix.shape[1] > max_length:
        raise ValueError(
            f"prefix: expected [B, P] with B={batch}, P at most max_length={max_length}, "
            f"got {prefix.shape}"
        )
    steps = prefix.shape[1]
    if lengths is None:
        lengths = jnp.full(batch, steps, jnp.int32)
    lengths = checks.require_ids("prefix_lengths", lengths, "integers [B]")
    if lengths.shape != (batch,):
        raise ValueError(f"prefix_lengths: expected ({batch},), got {lengths.shape}")
    if not checks.is_traced(lengths) and batch:
        known = np.asarray(lengths)
        least, most = known.min(), known.max()
        if least < 0 or most > steps:
            raise ValueError(f"prefix_lengths: expected 0 to {steps}, got {least} to {most}")
        if not checks.is_traced(given):
            forced = np.asarray(given)[np.arange(steps) < known[:, None]]
            if forced.size and (forced.min() < 0 or forced.max() >= vocabulary):
                raise ValueError(
                    f"prefix: expected tokens from 0 to {vocabulary - 1}, "
                    f"got {forced.min()} to {forced.max()}"
                )
    return (prefix.astype(jnp.int32), lengths.astype(jnp.int32)) if steps else (None, None)
