"""A walk over the public surface: one convention for names, arguments and results.

`tests/test_public_api.py` says which names are public and that they are documented.
"""

import ast
import collections
import inspect
import itertools
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import (
    cells,
    crf,
    ctc,
    export,
    forecasting,
    interop,
    kernels,
    losses,
    metrics,
    nn,
    seq2seq,
    transducer,
)
from tests.test_public_api import MODULES, NAMES, methods_of

B, T, I, H, C = 2, 3, 4, 5, 6
Kind = inspect.Parameter


def _signatures() -> dict[str, inspect.Signature]:
    """The signatures of all public functions, constructors and methods, by name."""
    found = {}
    for name, obj in NAMES.items():
        if isinstance(obj, type):
            if not issubclass(obj, tuple | Exception):
                found[name] = inspect.signature(obj.__init__)
            for method in methods_of(obj):
                member = inspect.getattr_static(obj, method)
                if callable(member) or isinstance(member, classmethod | staticmethod):
                    found[f"{name}.{method}"] = inspect.signature(getattr(obj, method))
        elif callable(obj):
            found[name] = inspect.signature(obj)
    return found


SIGNATURES = _signatures()


PACKAGES = [module for module in MODULES if hasattr(module, "__path__")]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_the_names_of_a_package_are_those_it_lists(package):
    """A package shows nothing of this library under a public name but what is in `__all__`."""
    shown = {
        name
        for name, obj in vars(package).items()
        if not name.startswith("_") and str(getattr(obj, "__module__", "")).startswith("seqjax")
    }
    assert shown <= set(package.__all__)


# `lengths` and `mask` are the subject of these functions, and so their first arguments.
ABOUT_MASKS = {
    "seqjax.sequences.lengths_to_mask", "seqjax.sequences.mask_to_lengths",
    "seqjax.sequences.previous_real", "seqjax.sequences.require_lengths",
    "seqjax.sequences.require_mask", "seqjax.data.bucket_boundaries",
}  # fmt: skip
# Records of what has been checked, and steps of a cell, which get the mask of one step.
INSIDE = {
    "seqjax.nn.Sequences", "seqjax.data.Windows", "seqjax.kernels.Problem",
    "seqjax.cells.stepping.shown", "seqjax.online.step", "seqjax.forecasting.SeriesTable",
}  # fmt: skip
# Outputs of a decoder have no holes; `require_range` is told by a mask which values count.
ONE_OF_THEM = {"seqjax.decoding.score", "seqjax.checks.require_range"}


def test_lengths_and_mask_are_named_and_in_this_order():
    taking = set()
    for name, signature in SIGNATURES.items():
        given = [p for p in signature.parameters.values() if p.name in ("lengths", "mask")]
        if not given or name in ABOUT_MASKS | INSIDE:
            continue
        taking.add(name)
        assert all(p.kind is Kind.KEYWORD_ONLY and p.default is None for p in given), name
        expected = ["lengths", "mask"] if name not in ONE_OF_THEM else [given[0].name]
        assert [p.name for p in given] == expected, name
    assert len(taking) > 30 and SIGNATURES.keys() >= ABOUT_MASKS | INSIDE | ONE_OF_THEM


def _package(name: str) -> str:
    """The public module that a function, or a class of a method, is listed in."""
    return max((m.__name__ for m in MODULES if name.startswith(f"{m.__name__}.")), key=len)


def test_siblings_take_their_arguments_in_the_same_order():
    """Two functions of a package, or two methods of it, that share two arguments, share the order.

    Constructors count as functions. Arguments by position and by name count apart.
    """
    orders: dict[tuple[Any, ...], list[str]] = collections.defaultdict(list)
    for name, signature in SIGNATURES.items():
        for kind in (Kind.POSITIONAL_OR_KEYWORD, Kind.KEYWORD_ONLY):
            names = [p.name for p in signature.parameters.values() if p.kind is kind]
            for pair in itertools.combinations(names, 2):
                orders[(_package(name), name in NAMES, kind, *pair)].append(name)
    clashes = [
        (first, second, siblings)
        for (*group, first, second), siblings in orders.items()
        if (*group, second, first) in orders
    ]
    assert not clashes and len(orders) > 500


def test_constructors_show_their_options():
    hidden = [
        name
        for name, signature in SIGNATURES.items()
        if isinstance(NAMES.get(name), type)
        and any(p.kind is Kind.VAR_KEYWORD for p in signature.parameters.values())
    ]
    assert hidden == ["seqjax.nn.Carry"]  # an `nnx.Variable`, whose metadata are the user's


def _vector_cells() -> dict[str, Any]:
    return {name: cell(I, H) for name, cell in seqjax.CELLS.items() if not name.startswith("conv")}


