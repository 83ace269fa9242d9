"""CTC decoding: the labels of the best path, or those found by a beam search over prefixes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import checks, sequences
from seqjax._compensated import Total, add, sum_along
from seqjax._compiled import compiled
from seqjax._label_sequences import packed, ranked
from seqjax._log_space import exact, log_normalized
from seqjax.ctc._checks import checked_frames
from seqjax.ctc._prefixes import Prefixes, advance, first_prefixes
from seqjax.decoding import Step
from seqjax.decoding._fusion import Scored, Second, make_second
from seqjax.types import Array, PyTree

__all__ = ["CTCDecoded", "ctc_beam_search", "ctc_greedy"]


class CTCDecoded(NamedTuple):
    """The n best label sequences for each of B inputs of T frames; n is 1 for `ctc_greedy`.

    Attributes:
      tokens: int32 `[B, n, T]`, the labels, followed by blanks.
      lengths: int32 `[B, n]`, the number of labels.
      log_probs: float32 or wider `[B, n]`, the log-probabilities by the logits alone. If fewer than
        n label sequences were found, the remaining entries are -inf, and have no labels. If a logit
        of a real frame, or a score of `fusion` that the search reads, is NaN or +inf, they are NaN.
      scores: `[B, n]`, the values by which label sequences are ranked: log_probs and, with
        `fusion`, the score of the other model.
    """

    tokens: Array
    lengths: Array
    log_probs: Array
    scores: Array


def ctc_greedy(logits: Any, *, lengths: Any = None, mask: Any = None, blank: int = 0) -> CTCDecoded:
    """Return the labels of the most probable path, which has the most probable class at each frame.

        π_t = argmax_v p_t(v),   labels = π without repeats, then without blanks

    Args:
      logits: float `[B, T, V]`, unnormalised; one of the V classes is the blank.
      lengths: int `[B]`, 0 to T, the number of frames of each sequence.
      mask: bool `[B, T]`, True at real frames; frames on both sides of a gap are treated as
        adjacent. Pass `lengths` or `mask`, not both.
      blank: the class of the blank.

    Returns:
      `CTCDecoded` with n = 1. `log_probs` is the log-probability of the best path, a lower bound of
      the log-probability of the labels.

    Raises:
      TypeError, ValueError: see `ctc_loss`.

    References:
      Graves et al. 2006, Connectionist Temporal Classification, section 3.2 (best path decoding).

    Example:
      >>> logits = jax.nn.one_hot(jnp.array([[1, 1, 0, 1, 2, 2]]), 3) * 9
      >>> decoded = ctc_greedy(logits)
      >>> decoded.tokens.tolist(), decoded.lengths.tolist()
      ([[[1, 1, 2, 0, 0, 0]]], [[3]])
    """
    logits, real, blank = checked_frames(logits, lengths, mask, blank)
    return _best_path(logits, real, blank)


@compiled("blank")
def _best_path(logits: Array, real: Array, blank: int) -> CTCDecoded:
    path = jnp.where(real, jnp.argmax(logits, axis=2).astype(jnp.int32), blank)
    previous = sequences.previous_real(real)
    before = jnp.take_along_axis(path, jnp.maximum(previous, 0), axis=1)
    before = jnp.where(previous < 0, blank, before)
    tokens, count = packed(path, (path != blank) & (path != before), blank)
    best = jnp.where(real, log_normalized(logits).max(axis=2), 0.0)
    log_probs = sum_along(best, axis=1)
    return CTCDecoded(tokens[:, None], count[:, None], log_probs[:, None], log_probs[:, None])


def ctc_beam_search(
    logits: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    beam_width: int = 16,
    n_best: int = 1,
    blank: int = 0,
    fusion: Step | None = None,
    fusion_state: PyTree = None,
    begin: int | None = None,
    end: int | None = None,
) -> CTCDecoded:
    """Return the most probable label sequences, by a beam search over label prefixes.

    Let ℓ be a prefix with last label λ. The paths of ℓ that end in a blank have the total
    probability b(ℓ), and the other paths of ℓ have the total probability n(ℓ). A frame with class
    probabilities p changes b and n as follows:

        b'(ℓ)      = p(blank) (b(ℓ) + n(ℓ))
        n'(ℓ)      = p(λ) n(ℓ)
        n'(ℓ + c) += p(c) b(ℓ) if c = λ else p(c) (b(ℓ) + n(ℓ))

    After each frame, the `beam_width` prefixes with the highest b + n are kept. If `beam_width` is
    at least the number of all prefixes, the search is exact. Prefixes are identified by 64-bit
    hashes. The loop over frames is one `lax.scan`.

    With `fusion`, a language model takes part (shallow fusion): prefixes are compared by
    log(b + n) + Σ_i s(ℓ_i | ℓ_<i), where s are the scores of the step `fusion`. Weights and a bonus
    for the length are options of `seqjax.decoding.LogLinear`.

    Args:
      logits: float `[B, T, V]`, unnormalised; one of the V classes is the blank. A logit of -inf
        forbids a class.
      lengths: int `[B]`, 0 to T, the number of frames of each sequence.
      mask: bool `[B, T]`, True at real frames; frames on both sides of a gap are treated as
        adjacent. Pass `lengths` or `mask`, not both.
      beam_width: K, the number of prefixes that are kept after each frame.
      blank: the class of the blank.
      n_best: n, the number of label sequences to return, at most K.
      fusion: a step function over the V classes, as the decoders of `seqjax.decoding` take it: a
        language model, `decoding.NGram`, `decoding.Hotwords`, or a `decoding.LogLinear` of them.
        Outputs of a plain function are normalised by log softmax. Scores that must not be
        normalised need an attribute `gain_bound`, see `seqjax.decoding.Step`. The score of the
        blank is not used. If the step has parameters, call the search under `jax.jit`.
      fusion_state: the state of `fusion` before the first label, a pytree of arrays `[B, …]`. By
        default, it is `fusion.initial_state(B)` if `fusion` has this method.
      begin: the token that is the input of the first call of `fusion`; by default the blank.
      end: the token whose score is added at the end of each label sequence, such as the blank; if
        None, none is. `Hotwords` need it, to take back the bonus of an incomplete phrase.

    Returns:
      `CTCDecoded` with n = `n_best` different label sequences, best first. `log_probs` sum only
      over paths within the beam, so they are lower bounds of the log-probabilities of the label
      sequences.

    Raises:
      TypeError, ValueError: see `ctc_loss`; also if `n_best` is above `beam_width`, if `fusion`
        returns no scores `[N, V]` or does not have the `end`, or if one of the other arguments is
        given without `fusion`.

    References:
      Graves, Jaitly 2014, Towards End-to-End Speech Recognition with Recurrent Neural Networks,
      algorithm 1.
      Hannun et al. 2014, First-Pass Large Vocabulary Continuous Speech Recognition using
      Bi-Directional Recurrent DNNs, algorithm 1 (also with a language model).

    Example:
      >>> p = jnp.array([[[0.6, 0.4], [0.6, 0.4]]])  # "- -" is the best path, but "1" has three
      >>> both = ctc_beam_search(jnp.log(p), n_best=2)
      >>> both.tokens.tolist(), both.lengths.tolist()
      ([[[1, 0], [0, 0]]], [[1, 0]])
      >>> [f"{p:.2f}" for p in jnp.exp(both.log_probs[0])]
      ['0.64', '0.36']
    """
    logits, real, blank = checked_frames(logits, lengths, mask, blank)
    beam_width = checks.require_integer("beam_width", beam_width)
    n_best = checks.require_integer("n_best", n_best)
    if n_best > beam_width:
        raise ValueError(f"n_best: expected at most beam_width={beam_width}, got {n_best}")
    batch, _, classes = logits.shape
    second = make_second(
        fusion, fusion_state, classes, batch, beam_width, blank=blank, begin=begin, end=end
    )  # fmt: skip
    if second is None:
        return _searched(logits, real, beam_width, n_best, blank)
    return _search(logits, real, beam_width, n_best, blank, second)


def _search(
    logits: Array,
    real: Array,
    beam_width: int,
    n_best: int,
    blank: int,
    second: Second | None = None,
) -> CTCDecoded:
    batch = logits.shape[0]
    log_probs = jnp.moveaxis(log_normalized(logits), 1, 0)

    # Log-probabilities are stored relative to that of the best prefix, which is a pair of floats.
    def frame(beam: _Beam, xs: tuple[Array, Array]) -> tuple[_Beam, tuple[Array, Array]]:
        p_t, is_real = xs
        bonus, gains = zeros, zeros[..., None]
        invalid = beam.invalid | jnp.isnan(p_t).any(axis=1)
        if beam.second is not None:
            bonus, gains = beam.second.bonus, beam.second.gains
        new, parents, labels = jax.vmap(advance, in_axes=(0, 0, None, 0, 0))(
            beam.prefixes, p_t, blank, bonus, gains
        )
        added = None
        if second is not None and beam.second is not None:
            added = second.advance(beam.second, parents, labels, labels == blank)
            invalid = invalid | second.is_invalid(added, new.total > -jnp.inf)
        best = new.total[:, 0]
        best = jnp.where(jnp.isneginf(best), 0.0, best)
        new = new._replace(blank=new.blank - best[:, None], label=new.label - best[:, None])

        def hold(new: Array, old: Array) -> Array:
            return jnp.where(is_real.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        history = hold(parents, stay), hold(labels, jnp.full_like(labels, blank))
        return jax.tree.map(hold, _Beam(new, add(beam.best, best), invalid, added), beam), history

    stay = jnp.broadcast_to(jnp.arange(beam_width, dtype=jnp.int32), (batch, beam_width))
    prefixes = first_prefixes(beam_width, blank, log_probs.dtype)
    prefixes = jax.tree.map(lambda a: jnp.broadcast_to(a, (batch, *a.shape)), prefixes)
    zeros = jnp.zeros((batch, beam_width), log_probs.dtype)
    first = None if second is None else second.start(log_probs.dtype)
    invalid = jnp.zeros(batch, bool)
    if second is not None and first is not None:
        invalid = second.is_invalid(first, prefixes.total > -jnp.inf)
    start = _Beam(prefixes, exact(zeros[:, 0]), invalid, first)
    beam, (parents, labels) = lax.scan(frame, start, (log_probs, real.T))

    def back(beam: Array, xs: tuple[Array, Array]) -> tuple[Array, Array]:
        before, label = (jnp.take_along_axis(a, beam, axis=1) for a in xs)
        return before, label

    last = jnp.broadcast_to(jnp.arange(n_best, dtype=jnp.int32)[None], (batch, n_best))
    bonus = zeros
    if second is not None and beam.second is not None:
        bonus = second.total(beam.second)
        _, order = lax.top_k(beam.prefixes.total + bonus, n_best)
        last = order.astype(jnp.int32)
    _, path = lax.scan(back, last, (parents, labels), reverse=True)
    path = jnp.moveaxis(path, 0, 2)  # [B, n, T]
    total, bonus = (jnp.take_along_axis(a, last, axis=1) for a in (beam.prefixes.total, bonus))
    return CTCDecoded(*ranked(path, total, beam.best, bonus, beam.invalid, blank))


_searched = compiled("beam_width", "n_best", "blank")(_search)


class _Beam(NamedTuple):
    """The prefixes of each sequence of the batch.

    Attributes:
      prefixes: the prefixes, with log-probabilities relative to that of the best prefix.
      best: the log-probability of the best prefix, as the sum of two arrays `[B]`.
      invalid: bool `[B]`, True if a score of a frame so far is not a number.
      second: the scores and the state of the other model; None without one.
    """

    prefixes: Prefixes
    best: Total
    invalid: Array
    second: Scored | None
