"""The table says what is there: counts by hand, FLOPs by formula and by XLA, nothing computed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import Summary, cells, nn, summary
from tests.seq2seq.helpers import translator

B, T, I, H = 3, 20, 12, 16


class Tagger(nnx.Module):
    """A user's model: an embedding, our layer, dropout and a readout."""

    def __init__(self, rngs):
        self.recurrent = nn.GRU(8, H, bidirectional=True, dropout=0.1, rngs=rngs)
        self.embed = nnx.Embed(100, 8, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.readout = nnx.Linear(2 * H, 5, rngs=rngs)

    def __call__(self, tokens, lengths, *, scale=1.0):
        outputs = self.recurrent(self.embed(tokens), lengths=lengths).outputs
        return {"logits": scale * self.readout(self.drop(outputs))}


def by_path(found: Summary):
    return {row.path: row for row in found.rows}


def test_two_bidirectional_lstm_layers_by_hand(capsys):
    layer = nn.LSTM(I, H, num_layers=2, bidirectional=True, dropout=0.5, rngs=nnx.Rngs(0))
    found = summary(layer, jax.ShapeDtypeStruct((B, T, I), jnp.float32))
    assert capsys.readouterr().out == f"{found}\n"
    rows = by_path(found)
    assert list(rows) == [
        "", "layers.0", "layers.0.forward", "layers.0.backward",
        "layers.1", "layers.1.forward", "layers.1.backward",
    ]  # fmt: skip
    first = I * 4 * H + H * 4 * H + 4 * H
    second = 2 * H * 4 * H + H * 4 * H + 4 * H
    assert rows["layers.0.backward"].parameters == first
    assert rows["layers.1.forward"].parameters == second
    assert found.total.parameters == 2 * (first + second)
    assert found.total.parameter_bytes == 4 * found.total.parameters
    steps = 2 * B * T  # a multiply-add is two
    assert rows["layers.0.forward"].flops == steps * (I + H) * 4 * H
    assert rows["layers.1"].flops == 2 * steps * (2 * H + H) * 4 * H
    assert found.total.flops == 2 * steps * (I + H + 2 * H + H) * 4 * H
    assert rows["layers.0"].output.shape == (B, T, 2 * H)
    assert rows["layers.0.forward"].output.shape == (B, T, H)
    assert rows[""].output.dtype == jnp.float32
    row = rows["layers.1.backward"]
    xs = jax.ShapeDtypeStruct((B, T, 2 * H), jnp.float32)
    assert row.plan == seqjax.explain(cells.LSTM(2 * H, H), xs)
    assert row.kept_bytes == row.plan.stored_bytes + 4 * B * T * H  # and its outputs
    assert found.total.kept_bytes == sum(r.kept_bytes for r in rows.values() if r.plan)


def test_a_users_model_in_the_order_of_its_calls():
    model = Tagger(nnx.Rngs(0))
    tokens, lengths = jnp.ones([B, T], int), np.full(B, T)
    found = summary(model, (tokens, lengths), scale=2.0)
    rows = by_path(found)
    assert list(rows) == [
        "", "embed", "recurrent", "recurrent.layers.0", "recurrent.layers.0.forward",
        "recurrent.layers.0.backward", "drop", "readout",
    ]  # fmt: skip
    assert rows["embed"].parameters == 800 and rows["embed"].flops == 0
    assert rows["readout"].flops == 2 * B * T * 2 * H * 5
    assert rows["readout"].kept_bytes == 4 * B * T * 5
    assert rows["recurrent"].flops == 2 * 2 * B * T * (8 + H) * 3 * H
    assert found.total.flops == rows["readout"].flops + rows["recurrent"].flops
    assert rows[""].output["logits"].shape == (B, T, 5)
    assert rows["recurrent.layers.0.forward"].type == "GRU"
    assert rows["recurrent.layers.0"].type == "Layer"
    text = str(found)
    plan = rows["recurrent.layers.0.forward"].plan
    assert plan and f"{plan.kernel}: " in text
    assert max(map(len, text.splitlines())) <= 100
    assert model.recurrent.deterministic is False and type(model.readout) is nnx.Linear


def test_a_long_model_path_is_cut_to_a_terminal():
    class Deep(nnx.Module):
        def __init__(self):
            name = "a_very_long_name_for_an_attribute_of_a_module"
            setattr(self, name, nn.Recurrent(cells.LayerNormLSTM(I, H), rngs=nnx.Rngs(0)))

        def __call__(self, xs):
            (layer,) = (v for v in vars(self).values() if isinstance(v, nn.Recurrent))
            return layer(xs).outputs

    found = summary(Deep(), jnp.ones([1, 2, 3, B, T, I]))
    assert max(map(len, str(found).splitlines())) <= 100
    assert "…" in str(found)


@pytest.mark.quick()
def test_an_encoder_decoder_counts_its_loops():
    model = translator(cell="gru")
    sources, targets = jnp.ones([2, 6], int), jnp.ones([2, 8], int)
    rows = by_path(summary(model, (sources, targets)))
    twice = by_path(summary(model, (sources, jnp.ones([2, 16], int))))
    # The decoder's `combine` is called in each of 8 steps: [2, S + H] times [S + H, H].
    combine: Any = model.decoder.combine
    width = combine.kernel.shape
    assert rows["decoder.combine"].flops == 8 * 2 * 2 * width[0] * width[1]
    assert twice["decoder.combine"].flops == 2 * rows["decoder.combine"].flops
    assert twice["decoder.combine"].kept_bytes == 2 * rows["decoder.combine"].kept_bytes
    assert rows["encoder"].flops == 2 * 2 * 2 * 6 * (4 + 5) * 15
    assert rows[""].flops == rows["encoder"].flops + rows["decoder"].flops + rows["bridge"].flops


def test_flops_agree_with_xla_where_loops_are_unrolled():
    cell = cells.LSTM(32, 64)
    params = cell.init(jax.random.key(0))
    xs = jnp.ones([8, 3, 32])

    def steps(params, xs):  # XLA counts a loop's body once, so there is none
        state = cell.initial_state((8,))
        for t in range(3):
            _, state = cell.step(params, xs[:, t], state)
        return state

    cost: Any = jax.jit(steps).lower(params, xs).compile().cost_analysis()
    found = summary(nn.Recurrent(cell, rngs=nnx.Rngs(0)), xs).total.flops
    assert found == 2 * 8 * 3 * (32 + 64) * 256
    pointwise = cost["flops"] - found  # XLA counts that, too: some operations a gate and unit
    assert 0 < pointwise < 30 * 8 * 3 * 64


def test_a_convolutions_flops():
    cell = cells.ConvLSTM2D(2, 4, spatial_shape=(6, 5), kernel_size=3, padding="VALID")
    found = summary(nn.Recurrent(cell, rngs=nnx.Rngs(0)), jnp.ones([B, T, 6, 5, 2]))
    of_input, of_state = 3 * 3 * 2, 3 * 3 * 4
    assert found.total.flops == 2 * B * T * (4 * 3) * 16 * (of_input + of_state)


def test_a_while_loop_and_a_branch():
    class Loops(nnx.Module):
        def __init__(self):
            self.linear = nnx.Linear(4, 4, use_bias=False, rngs=nnx.Rngs(0))

        def __call__(self, x):
            w = self.linear.kernel[...]
            x = jax.lax.cond(x.sum() > 0, lambda x: x @ w @ w, lambda x: x @ w, x)
            return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ w, x)

    found = summary(Loops(), jnp.ones([2, 4]))
    assert found.total.flops == 3 * 2 * 2 * 4 * 4 and found.loops_of_unknown_length == 1
    assert "Loops of unknown length: 1" in str(found)


