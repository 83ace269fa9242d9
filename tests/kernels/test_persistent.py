"""The engine `persistent`, without a GPU: Pallas's interpreter runs it, and it is lowered for CUDA.

What no test here can see: the compiler of NVIDIA's driver, the speed, and a hang of the device.
"""

import contextlib
import dataclasses
import importlib
import os
import re
import subprocess
import sys
import unittest.mock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax.cells import GRU, LSTM, Elman, PeepholeLSTM
from seqjax.kernels import KERNELS, Problem, Spec, fused, make_plan, target
from seqjax.kernels import _persistent as persistent_module
from seqjax.kernels._engine_forms import Setting, operands_of_cell
from seqjax.kernels._persistent import engine
from seqjax.kernels._persistent_cell import pointwise
from seqjax.kernels._persistent_size import SHARED, Size, size_of
from tests.cases import draw_like

H, I, STEPS, BATCH = 64, 5, 3, 3
PERSISTENT = KERNELS["persistent"]
SPEC = Spec((BATCH,), STEPS, jnp.dtype(jnp.bfloat16), "cuda")
REFUSAL = PERSISTENT.refuses(LSTM(I, H), SPEC)
HERE = pytest.mark.skipif(REFUSAL is not None, reason=str(REFUSAL))
THREADS = int(os.environ.get("NPROC", os.cpu_count() or 1))  # of XLA's pool, by XLA's own rule
CELLS = {"lstm": LSTM, "gru": GRU}
ACCEPTED = [(name, size) for name in CELLS for size in (64, 128, 192, 256)]


def draw(like, seed, scale=1.0, dtype=jnp.bfloat16):
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), draw_like(like, seed, scale))


def problem_of(cell, batch=BATCH, *, special=False, dtype=jnp.bfloat16):
    """A problem with random biases; with `special` also a mask and resets."""
    rng = np.random.default_rng(3)
    state = cell.initial_state((batch,))
    given = {}
    if special:
        mask, resets = rng.random((2, STEPS, batch)) < [[[0.7]], [[0.4]]]
        mask[:, 0], resets[0, -1], resets[-1, 0] = False, True, True  # an empty sequence, and edges
        given = {"mask": jnp.asarray(mask), "resets": jnp.asarray(resets)}
    xs = draw(np.zeros((STEPS, batch, I)), 2)
    if special:
        xs = jnp.where(given["mask"][..., None], xs, 0)
    scale = 2 / cell.hidden_size**0.5
    params = draw(cell.param_specs(), 1, scale)
    return Problem(params, xs, draw(state, 4, dtype=dtype), draw(state, 5, dtype=dtype), **given)


def pallas():
    """Pallas for GPUs, which old versions of JAX may not have as a whole."""
    module: Any = importlib.import_module("jax.experimental.pallas.mosaic_gpu")
    return module


def interpreter():
    """Parameters of Pallas's interpreter, which records races."""
    plgpu = pallas()
    names = {field.name for field in dataclasses.fields(plgpu.InterpretGPUParams)}
    options = {"on_race": "warn"} if "on_race" in names else {}
    return plgpu.InterpretGPUParams(detect_races=True, **options)


def races():
    """Return True if the interpreter found a race in the kernel that it ran last."""
    from jax._src.pallas.mosaic_gpu.interpret import interpret_pallas_call

    return interpret_pallas_call.get_races().races_found


@contextlib.contextmanager
def watched_products():
    """Let the interpreter see what products read, before and after each product.

    It looks for races among loads, stores and copies, but not in the operands of products.
    """
    from seqjax.kernels._persistent_group import Group

    def read(group):
        for name, start in (("w_smem", (group._group,)), ("r_smem", ())):
            held = group.refs[name].at[start] if start else group.refs[name]
            first, second = group.refs[name].shape[len(start) : len(start) + 2]
            for n in range(first):
                for k in range(second):
                    pallas().load(held.at[n, k], optimized=False)

    def watched(method):
        def products(group):
            read(group)
            found = method(group)
            read(group)
            return found

        return products

    with contextlib.ExitStack() as stack:
        for name in ("products", "sum_of_products"):
            method = watched(getattr(Group, name))
            stack.enter_context(unittest.mock.patch.object(Group, name, method))
        yield


