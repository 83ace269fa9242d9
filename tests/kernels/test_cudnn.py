"""All of the cuDNN kernel but cuDNN: JAX's reference stands in for it, and `scan` is the truth.

The stand-in is as unkind as cuDNN may be: NaN in padding, both ways, and for an empty sequence.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

import seqjax
from seqjax import cells
from seqjax.kernels import Problem, scan
from seqjax.kernels._cudnn import _ambient_precision, _run, cudnn, flat_weights
from seqjax.kernels.target import this_machine
from tests.cases import T, assert_close, draw_like, inputs_of, mask_of, params_of, state_of

I, H, BATCH = 3, 4, (6,)
CELLS = {"bias": cells.LSTM(I, H), "no-bias": cells.LSTM(I, H, use_bias=False)}
CELL = CELLS["bias"]


@jax.custom_vjp
def identity(x, real):
    return x


identity.defvjp(
    lambda x, real: (x, real), lambda real, dx: (jnp.where(real[..., None], dx, jnp.nan), None)
)


def core(
    x, h_0, c_0, weights, seq_lengths, input_size, hidden_size, num_layers, dropout, bidirectional,
    precision=None,
):  # fmt: skip
    """`rnn.lstm_ref` with the arguments of `rnn.lstm`."""
    # A run on a GPU asks for "highest".
    ambient = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    exact = ambient == "highest"
    assert precision is (jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.HIGH)
    sizes = input_size, hidden_size, num_layers
    real = jnp.arange(x.shape[1], dtype=jnp.int32) < seq_lengths[:, None]
    weights = jnp.where((seq_lengths > 0).all(), weights, jnp.nan)
    unpacked = rnn.unpack_lstm_weights(weights, *sizes, bidirectional)
    y, h_n, c_n = rnn.lstm_ref(
        identity(x, real), h_0, c_0, *unpacked, seq_lengths, *sizes, dropout, bidirectional
    )
    return jnp.where(real[..., None], y, jnp.nan), h_n, c_n


def lengths(batch):
    """A mask of right padding: full, empty, one step, and between."""
    ends = np.resize([T, 0, 3, 1, 5, 2], batch)
    return np.arange(T) < ends[..., None]


MASKS = {"none": lambda batch: None, "lengths": lengths, "holes": mask_of}


def problem_of(cell=CELL, batch=BATCH, mask=None, **changes):
    """A problem with nothing zero in it but the masked inputs, time-major."""
    xs = np.moveaxis(inputs_of(cell, batch), -2, 0)
    if mask is not None:
        mask = jnp.asarray(np.moveaxis(mask, -1, 0))
        xs = np.where(mask[..., None], xs, 0)
    state = state_of(cell, batch)
    arrays = {"params": params_of(cell), "xs": jnp.asarray(xs), "state": state, "mask": mask}
    return Problem(**{**arrays, "reset_state": state, **changes})


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def ran(run, cell, reverse, problem):
    """Outputs and state, and gradients of all of both to params, xs and the initial state."""

    def loss(params, xs, state):
        unrolled = run(cell, Problem(params, xs, state, state, problem.mask), reverse=reverse)
        weights = draw_like(unrolled, 8)
        return sum(map(jnp.vdot, jax.tree.leaves(weights), jax.tree.leaves(unrolled))), unrolled

    arguments = (problem.params, problem.xs, problem.state)
    (_, unrolled), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*arguments)
    return unrolled, gradients


def around(call):
    """The kernel with something else in the place of cuDNN."""
    return lambda cell, problem, reverse: _run(call, cell, problem, reverse)


AROUND_REFERENCE = around(core)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("batch", [BATCH, (), (2, 3)], ids=str)
@pytest.mark.quick()
def test_values_and_gradients_equal_scan(batch, mask, reverse):
    problem = problem_of(batch=batch, mask=MASKS[mask](batch))
    got, gradients = ran(AROUND_REFERENCE, CELL, reverse, problem)
    want, expected = ran(scan, CELL, reverse, problem)
    assert_close(got, want)
    assert type(got.state) is type(want.state)
    assert_close(gradients, expected, atol=2e-5)


@pytest.mark.quick()
@pytest.mark.parametrize("mask", MASKS)
def test_without_bias(mask):
    problem = problem_of(CELLS["no-bias"], mask=MASKS[mask](BATCH))
    got, gradients = ran(AROUND_REFERENCE, CELLS["no-bias"], False, problem)
    want, expected = ran(scan, CELLS["no-bias"], False, problem)
    assert_close(got, want)
    assert_close(gradients, expected, atol=2e-5)


@pytest.mark.quick("lengths")
@pytest.mark.parametrize("mask", ["lengths", "holes"])
def test_masked_steps_are_exact(mask):
    """Outputs and input gradients are zero, and an empty sequence keeps its state."""
    where = MASKS[mask](BATCH)
    problem = problem_of(mask=where)
    (outputs, state), (_, d_xs, _) = ran(AROUND_REFERENCE, CELL, False, problem)
    assert not np.asarray(outputs)[~where.T].any()
    assert not np.asarray(d_xs)[~where.T].any()
    empty = ~where.any(axis=-1)
    assert empty.any()
    for got, given in zip(state, problem.state, strict=True):
        np.testing.assert_array_equal(got[empty], given[empty])


@pytest.mark.parametrize("shape", [(0, 6, I), (T, 0, I), (0, I)], ids=str)
def test_nothing_to_run(shape):
    """Without steps or sequences cuDNN is not called."""
    state = state_of(CELL, shape[1:-1])
    xs = jnp.zeros(shape)
    problem = Problem(params_of(CELL), xs, state, state, mask=jnp.ones(shape[:-1], bool))
    got = _run(pytest.fail, CELL, problem, True)
    assert_close(got, scan(CELL, problem, reverse=True))


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_flat_weights(cell):
    """They have the size and the order that JAX's own functions say."""
    params = params_of(cell)
    flat = flat_weights(params)
    assert flat.shape == (rnn.get_num_params_in_lstm(I, H, 1, False),)
    (w_ih,), (w_hh,), (b_ih,), (b_hh,) = (
        part.values() for part in rnn.unpack_lstm_weights(flat, I, H, 1, False)
    )
    b = np.zeros(4 * H) if params.b is None else params.b
    assert_close((w_ih, w_hh, b_ih + b_hh), (params.w_ih.T, params.w_hh.T, b), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("precision", "tf32"),
    [
        ("highest", False),
        ("float32", False),
        ("tensorfloat32", True),
        ("default", True),
        (None, True),
    ],
)
def test_jax_takes_the_call(monkeypatch, precision, tf32):
    """Both directions trace with JAX's function, in the ambient precision.

    JAX asks cuDNN for sizes of buffers, which is answered here.
    """
    sizes = "jaxlib.gpu_rnn.compute_rnn_workspace_reserve_space_sizes"
    monkeypatch.setattr(sizes, lambda *_: (4, 8), raising=False)
    problem = problem_of(mask=mask_of(BATCH))
    with jax.default_matmul_precision(precision):
        program = str(jax.make_jaxpr(lambda p: ran(around(rnn.lstm), CELL, False, p))(problem))
    assert "rnn_fwd[" in program
    assert "rnn_bwd[" in program
    assert program.count(f"cudnn_allow_tf32={tf32}") == 2
    assert f"cudnn_allow_tf32={not tf32}" not in program


