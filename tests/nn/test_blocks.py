"""The residual blocks: equal to NumPy, to their steps and in streams; their dropout and errors."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqjax import nn
from seqjax.streaming import Session
from tests.cases import assert_close, draw_like, mask_of, with_garbage
from tests.nn import block_twins as twins
from tests.nn.helpers import drawn, float64, jit, random, run

B, T, SIZE, HIDDEN = 3, 7, 4, 6
RNGS = nnx.Rngs(0)
BLOCKS: dict[str, Any] = {
    "lru": functools.partial(nn.LRUBlock, SIZE, HIDDEN),
    "s5": functools.partial(nn.S5Block, SIZE, HIDDEN, num_blocks=2, bidirectional=True),
    "sru": functools.partial(nn.SRUBlock, SIZE, highway_bias=-1.0),
    "griffin": functools.partial(nn.GriffinBlock, SIZE, HIDDEN, num_heads=2),
    "slstm": functools.partial(nn.SLSTMBlock, SIZE, num_heads=2),
}
ONE_WAY = BLOCKS | {"s5": functools.partial(nn.S5Block, SIZE, HIDDEN)}
each_block: Any = pytest.mark.parametrize("name", BLOCKS)


def made(name: str, table: Any = BLOCKS, **options: Any) -> Any:
    """A block of random parameters."""
    return drawn(lambda: table[name](rngs=nnx.Rngs(0), **options))


def batch_of(block: Any, seed: int = 3) -> tuple[Any, dict[str, Any]]:
    """Random inputs with NaN as padding, and a mask, resets and a state."""
    mask = mask_of((B,), T)
    mask[0, -2:] = True, False
    resets = np.random.default_rng(seed).random((B, T)) < 0.25
    xs = with_garbage(random(B, T, SIZE, seed=seed), mask)
    state = draw_like(block.initial_state(B), seed + 1, 0.5)
    return xs, {"mask": mask, "resets": resets, "initial_state": state}


def params_of(block: Any) -> Any:
    return nnx.to_pure_dict(nnx.state(block, nnx.Param))


@pytest.mark.quick("lru")
@each_block
def test_values_states_and_derivatives_are_those_of_numpy(name):
    """With holes in the mask, resets and a state. The derivative is one along a random line."""
    block = made(name)
    xs, options = batch_of(block)
    params, state = params_of(block), options.pop("initial_state")
    point = params, np.nan_to_num(xs, posinf=0.0), state
    line = draw_like(point, 9)

    @jit
    def along(point, line, garbage):
        def ran(params, xs, state):
            graph, rest = nnx.split(block)
            nnx.replace_by_pure_dict(rest, params)
            xs = jnp.where(options["mask"][..., None], xs, garbage)
            return tuple(nnx.merge(graph, rest)(xs, initial_state=state, **options))

        return jax.jvp(ran, point, line)

    with jax.numpy_rank_promotion("raise"):
        found = along(point, line, xs)

    def twin(step):
        moved = jax.tree.map(lambda a, d: float64(a) + step * float64(d), point, line)
        ys, final = getattr(twins, name)(block, moved[0], moved[1], moved[2], **options)
        return ys * options["mask"][..., None], final

    assert_close(found[0], twin(0.0), 1e-5, 1e-5)
    ahead, behind = twin(1e-5), twin(-1e-5)
    slope = jax.tree.map(lambda a, b: (a - b) / 2e-5, ahead, behind)
    assert_close(found[1], slope, 1e-4, 1e-4)
    assert found[0][0].shape == xs.shape


@pytest.mark.quick("griffin")
@each_block
def test_chunks_and_steps_are_the_whole(name):
    block = made(name, ONE_WAY)
    xs, resets = random(B, T, SIZE), np.random.default_rng(1).random((B, T)) < 0.3

    @jit
    def both(block, xs, resets):
        def one(state, now):
            output, state = block.step(now[0], state, resets=now[1])
            return state, output

        start = block.initial_state(B)
        state, outputs = jax.lax.scan(one, start, (xs.swapaxes(0, 1), resets.T))
        first = block(xs[:, :3], resets=resets[:, :3])
        rest = block(xs[:, 3:], resets=resets[:, 3:], initial_state=first.state)
        chunks = jnp.concatenate([first.outputs, rest.outputs], axis=1), rest.state
        return block(xs, resets=resets), (outputs.swapaxes(0, 1), state), chunks

    whole, steps, chunks = both(block, xs, resets)
    assert_close(steps, tuple(whole), 1e-5, 1e-5)
    assert_close(chunks, tuple(whole), 1e-5, 1e-5)


@pytest.mark.quick()
@each_block
def test_streams(name):
    block = made(name, ONE_WAY)
    xs = random(2, 5, SIZE)
    session = Session(block, capacity=2)
    for stream in (0, 1):
        session.open(stream)
    found = session.feed({0: xs[0, :3], 1: xs[1]})
    rest = session.feed({0: xs[0, 3:]})
    want = run(block, xs).outputs
    assert_close(found[1], want[1], 1e-5, 1e-5)
    assert_close(np.concatenate([found[0], rest[0]]), want[0], 1e-5, 1e-5)


@pytest.mark.quick()
@each_block
def test_half_precision(name):
    """The dtype of the inputs is that of the outputs, and `dtype` casts the inputs."""
    block = made(name, ONE_WAY)
    xs = random(B, T, SIZE)
    want = run(block, xs).outputs
    half = run(block, jnp.asarray(xs, jnp.bfloat16)).outputs
    assert half.dtype == jnp.bfloat16
    assert_close(half, want, 0.1, 0.1)
    made_half = made(name, ONE_WAY, dtype=jnp.bfloat16)
    assert_close(run(made_half, xs).outputs, half, 0, 0)
    small = jax.eval_shape(
        lambda: ONE_WAY[name](rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16)(
            jnp.ones([2, 3, SIZE], jnp.bfloat16)
        )
    )
    assert small.outputs.dtype == jnp.bfloat16


class Plain(nn.ResidualBlock):
    """A block of one's own around a GRU."""

    def __init__(self, **options: Any) -> None:
        super().__init__(SIZE, nnx.LayerNorm, **options)
        self.layer = nn.GRU(SIZE, SIZE, rngs=options["rngs"])

    def mix(self, xs, state, drop, **steps):
        return self.layer(xs, initial_state=state, **steps)