def interpreted(cell, problem, *, reverse=False):
    """The results and gradients of the engine and of `fused`, and the races of both kernels."""
    size = persistent_module._size(cell)
    assert size is not None
    if size.blocks * size.groups >= THREADS:
        pytest.skip("each warpgroup blocks a thread of XLA: a test below sets NPROC")
    with watched_products():
        return _interpreted(cell, problem, reverse)


def _interpreted(cell, problem, reverse):
    found = engine(interpreter())
    arrays = operands_of_cell(problem)
    setting = Setting(cell, reverse, tuple(arrays), found)
    moving = tuple(name for name in arrays if name not in ("mask", "resets"))
    run = jax.jit(lambda *operands: found.run(*operands, setting=setting, store=True))
    results = jax.block_until_ready(run(*arrays.values()))
    shown, kept = results[: len(setting.shown)], results[len(setting.shown) :]
    raced = [races()]
    cotangents = [draw(a, 7 + n, dtype=a.dtype) for n, a in enumerate(shown)]
    derive = jax.jit(lambda *given: found.gradient(*given, setting=setting, moving=moving))
    operands = (*arrays.values(), shown[0], *kept, *cotangents)
    gradients = jax.block_until_ready(derive(*operands))
    raced.append(races())

    def by_fused(moved, cotangents):
        def run(moved):
            p = problem.params._replace(**{n: moved[n] for n in moved if n in LIKE_PARAMS})
            structure = jax.tree.structure(problem.state)
            start, again = (
                jax.tree.unflatten(structure, [moved[n] for n in names if n in moved])
                if names[0] in moved
                else problem.state
                for names in (("h0", "c0"), ("h_reset", "c_reset"))
            )
            given = Problem(p, moved["xs"], start, again, problem.mask, problem.resets)
            return jax.tree.leaves(fused(cell, given, reverse))

        shown, pull = jax.vjp(run, moved)
        return shown, pull(cotangents)[0]

    want, wanted = jax.jit(by_fused)({name: arrays[name] for name in moving}, cotangents)
    return (shown, gradients), (want, [wanted[name] for name in moving]), raced


LIKE_PARAMS = ("w_ih", "w_hh", "b", "b_hn")


def assert_near(got, want):
    """Each array equals the other one up to the rounding of bfloat16."""
    for n, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        atol = 0.016 * max(abs(b).max(), 1e-3)
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=str(n))


@HERE
@pytest.mark.parametrize(
    ("cell", "options"),
    [
        (LSTM(I, 64), {"batch": 17, "special": True}),
        pytest.param(LSTM(I, 64, use_bias=False), {}, marks=pytest.mark.slow),
        pytest.param(GRU(I, 64), {"special": True, "reverse": True}, marks=pytest.mark.slow),
        pytest.param(GRU(I, 64, use_bias=False), {"dtype": jnp.float32}, marks=pytest.mark.slow),
        pytest.param(GRU(I, 128), {"special": True, "batch": 17}, marks=pytest.mark.slow),
        pytest.param(LSTM(I, 128), {"reverse": True}, marks=pytest.mark.slow),
    ],
    ids=lambda value: f"{type(value).__name__}-{value.hidden_size}"
    if isinstance(value, (LSTM, GRU)) else "-".join(value),
)  # fmt: skip
def test_values_gradients_and_races(cell, options):
    reverse = options.pop("reverse", False)
    got, want, raced = interpreted(cell, problem_of(cell, **options), reverse=reverse)
    assert not any(raced)
    assert_near(got[0], want[0])
    assert_near(got[1], want[1])


@HERE
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [("lstm", Size(128, 2)), ("lstm", Size(192, 3)), ("gru", Size(256, 4)), ("gru", Size(256, 2))],
)
def test_clusters(name, size, monkeypatch):
    cell = CELLS[name](I, size.hidden)
    monkeypatch.setattr(persistent_module, "_size", lambda cell: size)
    got, want, raced = interpreted(cell, problem_of(cell, special=True))
    assert not any(raced)
    assert_near(got[0], want[0])
    assert_near(got[1], want[1])