@pytest.mark.quick("lstm", "min_gru")
@pytest.mark.parametrize("name", _vector_cells())
def test_outputs_come_before_the_state(name):
    cell = _vector_cells()[name]
    params, xs = cell.init(jax.random.key(0)), jnp.ones((B, T, *cell.input_shape))
    layer = nn.Recurrent(cell, rngs=nnx.Rngs(0))
    state = cell.initial_state(B)
    lead = (B, T)
    for run in (
        lambda: seqjax.unroll(cell, params, xs),
        lambda: layer(xs),
        lambda: nn.Stateful(layer, B)(xs),
        lambda: nn.LinenRecurrent(cell).apply({"params": params._asdict()}, xs),
    ):
        outputs, final = jax.eval_shape(run)
        assert outputs.shape == (*lead, *cell.output_shape)
        final = final[0] if isinstance(final, tuple) and len(final) == 1 else final
        assert jax.tree.map(jnp.shape, final) == jax.tree.map(jnp.shape, state)
    for step in (
        lambda: cell.step(params, xs[:, 0], state),
        lambda: layer.step(xs[:, 0], layer.initial_state(B)),
    ):
        output, final = jax.eval_shape(step)
        assert output.shape == (B, *cell.output_shape)


@pytest.mark.quick("lstm", "min_gru", "conv_lstm_1d")
@pytest.mark.parametrize("name", seqjax.CELLS)
def test_an_initial_state_takes_an_integer_or_a_shape(name):
    cell = seqjax.CELLS[name](I, H)
    layer = nn.Recurrent(cell, rngs=nnx.Rngs(0))
    takers = [
        cell.initial_state,
        layer.initial_state,
        lambda batch_shape: layer.layers[0].initial_state(batch_shape, jnp.float32),
        lambda batch_shape: nn.Stateful(layer, batch_shape).carry,
    ]
    if cell.input_shape == (I,):
        takers.append(seq2seq.Encoder(cell, rngs=nnx.Rngs(0)).initial_state)
    for taker in takers:
        shapes = [jax.tree.map(jnp.shape, taker(batch_shape)) for batch_shape in (2, (2,), [2])]
        assert shapes[0] == shapes[1] == shapes[2]
        assert all(leaf[0] == 2 for leaf in jax.tree.leaves(shapes[0], is_leaf=_is_shape))


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(size, int) for size in value)


def test_the_state_of_an_exported_step_takes_an_integer_or_a_shape():
    artifact = export.export_step(nn.LSTM(I, H, rngs=nnx.Rngs(0)), platforms=["cpu"])
    for batch_shape in (2, (2,), [2]):
        assert artifact.initial_state(batch_shape)["0.h"].shape == (2, H)


LABELS = np.array([[1, 2, 3], [3, 2, 0]])
LENGTHS = np.array([3, 2])
LOGITS = np.random.default_rng(0).normal(size=(B, T, C)).astype(np.float32)
MATRIX = np.zeros((C, C), np.float32)
LOSSES = {
    "seqjax.losses.cross_entropy": lambda **options: losses.cross_entropy(
        LOGITS, LABELS, lengths=LENGTHS, **options
    ),
    "seqjax.losses.linear_cross_entropy": lambda **options: losses.linear_cross_entropy(
        LOGITS, np.eye(C, dtype=np.float32), None, LABELS, lengths=LENGTHS, **options
    ),
    "seqjax.losses.binary_cross_entropy": lambda **options: losses.binary_cross_entropy(
        LOGITS[..., 0], LABELS > 1, lengths=LENGTHS, **options
    ),
    "seqjax.losses.mean_absolute_error": lambda **options: losses.mean_absolute_error(
        LOGITS, LOGITS + 1, lengths=LENGTHS, **options
    ),
    "seqjax.losses.mean_squared_error": lambda **options: losses.mean_squared_error(
        LOGITS, LOGITS + 1, lengths=LENGTHS, **options
    ),
    "seqjax.ctc.ctc_loss": lambda **options: ctc.ctc_loss(
        LOGITS, LABELS[:, :1], lengths=LENGTHS, **options
    ),
    "seqjax.forecasting.loss": lambda **options: forecasting.loss(
        forecasting.Quantiles(), LOGITS[..., :3], LABELS, lengths=LENGTHS, **options
    ),
    "seqjax.transducer.transducer_loss": lambda **options: transducer.transducer_loss(
        LOGITS[:, :, None], LABELS[:, :0], lengths=LENGTHS, **options
    ),
    "seqjax.transducer.joint_transducer_loss": lambda **options: transducer.joint_transducer_loss(
        jnp.add, LOGITS, LOGITS[:, :1], LABELS[:, :0], lengths=LENGTHS, **options
    ),
    "seqjax.transducer.Transducer.loss": lambda **options: transducer.Transducer(
        nn.GRU(C, H, rngs=nnx.Rngs(0)),
        nn.GRU(I, H, rngs=nnx.Rngs(1)),
        vocabulary=C,
        joint_size=H,
        rngs=nnx.Rngs(2),
    ).loss(LOGITS, LABELS[:, :1], lengths=LENGTHS, **options),
    "seqjax.crf.loss": lambda **options: crf.loss(
        LOGITS, LABELS, MATRIX, lengths=LENGTHS, **options
    ),
    "seqjax.crf.CRF.loss": lambda **options: crf.CRF(C).loss(
        LOGITS, LABELS, lengths=LENGTHS, **options
    ),
}