def test_nothing_is_computed():
    """Models and inputs of shapes alone, too large for any machine, in no time."""
    model = nnx.eval_shape(lambda: nn.LSTM(2**14, 2**15, num_layers=2, rngs=nnx.Rngs(0)))
    xs = jax.ShapeDtypeStruct((1024, 10**5, 2**14), jnp.bfloat16)
    found = summary(model, xs)
    width = 4 * 2**15
    assert found.total.parameters == width * (2**14 + 3 * 2**15 + 2)
    assert found.total.flops == 2 * 1024 * 10**5 * width * (2**14 + 3 * 2**15)
    plan = found.rows[2].plan
    assert plan and plan.remat == "chunk" and "fused, chunk" in str(found)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (
            jnp.ones([B, T, I + 1]),
            r"example: expected arguments for a call of GRU, got .*input_size",
        ),
        ((), r"example: expected arguments for a call of GRU, got nothing: .*xs"),
        (jnp.ones([B, T, I], int), r"example: .*floating-point"),
    ],
)
def test_wrong_examples(example, message):
    layer = nn.GRU(I, H, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=message):
        summary(layer, example)


def test_what_is_no_module():
    with pytest.raises(TypeError, match=r"model: expected an nnx\.Module"):
        summary(cells.GRU(3, 5), jnp.ones([2, 3]))  # type: ignore[arg-type]