@HERE
@pytest.mark.slow
@pytest.mark.skipif(THREADS > 4, reason="there are enough threads for all tests")
def test_in_a_process_with_more_threads():
    chosen = ["-k", "(clusters or race) and not process"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", __file__, *chosen]
    ran = subprocess.run(
        command, env={**os.environ, "NPROC": "8"}, capture_output=True, text=True, timeout=900
    )
    assert ran.returncode == 0 and "skipped" not in ran.stdout, ran.stdout + ran.stderr


@HERE
@pytest.mark.slow
@pytest.mark.parametrize("barrier", ["done", "ready"])
@pytest.mark.parametrize("gradient", [False, True])
def test_a_barrier_that_is_left_out_is_a_race(barrier, gradient, monkeypatch):
    from seqjax.kernels._persistent_group import Group

    meet = Group.meet
    cell = GRU(I, 128)  # two warpgroups

    def left_out(group, name):
        if name != barrier or ("gates" in group.refs) != gradient:
            meet(group, name)

    monkeypatch.setattr(Group, "meet", left_out)
    *_, raced = interpreted(cell, problem_of(cell))
    assert raced == [not gradient, gradient]


@HERE
@pytest.mark.slow
@pytest.mark.parametrize("gradient", [False, True])
def test_a_barrier_of_the_cluster_that_is_moved_is_a_race(gradient, monkeypatch):
    from seqjax.kernels._persistent_group import Group

    cell = GRU(I, 128)
    monkeypatch.setattr(persistent_module, "_size", lambda cell: Size(128, 2))
    meet_cluster, meet = Group.meet_cluster, Group.meet

    def moved(group):
        return ("gates" in group.refs) == gradient

    def arrive(group):
        if not moved(group):
            meet_cluster(group)
        else:
            pallas().barrier_arrive(group.refs["cluster"])
            group.arrived = True

    def wait_late(group, name):
        if name == "ready" and getattr(group, "arrived", False):
            pallas().barrier_wait(group.refs["cluster"])
            group.arrived = False
        meet(group, name)

    monkeypatch.setattr(Group, "meet_cluster", arrive)
    monkeypatch.setattr(Group, "meet", wait_late)
    *_, raced = interpreted(cell, problem_of(cell))
    assert raced == [not gradient, gradient]


def program_for_cuda(function, *arguments):
    """The program for CUDA, with the names of its custom calls."""
    with target.made_for(["cuda"]):
        lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    return len(re.findall(r"custom_call @mosaic_gpu\w*\(", text))


def loss_of(cell, batch=BATCH, **options):
    rng = np.random.default_rng(0)
    lengths, resets = rng.integers(0, STEPS + 1, batch), rng.random((batch, STEPS)) < 0.4
    given = {"lengths": lengths, "resets": resets}
    options = {"implementation": "persistent", **given, **options}

    def loss(params, xs):
        ran = seqjax.unroll(cell, params, xs, **options)
        leaves = map(lambda a: a.astype(jnp.float32), jax.tree.leaves(ran))
        return sum(jnp.sin(3 * leaf).sum() for leaf in leaves)

    return loss


def arguments_of(cell, batch=BATCH):
    return draw(cell.param_specs(), 1, 0.2), draw(np.zeros((batch, STEPS, I)), 2)


@pytest.mark.quick()
@HERE
@pytest.mark.parametrize(
    ("name", "size", "batch"),
    [
        pytest.param(name, size, batch, marks=() if size == 64 else pytest.mark.slow)
        for name, size in ACCEPTED
        for batch in ((1, 40) if size == 192 else (17,))
    ],
)
def test_every_accepted_size_is_lowered_for_a_gpu(name, size, batch):
    """Lowering checks the layouts, and that a block has enough shared memory."""
    cell = CELLS[name](I, size)
    gradient = jax.grad(loss_of(cell, batch), (0, 1))
    assert program_for_cuda(gradient, *arguments_of(cell, batch)) == 2


@HERE
@pytest.mark.slow
def test_too_much_shared_memory_is_not_lowered(monkeypatch):
    cell = LSTM(I, 192)
    monkeypatch.setattr(persistent_module, "_size", lambda cell: Size(192, 1))
    with pytest.raises(ValueError, match="exceeds available shared memory"):
        program_for_cuda(loss_of(cell), *arguments_of(cell))


@HERE
@pytest.mark.slow
def test_which_programs_contain_the_kernels():
    cell = LSTM(I, H)
    loss, arguments = loss_of(cell), arguments_of(cell)
    assert program_for_cuda(loss, *arguments) == 1
    assert program_for_cuda(jax.value_and_grad(jax.checkpoint(loss)), *arguments) == 3
    assert program_for_cuda(jax.grad(loss_of(cell, remat="sqrt")), *arguments) == 3
    mapped = jax.vmap(loss_of(cell, lengths=None, resets=None), (None, 0))
    params, xs = arguments
    assert program_for_cuda(lambda p, x: mapped(p, x[None]).sum(), params, xs) == 1
    state = cell.initial_state((BATCH,))
    for given in ({"zoneout": jax.tree.map(lambda _: 0.1, state)}, {"recurrent_mask": state.h}):
        assert program_for_cuda(loss_of(cell, **given), *arguments) == 0
    mesh = jax.make_mesh((1,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = (jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("b"))
    plain = loss_of(cell, lengths=None, resets=None)
    part = lambda p, x: jax.lax.psum(plain(p, x), "b")  # noqa: E731
    whole = jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=specs[0])
    assert program_for_cuda(jax.grad(whole), *arguments) == 0
    with target.made_for(["cuda"]):
        exported = jax.export.export(jax.jit(loss), platforms=["cuda"])(*arguments)
    assert "mosaic_gpu" not in exported.mlir_module()


@HERE
@pytest.mark.two_devices
def test_a_batch_that_is_divided_over_devices_runs_fused():
    mesh = jax.make_mesh((2,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("b"))
    cell = GRU(I, H)
    plain = loss_of(cell, lengths=None, resets=None)
    divided = lambda p, x: plain(p, jax.lax.with_sharding_constraint(x, rows))  # noqa: E731
    arguments = arguments_of(cell, 4)
    assert program_for_cuda(jax.grad(plain), *arguments) == 2
    assert program_for_cuda(jax.grad(divided), *arguments) == 0


@pytest.mark.quick()
@HERE
def test_on_other_platforms_fused_runs_in_all_transformations():
    cell = GRU(I, H)
    arguments = arguments_of(cell)

    def derivatives(kernel):
        loss = loss_of(cell, implementation=kernel)
        plain = loss_of(cell, implementation=kernel, lengths=None, resets=None)
        tangents = jax.tree.map(jnp.ones_like, arguments)

        def found(params, xs):
            return (
                jax.value_and_grad(jax.checkpoint(loss), (0, 1))(params, xs),
                jax.jvp(loss, (params, xs), tangents),
                jax.jvp(lambda p: jax.grad(loss)(p, xs), (params,), tangents[:1]),
                jax.vmap(jax.grad(plain), (None, 1))(params, xs[:, None]),
                jax.vmap(plain, (None, 0))(params, jnp.stack([xs, xs + 1])),
            )

        with target.made_for(["cuda"] if kernel == "persistent" else ["cpu"]):
            return jax.jit(found)(*arguments)

    got, want = (jax.tree.leaves(derivatives(kernel)) for kernel in ("persistent", "fused"))
    assert_near(got, want)


@pytest.mark.parametrize(
    ("cell", "changes", "message"),
    [
        (Elman(I, H), {}, "'persistent' runs LSTM and GRU, got Elman; use 'scan', 'fused'"),
        (PeepholeLSTM(I, H), {}, "'persistent' runs LSTM and GRU, got PeepholeLSTM"),
        (LSTM(I, H), {"dtype": jnp.dtype("float32")}, "runs bfloat16, got xs of float32"),
        (GRU(I, H), {"dtype": jnp.dtype("float16")}, "runs bfloat16, got xs of float16"),
        (LSTM(I, 320), {}, "runs 64, 128, 192 or 256 hidden units, got 320"),
        (GRU(I, 100), {}, "runs 64, 128, 192 or 256 hidden units, got 100"),
        (GRU(I, H), {"steps": 0}, "at least one step of one sequence, got 0 steps"),
        (GRU(I, H), {"batch_shape": (2, 0)}, r"got 3 steps and the batch axes \(2, 0\)"),
        (GRU(I, H), {"platform": "tpu"}, "needs an NVIDIA GPU, got the platform 'tpu'"),
    ],
)
def test_what_it_refuses(cell, changes, message):
    if jax.__version_info__ < (0, 11):
        message = f"'persistent' needs jax 0.11 or newer, got {jax.__version__}; use 'scan'"
    assert re.search(message, PERSISTENT.refuses(cell, SPEC._replace(**changes)) or "")


def test_an_old_jax_is_refused_and_everything_else_runs(monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 2))
    refusal = PERSISTENT.refuses(LSTM(I, H), SPEC)
    assert refusal is not None and "needs jax 0.11 or newer" in refusal
    with pytest.raises(ValueError, match=r"needs jax 0.11 or newer, got .*; use 'scan', 'fused'"):
        seqjax.explain(LSTM(I, H), jnp.ones((2, 3, I), jnp.bfloat16), implementation="persistent")
    with pytest.raises(ValueError, match=r"needs jax 0.11 or newer"):
        PERSISTENT.run(LSTM(I, H), problem_of(LSTM(I, H)))


@HERE
def test_it_runs_only_on_request():
    plan = make_plan(LSTM(I, 256), (32,), 512, jnp.bfloat16, platform="gpu")
    assert plan.kernel.name == "fused"
    execution = seqjax.Execution(implementation="persistent")
    plan = make_plan(LSTM(I, 256), (32,), 512, jnp.bfloat16, execution, platform="gpu")
    assert plan.kernel == PERSISTENT and plan.reasons.kernel == "persistent was asked for"
    with pytest.raises(ValueError, match="needs an NVIDIA GPU, got the platform 'cpu'"):
        make_plan(LSTM(I, 256), (32,), 512, jnp.bfloat16, execution, platform="cpu")


@pytest.mark.parametrize(("capability", "fits"), [("9.0", True), ("8.0", False), ("10.0", False)])
def test_other_gpus_are_refused(capability, fits, monkeypatch):
    if REFUSAL is not None:
        pytest.skip(REFUSAL)
    device = type("Device", (), {"compute_capability": capability})
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda *_: [device])
    refusal = PERSISTENT.refuses(LSTM(I, H), SPEC) or ""
    assert (not refusal) == fits
    assert fits or f"needs a Hopper GPU (9.0), got compute capability {capability}" in refusal


def test_sizes():
    """The blocks of a cluster, and that no accepted size needs more memory than a block has."""
    lstm, gru = (4, 4, 2), (3, 4, 1)
    found = {
        (size, cell): size_of(size, *cell) for size in range(32, 1025, 32) for cell in (lstm, gru)
    }
    accepted = {key: size.blocks for key, size in found.items() if size is not None}
    blocks = {64: 1, 128: 1, 192: 3, 256: 4}
    assert accepted == {(size, cell): n for size, n in blocks.items() for cell in (lstm, gru)}
    for (_, cell), size in found.items():
        assert size is None or size.shared(*cell) <= SHARED
    assert Size(256, 2).groups == 2 and Size(192, 3).groups == 1


@pytest.mark.parametrize("name", CELLS)
def test_the_pointwise_part_is_that_of_the_cell(name):
    cell = CELLS[name](I, 4)
    vectors = ["b_hn"] if name == "gru" else []
    params = jax.tree.map(jnp.asarray, draw_like(cell.param_specs(), 1))
    state = jax.tree.map(jnp.asarray, draw_like(cell.initial_state((3,)), 2))
    leaves, structure = jax.tree.flatten(state)
    gates = [jnp.asarray(a) for a in draw_like([leaves[0]] * 4, 3)]
    d_results = [jnp.asarray(a) for a in draw_like([*leaves, leaves[0]], 4)]
    found = pointwise(cell, params, vectors)

    def one(given, gates, leaves):
        p = params._replace(**given)
        new = cell.update(p, tuple(gates), jax.tree.unflatten(structure, leaves))
        return [*jax.tree.leaves(new), cell.output(p, tuple(gates), new)]

    @jax.jit
    def both():
        given = {name: getattr(params, name) for name in vectors}
        want, pull = jax.vjp(one, given, gates, leaves)
        columns = lambda arrays: [a.T for a in arrays]  # noqa: E731
        repeated = [jnp.repeat(a[:, None], 3, 1) for a in given.values()]
        inputs = repeated, columns(gates), columns(leaves)
        backward = found.backward(*inputs, columns(d_results))
        n = len(vectors)
        got = columns(found.forward(*inputs)), [a.sum(-1) for a in backward[:n]], backward[n:]
        return jax.tree.leaves((got[0], got[1], columns(got[2]))), [
            *want, *jax.tree.leaves(pull(d_results))
        ]  # fmt: skip

    got, want = both()
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_a_cell_whose_update_is_not_pointwise_is_refused():
    cell = seqjax.cells.ProjectedLSTM(I, 4, proj_size=4)
    with pytest.raises(NotImplementedError, match="expected a pointwise update"):
        pointwise(cell, cell.param_specs(), [])
