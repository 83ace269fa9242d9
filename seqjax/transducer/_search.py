"""Beam search for transducers, one frame after the other, with sums over paths."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import checks
from seqjax._compensated import Total, add
from seqjax._compiled import compiled
from seqjax._label_sequences import hashed, ranked
from seqjax._log_space import exact
from seqjax.cells.stepping import select
from seqjax.decoding._fusion import Scored, Second, make_second
from seqjax.decoding._results import Step
from seqjax.transducer._model import Joint, Model, Predict, TransducerDecoded, checked_model
from seqjax.types import Array, PyTree

__all__ = ["transducer_beam_search"]


def transducer_beam_search(
    joint: Joint,
    predict: Predict,
    encoded: Any,
    state: PyTree,
    *,
    lengths: Any = None,
    mask: Any = None,
    beam_width: int = 8,
    n_best: int = 1,
    blank: int = 0,
    max_symbols: int = 4,
    fusion: Step | None = None,
    fusion_state: PyTree = None,
    begin: int | None = None,
    end: int | None = None,
) -> TransducerDecoded:
    """Return the most probable label sequences, by a beam search over label prefixes.

    At each frame, the search first ends all prefixes with a blank, then extends the prefixes by one
    label and ends the results with a blank, and so on, up to `max_symbols` labels. If two paths
    lead to the same labels, their probabilities are added. The `beam_width` most probable prefixes
    that ended with a blank are kept. No further labels are tried at a frame when all extended
    prefixes of all sequences are less probable than the prefixes that are kept.

    If `beam_width` is at least the number of all prefixes, the search is exact, except that it
    leaves out paths with more than `max_symbols` labels at a frame. Prefixes are identified by
    64-bit hashes. The loop over frames is one `lax.scan`.

    With `fusion`, a language model takes part (shallow fusion): prefixes ℓ are compared by
    log p(ℓ) + Σ_i s(ℓ_i | ℓ_<i), where s are the scores of the step `fusion`. Weights and a bonus
    for the length are options of `seqjax.decoding.LogLinear`.

    Args:
      joint: see `transducer_greedy`.
      predict: see `transducer_greedy`; here N = B K.
      encoded: float `[B, T, E]`, the outputs of the encoder. Values in padding are ignored.
      state: the state of the prediction network before its first step, arrays `[B, …]`.
      lengths: int `[B]`, 0 to T, the number of frames of each sequence.
      mask: bool `[B, T]`, True at real frames; frames on both sides of a gap are treated as
        adjacent. Pass `lengths` or `mask`, not both.
      beam_width: K, the number of prefixes that are kept after each frame.
      n_best: n, the number of label sequences to return, at most K.
      blank: the class of the blank.
      max_symbols: S, the maximum number of labels at a frame.
      fusion: a step function over the V classes, see `seqjax.ctc.ctc_beam_search`. Outputs of a
        plain function are normalised by log softmax.
      fusion_state: the state of `fusion` before the first label, a pytree of arrays `[B, …]`. By
        default, it is `fusion.initial_state(B)` if `fusion` has this method.
      begin: the token that is the input of the first call of `fusion`; by default the blank.
      end: the token whose score is added at the end of each label sequence; if None, none is.

    Returns:
      `TransducerDecoded` with n = `n_best` different label sequences, best first.
      `log_probs` sum only over paths within the beam, so they are lower bounds of the
      log-probabilities of the label sequences.

    Raises:
      TypeError, ValueError: see `transducer_greedy`; also if `n_best` is above `beam_width`, or the
        arguments of the fusion are invalid.

    References:
      Graves 2012, Sequence Transduction with Recurrent Neural Networks, section 2.6.
      Saon, Tüske, Audhkhasi 2020, Alignment-Length Synchronous Decoding for RNN Transducer
      (time-synchronous decoding).

    Example:
      >>> predict = lambda labels, count: (1.0 * count[:, None], count + 1)
      >>> joint = lambda f, g: 9 * f * (1 - g) - 9 * g * jnp.arange(3)  # a label, then blanks
      >>> frames = jnp.eye(3)[jnp.array([[0, 2, 0, 1]])]
      >>> found = transducer_beam_search(joint, predict, frames, jnp.array([0]), n_best=2)
      >>> found.tokens[0, :, :3].tolist(), found.lengths.tolist()
      ([[2, 0, 0], [2, 1, 0]], [[1, 2]])
    """
    beam_width = checks.require_integer("beam_width", beam_width)
    n_best = checks.require_integer("n_best", n_best)
    if n_best > beam_width:
        raise ValueError(f"n_best: expected at most beam_width={beam_width}, got {n_best}")
    model, encoded, real, start = checked_model(
        joint, predict, encoded, state, lengths, mask, blank, max_symbols
    )
    batch = encoded.shape[0]
    frame_like = jax.ShapeDtypeStruct((batch, encoded.shape[2]), encoded.dtype)
    classes = jax.eval_shape(model.joint, frame_like, start[0]).shape[-1]
    second = make_second(
        fusion, fusion_state, classes, batch, beam_width, blank=model.blank, begin=begin, end=end
    )

    def frame(carry: tuple[_Prefixes, Total, Array], xs: tuple[Array, Array]) -> Any:
        prefixes, total, invalid = carry
        encoded, real = xs
        new, is_wrong = _advance(model, second, encoded, real, prefixes)
        invalid = invalid | (is_wrong & real)
        best = new.log_probs[:, 0]
        best = jnp.where(real & ~jnp.isneginf(best), best, 0.0)
        new = select(real, new, prefixes)._replace(
            parent=jnp.where(real[:, None], new.parent, _places(batch, beam_width)),
            labels=jnp.where(real[:, None, None], new.labels, model.blank),
        )
        new = new._replace(log_probs=new.log_probs - best[:, None])
        return (new, add(total, best), invalid), (new.parent, new.labels)

    # Log-probabilities are stored relative to that of the best prefix, which is a pair of floats.
    first, none = _first(
        start, width=beam_width, blank=model.blank, most=model.max_symbols, dtype=model.dtype
    )
    invalid = jnp.zeros(batch, bool)
    if second is not None:
        scored = second.start(model.dtype)
        first = first._replace(second=scored)
        invalid = second.is_invalid(scored, first.log_probs > -jnp.inf)
    frames = (jnp.moveaxis(encoded, 1, 0), real.T)
    (prefixes, best, invalid), history = lax.scan(frame, (first, none, invalid), frames)
    bonus = None
    if second is not None and prefixes.second is not None:
        bonus = second.total(prefixes.second)
    return _decoded(
        prefixes.log_probs, bonus, best, invalid, history, n_best=n_best, blank=model.blank
    )


@compiled("n_best", "blank")
def _decoded(
    log_probs: Array,
    bonus: Array | None,
    best: Total,
    invalid: Array,
    history: tuple[Array, Array],
    *,
    n_best: int,
    blank: int,
) -> TransducerDecoded:
    """Return the `n_best` best prefixes, from the parents and the labels of each frame."""
    steps, batch, _, most = history[1].shape

    def back(place: Array, xs: tuple[Array, Array]) -> tuple[Array, Array]:
        parents, labels = xs
        return jnp.take_along_axis(parents, place, axis=1), _rows(labels, place)

    places = _places(batch, n_best)
    if bonus is None:
        bonus = jnp.zeros_like(log_probs)
    else:
        places = lax.top_k(log_probs + bonus, n_best)[1].astype(jnp.int32)
    found, bonus = (jnp.take_along_axis(a, places, axis=1) for a in (log_probs, bonus))
    _, path = lax.scan(back, places, history, reverse=True)
    path = jnp.moveaxis(path, 0, 2).reshape(batch, n_best, steps * most)
    return TransducerDecoded(*ranked(path, found, best, bonus, invalid, blank))


class _Prefixes(NamedTuple):
    """K different label prefixes. An entry of probability zero is unused.

    Attributes:
      log_probs: `[B, K]`, of all paths of the prefix.
      name: uint32 `[B, K, 2]`, a hash of the prefix.
      parent: int32 `[B, K]`, the place of the prefix from which the frame led to this one.
      labels: int32 `[B, K, S]`, the labels that this frame added, followed by blanks.
      predicted: `[B, K, P]`, the output of the prediction network after the prefix.
      state: the state of the prediction network after the prefix, `[B, K, …]`.
      second: the scores and the state of the other model; None without one.
    """

    log_probs: Array
    name: Array
    parent: Array
    labels: Array
    predicted: Array
    state: PyTree
    second: Scored | None

    @property
    def rank(self) -> Array:
        """The values `[B, K]` by which prefixes are compared."""
        return self.log_probs if self.second is None else self.log_probs + self.second.bonus


@compiled("width", "blank", "most", "dtype")
def _first(
    start: tuple[Array, PyTree], *, width: int, blank: int, most: int, dtype: Any
) -> tuple[_Prefixes, Total]:
    """Return the empty prefix and K - 1 unused entries, and the log-probability 0."""
    predicted, state = jax.tree.map(
        lambda a: jnp.broadcast_to(a[:, None], (a.shape[0], width, *a.shape[1:])), start
    )
    batch = predicted.shape[0]
    first = jnp.where(_places(batch, width) == 0, 0.0, -jnp.inf).astype(dtype)
    labels = jnp.full((batch, width, most), blank, jnp.int32)
    names = jnp.zeros((batch, width, 2), jnp.uint32)
    prefixes = _Prefixes(first, names, _places(batch, width), labels, predicted, state, None)
    return prefixes, exact(jnp.zeros(batch, dtype))


def _advance(
    model: Model, second: Second | None, encoded: Array, real: Array, prefixes: _Prefixes
) -> tuple[_Prefixes, Array]:
    """Return the prefixes after a frame, best first, and where a score is not a number, `[B]`."""
    batch, width = prefixes.parent.shape

    def level(live: _Prefixes, ended: _Prefixes) -> tuple[Array, _Prefixes, Array]:
        """Return the log-probabilities of all classes, and the prefixes that ended with a blank.

        The third result is True where a score of the level is not a number, `[B]`.
        """
        used = live.log_probs > -jnp.inf
        logits = jnp.where(used[..., None], model.log_probs(encoded[:, None], live.predicted), 0.0)
        invalid = jnp.isnan(logits).any(axis=(1, 2))
        if second is not None and live.second is not None:
            invalid = invalid | second.is_invalid(live.second, used)
        log_probs = live.log_probs[..., None] + logits
        new = live._replace(log_probs=log_probs[..., model.blank])
        return log_probs, _merged(ended, new), invalid

    def grown(s: Array, live: _Prefixes, log_probs: Array, ended: _Prefixes) -> _Prefixes:
        """Return the best extensions; no network has read their labels."""
        classes = log_probs.shape[-1]
        is_blank = jnp.arange(classes, dtype=jnp.int32) == model.blank
        log_probs = jnp.where(is_blank.reshape(1, 1, -1), -jnp.inf, log_probs)
        ranked = log_probs
        if live.second is not None:
            ranked = log_probs + (live.second.bonus[..., None] + live.second.gains)
        best, index = lax.top_k(ranked.reshape(batch, width * classes), width)
        is_open = real & (best[:, 0] > ended.rank[:, -1]) & (s < model.max_symbols)
        is_open = is_open[:, None] & (best > -jnp.inf)
        best = jnp.take_along_axis(log_probs.reshape(batch, width * classes), index, axis=1)
        best = jnp.where(is_open, best, -jnp.inf)
        live = _rows(live, index // classes)
        label = (index % classes).astype(jnp.int32)
        if second is not None and live.second is not None:
            live = live._replace(second=second.added(live.second, label))
        labels = live.labels.at[:, :, jnp.minimum(s, model.max_symbols - 1)].set(label)
        return live._replace(log_probs=best, name=hashed(live.name, label), labels=labels)

    def body(carry: Any) -> Any:
        s, live, ended, invalid = carry
        label = live.labels[:, :, s]
        flat = jax.tree.map(lambda a: a.reshape(batch * width, *a.shape[2:]), live.state)
        predicted, state = jax.tree.map(
            lambda a: a.reshape(batch, width, *a.shape[1:]), model.predict(label.reshape(-1), flat)
        )
        live = live._replace(predicted=predicted, state=state)
        if second is not None and live.second is not None:
            live = live._replace(second=second.read(live.second, label))
        log_probs, ended, is_wrong = level(live, ended)
        return s + 1, grown(s + 1, live, log_probs, ended), ended, invalid | is_wrong

    def is_open(carry: Any) -> Array:
        live: _Prefixes = carry[1]
        return (live.log_probs > -jnp.inf).any()

    live = prefixes._replace(
        parent=_places(batch, width), labels=jnp.full_like(prefixes.labels, model.blank)
    )
    none = live._replace(log_probs=jnp.full_like(live.log_probs, -jnp.inf))
    log_probs, ended, invalid = level(live, none)
    s = jnp.int32(0)
    carry = s, grown(s, live, log_probs, ended), ended, invalid
    _, _, ended, invalid = lax.while_loop(is_open, body, carry)
    return ended, invalid


def _merged(ended: _Prefixes, new: _Prefixes) -> _Prefixes:
    """Return the best of two sets of prefixes, after adding those with equal labels.

    If all entries of `new` are unused, the result is `ended`.
    """
    same = (ended.name[:, :, None] == new.name[:, None]).all(axis=-1)
    same = same & (ended.log_probs > -jnp.inf)[:, :, None] & (new.log_probs > -jnp.inf)[:, None]
    joining = jnp.where(same, new.log_probs[:, None], -jnp.inf).max(axis=2)
    ended = ended._replace(log_probs=jnp.logaddexp(ended.log_probs, joining))
    new = new._replace(log_probs=jnp.where(same.any(axis=1), -jnp.inf, new.log_probs))
    both: _Prefixes = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), ended, new)
    _, index = lax.top_k(both.rank, ended.log_probs.shape[1])
    kept: _Prefixes = _rows(both, index)
    return kept


def _places(batch: int, width: int) -> Array:
    return jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32)[None], (batch, width))


def _rows(tree: Any, index: Array) -> Any:
    """Return the rows `index [B, n]` of arrays `[B, K, …]`."""
    return jax.tree.map(lambda a: jax.vmap(lambda rows, places: rows[places])(a, index), tree)
