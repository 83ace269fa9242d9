"""Errors of `load` and `dump` for the layers of single papers. Each error names the array."""

import jax
import numpy as np
import pytest
from flax import nnx

from seqjax import nn
from seqjax.interop import minimal_lru, recurrentgemma, s5, sru, xlstm
from tests.interop.papers import (
    Arrays,
    lru_arrays,
    new,
    rg_lru_arrays,
    s5_arrays,
    sru_arrays,
    xlstm_arrays,
)
from tests.nn.helpers import drawn


def without(arrays: Arrays, key: str) -> Arrays:
    return {name: array for name, array in arrays.items() if name != key}


@pytest.mark.parametrize(
    ("load", "arrays", "message"),
    [
        (sru.load, sru_arrays(3, 5) | {"scale_x": np.array([1e300])}, r"scale_x: .* below 1e\+18"),
        (minimal_lru.load, without(lru_arrays(), "D"), r"D: expected B_re, .*; it is missing"),
        (minimal_lru.load, lru_arrays() | {"E": np.ones(3)}, "E: expected B_re, .*; this name is"),
        (
            minimal_lru.load,
            lru_arrays() | {"C_im": np.ones((4, 3))},
            r"C_im: expected the shape \(3, 4\), got \(4, 3\)",
        ),
        (minimal_lru.load, lru_arrays() | {"B_re": np.ones(4)}, "B_re: expected 2 axes, got"),
        (minimal_lru.load, lru_arrays() | {"B_re": np.ones((0, 3))}, "B_re: expected no empty"),
        (
            minimal_lru.load,
            lru_arrays() | {"D": np.ones(3, int)},
            "D: expected floating-point numbers, got int64",
        ),
        (
            recurrentgemma.load,
            rg_lru_arrays() | {"a_param": np.ones(5)},
            r"a_param: expected the shape \(6,\), got \(5,\)",
        ),
        (
            recurrentgemma.load,
            rg_lru_arrays() | {"input_gate.w": np.ones((3, 2, 2))},
            r"input_gate\.w: expected the shape \(2, 3, 3\), got \(3, 2, 2\)",
        ),
        (
            recurrentgemma.load,
            rg_lru_arrays() | {"a_imag_param": np.ones(6)},
            r"a_imag_param: expected a_gate\.w, .*; this name is unknown",
        ),
        (
            s5.load,
            without(s5_arrays("C1", "C2"), "C2"),
            "C2: expected B, .*, C1, C2; it is missing",
        ),
        (
            s5.load,
            s5_arrays() | {"log_step": np.ones(4)},
            r"log_step: expected 2 axes, got the shape \(4,\)",
        ),
        (sru.load, sru_arrays(), "bidirectional: expected True or False, since 4 units in bias"),
        (
            sru.load,
            {f"a.{k}": a for k, a in sru_arrays(3, 5).items()},
            r"a\.bias: expected weight, .*; this name is unknown",
        ),
        (
            sru.load,
            sru_arrays(3, 5) | {"weight": np.ones((3, 15))},
            r"weight: expected the shape \(3, 20\), got \(3, 15\); an SRU with has_skip_term=False",
        ),
        (
            sru.load,
            sru_arrays(3, 5) | {"weight_proj": np.ones((3, 2))},
            r"weight: expected the shape \(2, 20\), got \(3, 20\)",
        ),
        (
            sru.load,
            sru_arrays(3, 5) | {"layer_norm.weight": np.ones(5)},
            r"layer_norm\.weight: expected an SRU without layer_norm",
        ),
        (
            sru.load,
            sru_arrays(3, 5) | {"weight": np.ones((3, 20), int)},
            "weight: expected floating-point numbers, got int64",
        ),
        (sru.load, without(sru_arrays(3, 5), "scale_x"), "scale_x: expected weight, .* missing"),
        (
            sru.load,
            sru_arrays(3, 5, 0.5),
            r"scale_x: expected a number of 1 or more .*, got 0\.5",
        ),
        (
            sru.load,
            {"rnn_lst.1." + k: a for k, a in sru_arrays(3, 5).items()},
            r"rnn_lst\.0\.weight: expected .*; it is missing",
        ),
        (
            lambda arrays: sru.load(arrays, bidirectional=True),
            sru_arrays(4, 8),
            "weight: expected scale_x times the identity matrix",
        ),
        (xlstm.load, without(xlstm_arrays(), "igate.weight"), r"igate\.weight: expected .*missing"),
        (
            xlstm.load,
            xlstm_arrays() | {"zgate.weight": np.ones((1, 6, 6))},
            r"zgate\.weight: expected the shape \(2, 3, 3\), got \(1, 6, 6\)",
        ),
        (
            lambda arrays: xlstm.load(arrays, forget_gate="exponential"),
            xlstm_arrays(),
            "forget_gate: expected 'sigmoid' as in source, got 'exponential'",
        ),
        (
            lambda arrays: minimal_lru.load(arrays, hidden_size=4),
            lru_arrays(),
            "hidden_size: expected no such option, since the source determines it, got 4",
        ),
        (
            lambda arrays: minimal_lru.load(arrays, norm="layer"),
            lru_arrays(),
            "norm: expected no such option of a new layer",
        ),
        (minimal_lru.load, lru_arrays() | {"D": np.full(3, 1e300)}, "D: expected numbers that fit"),
    ],
)
def test_sources_that_are_refused(load, arrays, message):
    with pytest.raises(ValueError, match="^" + message):
        load(arrays)