def test_a_call_that_is_compiled_has_its_output():
    class Compiled(nnx.Module):
        def __init__(self):
            self.inner = Tagger(nnx.Rngs(0))

        @staticmethod
        def doubled(outputs):
            return jax.tree.map(lambda a: 2.0 * a, outputs)

        @nnx.jit
        def __call__(self, tokens, lengths):
            return self.doubled(self.inner(tokens, lengths))

    tokens, lengths = jnp.ones([B, T], int), jnp.full(B, T)
    found, plain = (summary(m, (tokens, lengths)) for m in (Compiled(), Tagger(nnx.Rngs(0))))
    assert found.total.output["logits"].shape == (B, T, 5)
    assert found.total.flops == plain.total.flops
    assert found.total.kept_bytes == plain.total.kept_bytes


def test_what_a_subclass_puts_in_place_of_a_method_stays():
    class Doubled(Tagger):
        @property
        def __call__(self):  # any object that can be called will do
            return lambda tokens: 2.0 * self.embed(tokens)

    assert summary(Doubled(nnx.Rngs(0)), jnp.ones([B, T], int)).total.flops == 0


def test_a_module_of_which_other_methods_are_called():
    model = translator(cell="gru")
    found = summary(model, (jnp.ones([2, 6], int), jnp.ones([2, 8], int)))
    rows = by_path(found)
    logits, weights = rows["decoder"].output  # of `teacher_forced`, the last that gave arrays
    assert logits.shape == (2, 8, 9) and weights.shape == (2, 8, 6)
    # It steps its cell and its attention itself, and has their FLOPs.
    assert rows["decoder.layers.0"].output is None and rows["decoder.mechanism"].output is None
    inner = sum(row.flops for path, row in rows.items() if path.startswith("decoder."))
    assert rows["decoder"].flops > inner > 0
    assert "Without output: not called as a module." in str(found)
    assert max(map(len, str(found).splitlines())) <= 100
    layer = nn.GRU(I, H, rngs=nnx.Rngs(0))
    assert "Without output" not in str(summary(layer, jnp.ones([B, T, I])))


def test_a_module_inside_vmap_is_said_to_be():
    class Mapped(nnx.Module):
        def __init__(self):
            self.inner = nn.GRU(I, H, rngs=nnx.Rngs(0))

        def __call__(self, xs):
            return jax.vmap(lambda x: self.inner(x).outputs)(xs)

    found = summary(Mapped(), jnp.ones([B, T, I]))
    assert found.total.flops == 2 * B * T * (I + H) * 3 * H  # of all examples
    assert found.mapped and "Inside jax.vmap, outputs and kept bytes are those of" in str(found)
    assert not summary(Mapped().inner, jnp.ones([B, T, I])).mapped


@pytest.mark.parametrize("lengths", [[9, 2], np.array([9, 2]), jnp.array([9, 2])])
def test_lengths_that_a_call_would_refuse(lengths):
    layer, xs = nn.GRU(I, H, rngs=nnx.Rngs(0)), jax.ShapeDtypeStruct((2, 6, I), jnp.float32)
    with pytest.raises(ValueError, match="lengths: expected 0 to 6, the number of steps, got 2 to"):
        summary(layer, xs, lengths=lengths)
    assert summary(layer, xs, lengths=jax.ShapeDtypeStruct((2,), jnp.int32)).total.flops


def test_bytes_are_told_in_powers_of_1024():
    class Large(nnx.Module):
        def __init__(self):
            self.kernel = nnx.Param(jnp.zeros([1024, 512]))

        def __call__(self, x):
            return x @ self.kernel[...]

    text = str(summary(Large(), jnp.ones([1000, 1024])))
    assert "(2.0 MiB)" in text and "FLOPs: 1.0 G forward" in text
    assert "3.9 MiB" not in text and " MB" not in text and " kB" not in text