def test_arrays_have_the_layout_that_cudnn_reads(monkeypatch):
    """All arrays of two axes or more, into cuDNN and out of it, keep the order of their axes.

    XLA chooses the layouts of a call that says nothing of them, and it chose transposed ones.
    """
    sizes = "jaxlib.gpu_rnn.compute_rnn_workspace_reserve_space_sizes"
    monkeypatch.setattr(sizes, lambda *_: (4, 8), raising=False)
    problem = problem_of(mask=mask_of(BATCH))
    jaxpr = jax.make_jaxpr(lambda p: ran(around(rnn.lstm), CELL, False, p))(problem).jaxpr
    (jaxpr,) = (e.params["jaxpr"].jaxpr for e in jaxpr.eqns if e.primitive.name in ("jit", "pjit"))
    made: dict = {}
    used: dict = {}
    for equation in jaxpr.eqns:
        made |= {variable: equation for variable in equation.outvars}
        for variable in equation.invars:
            if not isinstance(variable, jax.extend.core.Literal):
                used.setdefault(variable, []).append(equation)
    calls = [e for e in jaxpr.eqns if e.primitive.name in ("rnn_fwd", "rnn_bwd")]
    assert len(calls) == 2
    for call in calls:
        arrays = [v for v in call.invars if v.aval.ndim > 1 and made.get(v) not in calls]
        assert len(arrays) == {"rnn_fwd": 3, "rnn_bwd": 6}[call.primitive.name]
        results = [v for v in call.outvars if v.aval.ndim > 1]
        assert len(results) == 3
        for equation in [made[v] for v in arrays] + [e for v in results for e in used[v]]:
            assert equation in calls or equation.primitive.name == "layout_constraint"
            if equation not in calls:
                order = equation.params["layout"].major_to_minor
                assert order == tuple(range(len(order)))