def test_dropout_drops_the_same_features_at_every_step():
    block = drawn(lambda: Plain(dropout=0.5, rngs=nnx.Rngs(0)))
    xs = random(50, T, SIZE)
    ys = np.asarray(run(block, xs, rngs=jax.random.key(0)).outputs) - xs
    kept = (ys != 0).all(axis=1)
    assert (kept | (ys == 0).all(axis=1)).all() and 0.35 < kept.mean() < 0.65
    full = np.asarray(run(block, xs, deterministic=True).outputs) - xs
    assert_close(ys, 2 * full * kept[:, None], 1e-5, 1e-5)
    with pytest.raises(ValueError, match=r"rngs: expected .* in training with dropout, got None"):
        block(xs)
    block.eval()
    assert_close(run(block, xs).outputs, full + xs, 0, 0)


def test_dropout_of_the_sru_leaves_the_highway_connection():
    block = made("sru", dropout=0.5)
    xs = random(50, T, SIZE)
    (read, rest), _ = run(block.layer, np.asarray(block.norm(xs)))
    skip = rest * block.alpha * xs
    ys = np.asarray(run(block, xs, rngs=jax.random.key(0)).outputs)
    dropped, kept = (
        np.isclose(ys, each, atol=1e-5).all(axis=1) for each in (skip, skip + 2 * read)
    )
    assert (dropped | kept).all() and 0.35 < kept.mean() < 0.65


@pytest.mark.quick()
@pytest.mark.parametrize("name", ["lru", "s5"])
def test_dropout_acts_before_and_behind_the_gate(name):
    """If the gates are constant, the two masks of a feature are 0 or 2 each."""
    block = made(name, ONE_WAY, dropout=0.5)
    gate = block.out if name == "lru" else block.gate
    gate.kernel[...] = jnp.zeros_like(gate.kernel[...])
    if name == "lru":  # the first half of the columns is the value
        gate.kernel[...] = gate.kernel[...].at[:, :SIZE].set(jnp.eye(SIZE))
        gate.bias[...] = gate.bias[...].at[:SIZE].set(0.0)
    xs = random(200, 2, SIZE)
    full = np.asarray(run(block, xs, deterministic=True).outputs) - xs
    ys = np.asarray(run(block, xs, rngs=jax.random.key(0)).outputs) - xs
    dropped, kept = (np.isclose(ys, each, atol=1e-5).all(axis=1) for each in (0 * full, 4 * full))
    assert (dropped | kept).all() and 0.15 < (kept & ~dropped).mean() < 0.35