def test_every_loss_is_walked():
    of_sequences = {
        name
        for name, signature in SIGNATURES.items()
        if "per_sequence" in signature.parameters or name.startswith("seqjax.losses.")
    }
    assert of_sequences == LOSSES.keys()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_a_scalar_or_one_value_a_sequence(name):
    mean, each = jax.eval_shape(lambda: (LOSSES[name](), LOSSES[name](per_sequence=True)))
    assert mean.shape == () and each.shape == (B,)
    assert mean.dtype == each.dtype == jnp.float32
    parameter = SIGNATURES[name].parameters["per_sequence"]
    assert parameter.kind is Kind.KEYWORD_ONLY and parameter.default is False


def test_losses_and_metrics_of_one_name_take_the_same_arguments():
    for name in set(losses.__all__) & set(metrics.__all__):
        loss = [*SIGNATURES[f"seqjax.losses.{name}"].parameters]
        assert loss == [*SIGNATURES[f"seqjax.metrics.{name}"].parameters, "per_sequence"]


MISTYPED: dict[str, Any] = {
    "nn.LSTM(num_layer)": lambda: nn.LSTM(I, H, num_layer=2, rngs=nnx.Rngs(0)),
    "nn.LSTM(norm)": lambda: nn.LSTM(I, H, norm="layers", rngs=nnx.Rngs(0)),
    "make_cell": lambda: cells.make_cell("gru", I, H, chron=2),
    "make_cell of a cell": lambda: cells.make_cell(cells.GRU(I, H), I, H, use_bais=False),
    "make_cell by name": lambda: cells.make_cell("grus", I, H),
    "initialiser": lambda: cells.GRU(I, H, kernel_init="zero"),
    "activation": lambda: cells.Elman(I, H, activation="tahn"),
    "one_to_many": lambda: nn.GRU(I, H, rngs=nnx.Rngs(0)).one_to_many(
        jnp.ones((B, I)), 3, length=[1, 2]
    ),
    "Stateful": lambda: nn.Stateful(nn.GRU(I, H, rngs=nnx.Rngs(0)), B)(
        jnp.ones((B, T, I)), return_sequence=False
    ),
    "LinenRecurrent": lambda: nn.LinenRecurrent(cells.GRU(I, H)).init(
        jax.random.key(0), jnp.ones((B, T, I)), revers=True
    ),
    "cell_gates": lambda: seqjax.traces.cell_gates(
        cells.GRU(I, H), (), jnp.ones((B, T, I)), length=[1, 2]
    ),
    "cell_gradient_norms": lambda: seqjax.traces.cell_gradient_norms(
        jnp.sum, cells.GRU(I, H), (), jnp.ones((B, T, I)), length=[1, 2]
    ),
    "mfcc": lambda: seqjax.data.mfcc(np.zeros(400), 16000, band=3),
    "implementation": lambda: seqjax.Execution(implementation="fuse"),
    "attention": lambda: seq2seq.Decoder(
        cells.GRU(I, H), vocabulary=C, memory_size=H, attention="adaptive", rngs=nnx.Rngs(0)
    ),
    "optimizer": lambda: seqjax.training.optimizer(0.1, name="adma"),
    "interop": lambda: interop.pytorch.load(
        interop.pytorch.dump(nn.LSTM(I, H, rngs=nnx.Rngs(0))), dropuot=0.1
    ),
}


@pytest.mark.parametrize("call", MISTYPED.values(), ids=MISTYPED)
def test_a_mistyped_name_gets_the_nearest_one(call):
    with pytest.raises((TypeError, ValueError), match=r"; did you mean '\w+'\?"):
        call()


def _prints(function: Any) -> bool:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(isinstance(call, ast.Name) and call.id == "print" for call in calls)


def test_functions_that_print_say_so_first():
    printing = {
        name
        for name, obj in NAMES.items()
        if inspect.isfunction(inspect.unwrap(obj)) and _prints(inspect.unwrap(obj))
    }
    assert printing == {"seqjax.explain", "seqjax.summary"}
    for name in printing:
        assert "print" in NAMES[name].__doc__.split("\n")[0].lower(), name


def test_what_is_printed_is_returned(capsys):
    plan = seqjax.explain(cells.GRU(I, H), jnp.ones((B, T, I)))
    assert capsys.readouterr().out == f"{plan}\n"
    table = seqjax.summary(nn.GRU(I, H, rngs=nnx.Rngs(0)), jnp.ones((B, T, I)))
    assert capsys.readouterr().out == f"{table}\n"


def test_sizes_are_in_bytes():
    cell, steps = cells.GRU(I, H), 8
    plan = kernels.make_plan(cell, (B,), steps, jnp.float32)
    wide = kernels.make_plan(cell, (2 * B,), steps, jnp.float32)
    assert wide.stored_bytes == 2 * plan.stored_bytes >= 4 * B * steps * H
    budget = plan.stored_bytes - 1
    execution = kernels.Execution(memory_budget=budget)
    within = kernels.make_plan(cell, (B,), steps, jnp.float32, execution)
    assert within.stored_bytes <= budget
