"""Properties of `unroll` over drawn shapes, cells, masks and dtypes."""

import contextlib
import functools
from typing import Any, NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import seqjax
from tests.cases import Case, assert_close, draw_like, dtype_for, params_of, reference
from tests.references import wide

# How far a state may be off after a few steps, rounded at each.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-2, "bfloat16": 2e-1}

names = st.sampled_from(sorted(seqjax.CELLS))
seeds = st.integers(0, 2**16)


@functools.cache
def cell_of(name, input_size, hidden_size):
    """A registered cell; where it has space, little of it."""
    cls: Any = seqjax.CELLS[name]
    spatial = {"spatial_shape": 3} if hasattr(cls, "spatial_shape") else {}
    return cls(input_size=input_size, hidden_size=hidden_size, **spatial)


class Problem(NamedTuple):
    """One call of `unroll`, batch-major in float64: the reference's arguments."""

    made_by: str
    case: Case
    params: Any
    xs: np.ndarray
    state: Any
    options: dict[str, Any]

    @property
    def mask(self):
        """True at real steps."""
        return self.options["mask"]

    def __repr__(self):
        return self.made_by  # a falsifying example is to be read, not its arrays


def inputs_of(cell, rng, lead):
    """Random inputs with the axes `lead` before those of a step. Times are at least 0."""
    xs = rng.normal(size=(*lead, *cell.input_shape))
    if cell.reads_elapsed:
        xs[..., -1] = abs(xs[..., -1])
    return xs


def problem(name, sizes, batch, steps, seed, *, resets=False, state=True, reverse=False):
    """A problem with random numbers, a mask of any pattern and garbage in the padding."""
    rng = np.random.default_rng(seed)
    cell = cell_of(name, *sizes)
    xs = inputs_of(cell, rng, (*batch, steps))
    start = draw_like(cell.initial_state(batch), seed, 0.5, np.float64)
    options = {
        "mask": rng.random((*batch, steps)) < 0.6,
        "resets": rng.random((*batch, steps)) < 0.3 if resets else None,
        "reverse": reverse,
    }
    made_by = (
        f"problem({name!r}, {sizes}, {batch}, {steps}, {seed}, resets={resets}, state={state}, "
        f"reverse={reverse})"
    )
    case, params = Case(name, cell), params_of(cell)
    return Problem(made_by, case, params, xs, start if state else None, options)


def garbage(xs, mask, seed=0):
    """The inputs with NaN, infinities and large numbers at masked steps."""
    over = mask.reshape(*mask.shape, *[1] * (xs.ndim - mask.ndim))
    junk = np.random.default_rng(seed).choice([np.nan, np.inf, -np.inf, 1e4, -1e4], xs.shape)
    return np.where(over, xs, junk)


def run(p, **changes):
    """`unroll` in float32."""
    options = {"state": p.state, **p.options, **changes}
    xs = garbage(options.pop("xs", p.xs), options.get("garbage", p.mask))
    options.pop("garbage", None)
    single = lambda tree: jax.tree.map(lambda a: np.asarray(a, dtype_for(a, np.float32)), tree)  # noqa: E731
    options["state"] = None if options["state"] is None else single(options["state"])
    return seqjax.unroll(p.case.cell, p.params, single(xs), **options)


# Half of them empty or without axes would teach little of the rest.
BATCHES = [(3,), (2, 3), (3, 3), (1,), (2, 1, 3), (), (0,), (3, 0, 2)]


@st.composite
def any_problems(draw, cells):
    """Problems of any shape: no batch axes, empty ones, no steps, one feature."""
    batch = draw(st.sampled_from(BATCHES))
    flags = {name: draw(st.booleans()) for name in ("resets", "state", "reverse")}
    sizes = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    steps = draw(st.sampled_from([5, 7, 4, 3, 2, 1, 6, 0]))
    return problem(draw(cells), sizes, batch, steps, draw(seeds), **flags)