def test_blocks_stack_and_train():
    """Gradients of a stack reach every parameter."""
    blocks = [made(name, ONE_WAY) for name in ("lru", "sru")]

    @jit
    def gradient(blocks, xs):
        def loss(blocks):
            ys = xs
            for block in blocks:
                ys, _ = block(ys)
            return jnp.square(ys).mean()

        return jax.grad(loss)(blocks)

    for leaf in jax.tree.leaves(gradient(blocks, random(B, T, SIZE))):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


def test_sizes_and_defaults():
    made_by_name = {
        name: nnx.eval_shape(lambda n=name: BLOCKS[n](rngs=nnx.Rngs(0))) for name in BLOCKS
    }
    griffin, slstm = made_by_name["griffin"], made_by_name["slstm"]
    assert griffin.mlp.down.kernel.shape == (3 * SIZE, SIZE)
    assert slstm.mlp.down.kernel.shape == (6, SIZE)  # 4/3 of 4, rounded up
    assert slstm.mlp.up.bias is None and slstm.norm.bias is None
    assert griffin.conv.kernel.shape == (4, HIDDEN) and slstm.conv.kernel.shape == (4, SIZE)
    assert slstm.layer.cell.head_norm and made_by_name["lru"].layer.cell.output_shape == (SIZE,)
    default: Any = nnx.eval_shape(lambda: nn.SLSTMBlock(8, rngs=nnx.Rngs(0)))
    assert default.layer.cell.num_heads == 4
    other: Any = nnx.eval_shape(
        lambda: nn.GriffinBlock(4, 6, conv_width=2, mlp_size=5, rngs=jax.random.key(0))
    )
    assert other.mlp.down.kernel.shape == (5, 4)
    assert other.initial_state(3).window.shape == (3, 1, 6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.LRUBlock(4, 6), TypeError, r"rngs: expected nnx.Rngs\(0\) or a random key"),
        (lambda: nn.LRUBlock(0, 6, rngs=RNGS), ValueError, "input_size: expected a positive"),
        (
            lambda: nn.LRUBlock(4, 6, output_size=3, rngs=RNGS),
            TypeError,
            "LRUBlock: got an option it does not have, 'output_size'",
        ),
        (lambda: nn.S5Block(4, 6, num_block=2, rngs=RNGS), TypeError, "did you mean 'num_blocks'"),
        (lambda: nn.SRUBlock(4, dropout=1.0, rngs=RNGS), ValueError, "dropout: expected"),
        (lambda: nn.SLSTMBlock(6, rngs=RNGS), ValueError, "divisor of hidden_size=6, got 4"),
        (lambda: nn.GriffinBlock(4, 6, mlp_size=0, rngs=RNGS), ValueError, "mlp_size: expected"),
        (
            lambda: nn.GriffinBlock(4, 6, conv_width=0, rngs=RNGS),
            ValueError,
            "conv_width: expected",
        ),
        (lambda: nn.SRUBlock(4, norm="rms", rngs=RNGS), TypeError, "does not have, 'norm'"),
        (
            lambda: made("griffin")(jnp.ones([2, 3, 5])),
            ValueError,
            r"xs: expected \[..., T, 4\] for input_size=4, got \(2, 3, 5\)",
        ),
        (
            lambda: made("griffin")(jnp.ones([2, 3, 4]), initial_state=jnp.ones([2, 6])),
            ValueError,
            r"initial_state: expected BlockState\(window, recurrent\), got \(2, 6\)",
        ),
        (
            lambda: made("griffin").step(jnp.ones([2, 3])),
            ValueError,
            r"x_t: expected \[..., 4\], got \(2, 3\)",
        ),
        (lambda: made("s5").step(jnp.ones([2, 4])), ValueError, "step: a bidirectional layer"),
        (lambda: Session(made("s5")), ValueError, "got a bidirectional layer"),
        (
            lambda: made("lru")(jnp.ones([2, 3, 4]), deterministic=1),
            TypeError,
            "deterministic: expected a bool",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