@pytest.mark.skipif(this_machine() != "cuda", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_on_hardware(mask, reverse):
    problem = problem_of(mask=MASKS[mask](BATCH))
    with jax.default_matmul_precision("highest"):
        assert_close(ran(cudnn, CELL, reverse, problem), ran(scan, CELL, reverse, problem), 1e-5)


def on(monkeypatch, backend, cuda=False):
    """Lets JAX seem to run on a backend."""

    def devices(platform):
        if not (cuda and platform == "cuda"):
            raise RuntimeError(f"Unknown backend {platform}")

    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "devices", devices)


@pytest.mark.quick()
def test_calls_jax_on_a_gpu(monkeypatch):
    on(monkeypatch, "gpu", cuda=True)
    monkeypatch.setattr(rnn, "lstm", core)
    problem = problem_of(mask=mask_of(BATCH))
    got = cudnn(CELL, problem, reverse=True)
    assert_close(got, scan(CELL, problem, reverse=True))


@pytest.mark.parametrize(
    ("backend", "name"), [("cpu", "cpu"), ("tpu", "tpu"), ("gpu", "rocm")], ids=str
)
def test_needs_a_gpu_of_nvidia(monkeypatch, backend, name):
    on(monkeypatch, backend)
    message = (
        f"^implementation: 'cudnn' needs an NVIDIA GPU, got JAX's backend '{name}'; use 'scan'"
    )
    with pytest.raises(ValueError, match=message):
        cudnn(CELL, problem_of())


class Kin(cells.LSTM):
    """A subclass, which may have other equations."""


@pytest.mark.parametrize(
    "cell",
    [Kin(I, H), cells.GRU(I, H), cells.PeepholeLSTM(I, H), cells.ConvLSTM1D(I, H, spatial_shape=5)],
)
def test_other_cells(cell):
    message = rf"^implementation: 'cudnn' runs .*LSTM, got {type(cell).__name__}; use 'scan'"
    with pytest.raises(ValueError, match=message):
        cudnn(cell, problem_of())


def low(tree):
    return jax.tree.map(lambda a: a.astype(jnp.bfloat16), tree)


@pytest.mark.parametrize("name", ["xs", "params", "state"])
def test_other_dtypes(name):
    problem = problem_of(**{name: low(getattr(problem_of(), name))})
    message = f"^implementation: 'cudnn' runs float32, got {name} of bfloat16; use 'scan'"
    with pytest.raises(ValueError, match=message):
        cudnn(CELL, problem)


@pytest.mark.parametrize("name", ["resets", "recurrent_mask", "zoneout"])
def test_what_cudnn_lacks(name):
    message = f"^implementation: 'cudnn' runs without {name}, got {name}; use 'scan'"
    with pytest.raises(ValueError, match=message):
        cudnn(CELL, problem_of(**{name: jnp.ones(1)}))


@pytest.mark.parametrize("options", [dict(remat="sqrt"), dict(memory_budget=10**9)])
def test_memory_is_cudnns_own(options):
    message = "^remat: expected auto or none and no memory_budget with implementation='cudnn'"
    with pytest.raises(ValueError, match=message):
        seqjax.unroll(
            CELL, params_of(CELL), inputs_of(CELL, BATCH), implementation="cudnn", **options
        )


@pytest.mark.parametrize(
    ("ambient", "exact"),
    [
        (None, False), ("high", False), ("tensorfloat32", False), ("TF32_TF32_F32", False),
        ("highest", True), ("float32", True), ("F32_F32_F32", True), ("BF16_BF16_F32_X6", True),
    ],
)  # fmt: skip
def test_the_precision_is_that_of_other_products(ambient, exact):
    with jax.default_matmul_precision(ambient):
        wanted = jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.HIGH
        assert _ambient_precision() is wanted