@pytest.mark.parametrize("name", seqjax.CELLS)
@pytest.mark.quick("lstm", "min_gru")
def test_unroll_equals_the_reference(name):
    # Each cell gets draws of its own; hypothesis left alone would favour a few.
    @hypothesis.seed(sum(map(ord, name)))
    @hypothesis.settings(max_examples=5)
    @given(
        p=any_problems(st.just(name)),
        dtype=st.sampled_from(["float32", "bfloat16", "float64", "float16"]),
        real=st.sampled_from(["lengths", "mask", "all"]),
        time_major=st.booleans(),
        seed=seeds,
    )
    def check(**drawn):
        check_against_the_reference(**drawn)

    check()


def check_against_the_reference(p, dtype, real, time_major, seed):
    if p.case.name == "layer_norm_lstm" and dtype in ("float16", "bfloat16"):
        dtype = "float32"  # normalising two almost equal numbers blows up what rounding left
    batch, steps = p.mask.shape[:-1], p.mask.shape[-1]
    options = dict(p.options)
    mask = options.pop("mask")
    lengths = mask.sum(-1, dtype=np.int32)
    if real == "all":
        mask = np.ones_like(mask)
    elif real == "lengths":
        mask = np.arange(steps) < lengths[..., None]

    with jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
        cast = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, dtype_for(a, dtype)), tree)  # noqa: E731
        double = lambda tree: jax.tree.map(wide, tree)  # noqa: E731
        xs, state, params = cast(p.xs), cast(p.state), cast(p.params)
        first = lambda a: np.moveaxis(a, len(batch), 0)  # noqa: E731
        layout = first if time_major else lambda a: a
        given = {"lengths": lengths} if real == "lengths" else {"mask": layout(mask)}
        resets = options["resets"]
        got = seqjax.unroll(
            p.case.cell,
            params,
            jnp.asarray(layout(garbage(p.xs, mask, seed)), dtype),
            state=state,
            resets=None if resets is None else layout(resets),
            reverse=options["reverse"],
            time_major=time_major,
            **({} if real == "all" else given),
        )
        assert got.outputs.dtype == dtype
        start = p.case.cell.initial_state(batch, dtype) if state is None else state
        assert jax.tree.map(jnp.result_type, got.state) == jax.tree.map(jnp.result_type, start)
        # The reference sees the rounded numbers that the cell sees.
        want = reference(
            p.case,
            double(params),
            double(xs),
            initial_state=None if state is None else double(state),
            mask=mask,
            **options,
        )
        outputs = np.asarray(got.outputs, np.float64)
        outputs = np.moveaxis(outputs, 0, len(batch)) if time_major else outputs
        tolerance = TOLERANCE[dtype] * (100 if p.case.name == "layer_norm_lstm" else 1)
        assert_close((outputs, got.state), want, tolerance, tolerance)


# From here on few shapes, so that what is compiled once serves many examples.
SIZES, BATCH, STEPS = (3, 4), (3,), 5


@st.composite
def problems(draw, batch=BATCH, steps=STEPS, resets=True, cells=names):
    """Problems that differ in cell and numbers."""
    flags = {"resets": resets, "reverse": draw(st.booleans())}
    return problem(draw(cells), SIZES, batch, steps, draw(seeds), **flags)


def at(tree, index):
    return jax.tree.map(lambda a: a[index], tree)


@pytest.mark.quick()
@given(p=problems(), order=st.permutations(range(3)))
def test_permuting_the_batch_permutes_the_results(p, order):
    moved = {name: p.options[name][order] for name in ("mask", "resets")}
    got = run(p, xs=p.xs[order], state=at(p.state, order), garbage=moved["mask"], **moved)
    assert_close(got, at(tuple(run(p)), np.array(order)))