def test_layers_to_fill_that_do_not_fit():
    for load, arrays, make, message in (
        (minimal_lru.load, lru_arrays(), new(nn.RGLRU, 3, 4), "into: expected a layer of LRU"),
        (
            minimal_lru.load,
            lru_arrays(),
            new(nn.LRU, 3, 5, output_size=3),
            r"B_re: expected the shape \(5, 3\), got \(4, 3\)",
        ),
        (
            minimal_lru.load,
            lru_arrays(),
            new(nn.LRU, 3, 4),
            "into: expected output_size=3, as cells of minimal-LRU have, got 4",
        ),
        (
            recurrentgemma.load,
            rg_lru_arrays(),
            new(nn.RGLRU, 6, 6),
            r"a_gate\.w: expected the shape \(1, 6, 6\), got \(2, 3, 3\)",
        ),
        (
            s5.load,
            s5_arrays("C1", "C2"),
            new(nn.S5, 3, 4),
            "into: expected merge_mode='sum' as in source, got 'concat'",
        ),
        (
            sru.load,
            sru_arrays(),
            new(nn.SRU, 3, 4),
            "into: expected rescale=False as in source, got True",
        ),
        (
            sru.load,
            sru_arrays(),
            new(nn.SRU, 3, 6, rescale=False),
            r"weight: expected the shape \(3, 24\), got \(3, 16\)",
        ),
        (
            xlstm.load,
            xlstm_arrays(),
            new(nn.SLSTM, 12, 6, num_heads=2, head_norm=True),
            "into: expected input_size=6, as cells of xlstm have, got 12",
        ),
        (
            xlstm.load,
            xlstm_arrays(),
            new(nn.SLSTM, 6, 6, num_heads=2),
            "into: expected head_norm=True, as cells of xlstm have, got False",
        ),
    ):
        into = nnx.eval_shape(make)  # no values are needed
        before = jax.tree.leaves(nnx.state(into))
        with pytest.raises(ValueError, match="^" + message):
            load(arrays, into=into)
        assert all(a is b for a, b in zip(before, jax.tree.leaves(nnx.state(into)), strict=True))


def test_layers_that_a_library_lacks():
    for dump, make, message in (
        (minimal_lru.dump, new(nn.S5, 3, 4), "layer: expected a cell that minimal-LRU has"),
        (minimal_lru.dump, new(nn.LRU, 3, 4), "layer: expected output_size=3, as cells of"),
        (
            minimal_lru.dump,
            new(nn.LRU, 3, 3, num_layers=2),
            "layer: expected one layer of one direction, as minimal-LRU has, got num_layers=2",
        ),
        (recurrentgemma.dump, new(nn.RGLRU, 3, 6), "layer: expected input_size=6, as cells"),
        (recurrentgemma.dump, new(nn.RGLRU, 6, 6, zoneout=0.1), "layer: .* with zoneout"),
        (
            s5.dump,
            new(nn.S5, 3, 4, bidirectional=True, merge_mode="sum"),
            r"layers\[0\]\.backward: expected the Lambda_re of the forward direction",
        ),
        (
            s5.dump,
            new(nn.S5, 3, 4, bidirectional=True),
            "layer: expected merge_mode='sum', as bidirectional layers of S5 have, got 'concat'",
        ),
        (
            sru.dump,
            new(nn.SRU, 3, 4, num_layers=2, bidirectional=True),
            r"layers\[1\]\.forward\.w_ih, layers\[1\]\.backward\.w_ih: expected matrices W_h",
        ),
        (
            sru.dump,
            new(nn.SRU, 3, 4, bidirectional=True, merge_mode="sum"),
            "layer: expected options that sru supports, got a layer with merge_mode='sum'",
        ),
        (
            xlstm.dump,
            new(nn.SLSTM, 6, 6, num_heads=2, head_norm=True),
            r"layers\[0\]\.forward\.w_ih: expected zeros wherever a gate of one head reads",
        ),
        (xlstm.dump, new(nn.SLSTM, 6, 6, num_heads=2), "layer: expected head_norm=True"),
        (xlstm.dump, new(nn.SLSTM, 9, 6, head_norm=True), "layer: expected input_size=6"),
    ):
        layer = drawn(make)
        with pytest.raises(ValueError, match="^" + message):
            dump(layer)
    for dump in (minimal_lru.dump, recurrentgemma.dump, s5.dump, sru.dump, xlstm.dump):
        with pytest.raises(TypeError, match=r"layer: expected a seqjax\.nn\.Recurrent, got 3"):
            dump(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="backend: expected one of vanilla, cuda; got 'cpu'"):
        xlstm.dump(xlstm.load(xlstm_arrays()), backend="cpu")  # type: ignore[arg-type]