@pytest.mark.quick()
@given(p=problems(), before=st.booleans(), seed=seeds)
def test_more_padding_changes_nothing(p, before, seed):
    def longer(a, value):
        more = np.full((*a.shape[:1], 3, *a.shape[2:]), value, a.dtype)
        return np.concatenate([more, a] if before else [a, more], 1)

    mask = longer(p.mask, False)
    xs = garbage(longer(p.xs, 0), mask, seed)
    got = run(
        p, xs=xs, mask=mask, garbage=np.ones_like(mask), resets=longer(p.options["resets"], False)
    )
    want = run(p)
    parts = got.outputs[:, 3:], got.outputs[:, :3]
    real, padding = parts if before else (got.outputs[:, :STEPS], got.outputs[:, STEPS:])
    assert_close((real, got.state), tuple(want))
    assert not padding.any()


@pytest.mark.quick()
@given(
    p=problems(cells=st.sampled_from(["cho_gru", "conv_lstm_1d", "min_lstm", "projected_lstm"])),
    at_step=st.integers(0, STEPS),
)
def test_time_may_be_split_anywhere(p, at_step):
    whole = run(p)
    state, outputs = p.state, {}
    parts = [np.s_[:, :at_step], np.s_[:, at_step:]]
    for part in parts[::-1] if p.options["reverse"] else parts:
        mask, resets = p.mask[part], p.options["resets"][part]
        outputs[str(part)], state = run(
            p, xs=p.xs[part], state=state, mask=mask, resets=resets, garbage=mask
        )
    joined = np.concatenate([outputs[str(part)] for part in parts], 1)
    assert_close((joined, state), tuple(whole))


@pytest.mark.quick()
@given(p=problems())
def test_a_mask_of_real_steps_is_no_mask(p):
    everything = np.ones_like(p.mask)
    want = run(p, mask=None, garbage=everything)
    assert_close(run(p, mask=everything, garbage=everything), want)
    lengths = np.full(BATCH, STEPS)
    assert_close(run(p, mask=None, lengths=lengths, garbage=everything), want)


@pytest.mark.quick()
@given(p=problems(), lengths=st.lists(st.integers(0, STEPS), min_size=3, max_size=3))
def test_lengths_are_a_mask(p, lengths):
    mask = np.arange(STEPS) < np.array(lengths)[:, None]
    got = run(p, mask=None, lengths=lengths, garbage=mask)
    assert_close(got, run(p, mask=mask, garbage=mask), 0, 0)


@pytest.mark.quick()
@given(p=problems(resets=False))
def test_masked_steps_may_be_removed(p):
    want = run(p)
    outputs, final = np.zeros_like(want.outputs), want.state
    shorter, mask = np.zeros_like(p.xs), np.zeros_like(p.mask)
    for n, real in enumerate(p.mask):
        mask[n, : real.sum()] = True
        shorter[n, mask[n]] = p.xs[n, real]
    got = run(p, xs=shorter, mask=mask, garbage=mask)
    for n, real in enumerate(p.mask):
        outputs[n, real] = got.outputs[n, mask[n]]
    assert_close((outputs, got.state), (want.outputs, final))


@pytest.mark.quick()
@given(p=problems(resets=False), split=st.integers(1, STEPS - 1))
def test_a_reset_starts_anew(p, split):
    # In processing order: what comes from the reset on knows nothing of what was before.
    resets = np.zeros(p.mask.shape, bool)
    part = np.s_[:, :split] if p.options["reverse"] else np.s_[:, split:]
    resets[:, split - 1 if p.options["reverse"] else split] = True
    other = inputs_of(p.case.cell, np.random.default_rng(1), p.mask.shape)
    other[part] = p.xs[part]
    a = run(p, resets=resets)
    b = run(p, resets=resets, xs=other, state=jax.tree.map(np.zeros_like, p.state))
    assert_close((a.outputs[part], a.state), (b.outputs[part], b.state), 0, 0)


@pytest.mark.quick()
@given(p=problems())
def test_several_batch_axes_are_one(p):
    two = lambda a: np.stack([a, a[::-1]])  # noqa: E731
    got = run(
        p,
        xs=two(p.xs),
        state=jax.tree.map(two, p.state),
        mask=two(p.mask),
        resets=two(p.options["resets"]),
        garbage=two(p.mask),
    )
    want = jax.tree.map(lambda a: two(np.asarray(a)), tuple(run(p)))
    assert_close(got, want)
