"""The other libraries, each run on given weights: for the golden files and for live tests.

A case is a library's layer as a pure function of its weights, by flat names, and of the inputs;
`SOURCES` makes of flat names what `load` takes, `FLAT` makes flat names of what `dump` gives. Every
library is imported where it is used.
"""

import functools
import operator
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import nn
from seqjax.interop import cudnn, equinox, haiku, keras, linen, nnx, pytorch
from tests.nn.helpers import jit

MODULES = {
    m.__name__.rpartition(".")[2]: m for m in (cudnn, equinox, haiku, keras, linen, nnx, pytorch)
}
BATCH, STEPS, INPUT, HIDDEN = 2, 4, 3, 4
Flat = Mapping[str, Any]


class Case(NamedTuple):
    """One layer of a library.

    Attributes:
      library: the name of its module here.
      shapes: of its weights, by flat names.
      peer: makes the function from (weights, xs [B, T, I]) to outputs; imports the library.
      options: what `load` has to be told.
      dump: what `dump` has to be told.
    """

    library: str
    shapes: dict[str, tuple[int, ...]]
    peer: Callable[[], Callable[[Flat, Any], Any]]
    options: Flat = MappingProxyType({})
    dump: Flat = MappingProxyType({})


def draw(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights of a case: no bias is zero."""
    rng = np.random.default_rng([seed, *name.encode()])
    shapes = CASES[name].shapes
    return {key: (0.5 * rng.normal(size=shape)).astype(np.float32) for key, shape in shapes.items()}


def inputs(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Random inputs `[B, T, I]`, and the derivatives of the loss by the outputs."""
    rng = np.random.default_rng([1, *name.encode()])
    xs = rng.normal(size=(BATCH, STEPS, INPUT)).astype(np.float32)
    widest = rng.normal(size=(BATCH, STEPS, 2 * HIDDEN)).astype(np.float32)
    return xs, widest


def value_and_gradients(call: Callable[[Flat, Any], Any], name: str, weights: Flat) -> Any:
    """The outputs, and the gradients by weights and inputs of Σ outputs ⊙ d."""
    xs, d = inputs(name)

    def loss(weights: Flat, xs: Any) -> Any:
        outputs = call(weights, xs)
        return jnp.vdot(outputs, d[..., : outputs.shape[-1]]), outputs

    run = jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (d_weights, d_xs), outputs = run(dict(weights), xs)
    return jax.tree.map(np.asarray, (outputs, {**d_weights, "input": d_xs}))


def ours(name: str) -> Callable[[Flat, Any], Any]:
    """Our layer as a function of the library's weights: `load` is differentiated with it."""
    case = CASES[name]

    def call(weights: Flat, xs: Any) -> Any:
        source = SOURCES[case.library](weights)
        return MODULES[case.library].load(source, **case.options)(xs).outputs

    return call


def dumped(name: str, layer: nn.Recurrent) -> dict[str, Any]:
    """What `dump` gives for a layer, by flat names."""
    case = CASES[name]
    return FLAT[case.library](MODULES[case.library].dump(layer, **case.dump))


# From flat names to sources and back. A number in front is the layer's.


def _nested(flat: Flat) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        functools.reduce(lambda place, key: place.setdefault(key, {}), path, tree)[last] = value
    return tree


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not hasattr(tree, "items"):
        return {prefix: tree}
    return {
        name: leaf
        for key, value in tree.items()
        for name, leaf in _flat(value, f"{prefix}/{key}" if prefix else str(key)).items()
    }


def _numbered(flat: Flat) -> list[Any]:
    tree = _nested(flat)
    return [tree[str(index)] for index in range(len(tree))]


def _by_number(layers: Any) -> dict[str, Any]:
    return _flat(
        {index: dict(enumerate(v)) if isinstance(v, list) else v for index, v in enumerate(layers)}
    )


def _haiku_source(flat: Flat) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        module, _, last = name.rpartition("/")
        tree.setdefault(module, {})[last] = value
    return tree


SOURCES: dict[str, Callable[[Flat], Any]] = {
    "keras": lambda flat: [list(layer.values()) for layer in _numbered(flat)],
    "linen": _numbered,
    "nnx": _numbered,
    "haiku": _haiku_source,
    "equinox": lambda flat: [
        nn.Bidirectional(layer["0"], layer["1"]) if "0" in layer else layer
        for layer in _numbered(flat)
    ],
    "cudnn": lambda flat: flat["weights"],
    "pytorch": lambda flat: flat,
}
FLAT: dict[str, Callable[[Any], dict[str, Any]]] = {
    "keras": _by_number,
    "linen": _by_number,
    "nnx": _by_number,
    "haiku": _flat,
    "equinox": lambda layers: _by_number(
        [
            dict(enumerate(layer)) if isinstance(layer, nn.Bidirectional) else layer
            for layer in layers
        ]
    ),
    "cudnn": lambda weights: {"weights": weights},
    "pytorch": lambda flat: flat,
}


# Keras, Haiku, Equinox: in golden files.


def _keras(build: Callable[[Any], list[Any]]) -> Callable[[], Callable[[Flat, Any], Any]]:
    def peer() -> Callable[[Flat, Any], Any]:
        os.environ.setdefault("KERAS_BACKEND", "jax")
        import keras as library

        layers = build(library.layers)
        model = library.Sequential([library.Input((None, INPUT)), *layers])
        return lambda flat, xs: model.stateless_call(
            list(flat.values()), model.non_trainable_variables, xs
        )[0]

    return peer


def _keras_case(shapes: list[list[tuple[int, ...]]], build: Any, **options: Any) -> Case:
    names = {f"{i}/{j}": shape for i, layer in enumerate(shapes) for j, shape in enumerate(layer)}
    return Case("keras", names, _keras(build), options)


def _kernels(gates: int, *bias: int, inputs: int = INPUT) -> list[tuple[int, ...]]:
    width = gates * HIDDEN
    return [(inputs, width), (HIDDEN, width), *([(*bias, width)] if bias != (0,) else [])]


def _haiku_case(core: str, layers: int, shapes: Any, names: str, **arguments: Any) -> Case:
    def peer() -> Callable[[Flat, Any], Any]:
        import haiku as library

        def run(xs: Any) -> Any:
            cores = [getattr(library, core)(HIDDEN, **arguments) for _ in range(layers)]
            for each in cores:
                xs, _ = library.dynamic_unroll(
                    each, xs, each.initial_state(BATCH), time_major=False
                )
            return xs

        function: Any = library.without_apply_rng(library.transform(run))
        return lambda flat, xs: function.apply(_haiku_source(flat), xs)

    numbered = ["" if index == 0 else f"_{index}" for index in range(layers)]
    inputs = [INPUT] + [HIDDEN] * (layers - 1)
    flat = {
        f"{names}{n}/{k}": s
        for n, i in zip(numbered, inputs, strict=True)
        for k, s in shapes(i).items()
    }
    return Case("haiku", flat, peer, {"num_layers": layers})


def _equinox_case(cell: str, gates: int, biases: dict[str, tuple[int, ...]]) -> Case:
    def peer() -> Callable[[Flat, Any], Any]:
        import equinox as library

        made = getattr(library.nn, cell)(
            INPUT, HIDDEN, use_bias=bool(biases), key=jax.random.key(0)
        )

        def call(flat: Flat, xs: Any) -> Any:
            filled = made
            for name, value in flat.items():
                pick = operator.attrgetter(name.removeprefix("0/"))
                filled = library.tree_at(pick, filled, value)
            zeros = jnp.zeros(HIDDEN)

            def step(state: Any, x: Any) -> Any:
                state = filled(x, state)
                return state, state[0] if cell == "LSTMCell" else state

            start = (zeros, zeros) if cell == "LSTMCell" else zeros
            return jax.vmap(lambda xs: jax.lax.scan(step, start, xs)[1])(xs)

        return call

    width = gates * HIDDEN
    shapes = {"weight_ih": (width, INPUT), "weight_hh": (width, HIDDEN), **biases}
    return Case("equinox", {f"0/{name}": shape for name, shape in shapes.items()}, peer)


def _both(L: Any, **options: Any) -> Any:
    return lambda l: [l.Bidirectional(getattr(l, L)(HIDDEN, return_sequences=True), **options)]


GOLDEN: dict[str, Case] = {
    "keras_rnn": _keras_case(
        [_kernels(1)],
        lambda l: [l.SimpleRNN(HIDDEN, "relu", return_sequences=True)],
        activation="relu",
    ),
    "keras_lstm_stacked": _keras_case(
        [_kernels(4), _kernels(4, inputs=HIDDEN)],
        lambda l: [l.LSTM(HIDDEN, return_sequences=True) for _ in range(2)],
    ),
    "keras_gru": _keras_case([_kernels(3, 2)], lambda l: [l.GRU(HIDDEN, return_sequences=True)]),
    "keras_gru_before": _keras_case(
        [_kernels(3)], lambda l: [l.GRU(HIDDEN, return_sequences=True, reset_after=False)]
    ),
    "keras_gru_before_no_bias": _keras_case(
        [_kernels(3, 0)],
        lambda l: [l.GRU(HIDDEN, return_sequences=True, reset_after=False, use_bias=False)],
        reset_after=False,
    ),
    "keras_lstm_bidirectional": _keras_case([_kernels(4) * 2], _both("LSTM")),
    "keras_gru_bidirectional": _keras_case(
        [_kernels(3, 2) * 2], _both("GRU", merge_mode="ave"), merge_mode="mean"
    ),
    "haiku_rnn": _haiku_case(
        "VanillaRNN",
        1,
        lambda i: {
            "linear/w": (i, HIDDEN),
            "linear/b": (HIDDEN,),
            "linear_1/w": (HIDDEN, HIDDEN),
            "linear_1/b": (HIDDEN,),
        },
        "vanilla_rnn",
    ),
    "haiku_rnn_single_bias": _haiku_case(
        "VanillaRNN",
        1,
        lambda i: {"linear/w": (i, HIDDEN), "linear/b": (HIDDEN,), "linear_1/w": (HIDDEN, HIDDEN)},
        "vanilla_rnn",
        double_bias=False,
    ),
    "haiku_lstm_stacked": _haiku_case(
        "LSTM",
        2,
        lambda i: {"linear/w": (i + HIDDEN, 4 * HIDDEN), "linear/b": (4 * HIDDEN,)},
        "lstm",
    ),
    "haiku_gru": _haiku_case(
        "GRU",
        1,
        lambda i: {"w_i": (i, 3 * HIDDEN), "w_h": (HIDDEN, 3 * HIDDEN), "b": (3 * HIDDEN,)},
        "gru",
    ),
    "equinox_lstm": _equinox_case("LSTMCell", 4, {"bias": (4 * HIDDEN,)}),
    "equinox_gru": _equinox_case("GRUCell", 3, {"bias": (3 * HIDDEN,), "bias_n": (HIDDEN,)}),
    "equinox_gru_no_bias": _equinox_case("GRUCell", 3, {}),
}


# Flax and JAX's reference of cuDNN: always installed.


def _linen_layer(build: Callable[[Any], Any]) -> Any:
    from flax import linen as library

    return build(library)


def _linen_case(build: Callable[[Any], Any], **options: Any) -> Case:
    def variables() -> Any:
        xs = jnp.zeros((BATCH, STEPS, INPUT))
        return jax.eval_shape(_linen_layer(build).init, jax.random.key(0), xs)

    def peer() -> Callable[[Flat, Any], Any]:
        layer = _linen_layer(build)
        return lambda flat, xs: layer.apply(_nested(flat)["0"], xs)

    shapes = {f"0/{name}": leaf.shape for name, leaf in _flat(variables()).items()}
    return Case("linen", shapes, peer, options)


def _nnx_case(
    build: Callable[[Any], Any], dump: Flat = MappingProxyType({}), **options: Any
) -> Case:
    from flax import nnx as library

    def split() -> Any:
        layer = library.eval_shape(lambda: build(library))
        return library.split(layer, library.Param, ...)

    def peer() -> Callable[[Flat, Any], Any]:
        def call(flat: Flat, xs: Any) -> Any:
            layer = build(library)
            library.update(layer, _nested(flat)["0"])
            return layer(xs)

        return call

    params = library.to_pure_dict(split()[1])
    shapes = {f"0/{name}": leaf.shape for name, leaf in _flat(params).items()}
    return Case("nnx", shapes, peer, options, dump)


def _nnx_rnn(cell: str) -> Callable[[Any], Any]:
    return lambda l: l.RNN(getattr(l, cell)(INPUT, HIDDEN, rngs=l.Rngs(0)), rngs=l.Rngs(0))


def _linen_rnn(cell: str, **options: Any) -> Callable[[Any], Any]:
    return lambda l: l.RNN(getattr(l, cell)(HIDDEN, **options))


def _cudnn_case(layers: int) -> Case:
    from jax.experimental import rnn

    def peer() -> Callable[[Flat, Any], Any]:
        def call(flat: Flat, xs: Any) -> Any:
            parts = rnn.unpack_lstm_weights(flat["weights"], INPUT, HIDDEN, layers, True)
            zeros = jnp.zeros((2 * layers, BATCH, HIDDEN))
            lengths = jnp.full(BATCH, STEPS)
            return rnn.lstm_ref(
                xs, zeros, zeros, *parts, lengths, INPUT, HIDDEN, layers, 0.0, True
            )[0]  # fmt: skip

        return call

    size = rnn.get_num_params_in_lstm(INPUT, HIDDEN, layers, True)
    told = {"input_size": INPUT, "hidden_size": HIDDEN, "num_layers": layers, "bidirectional": True}
    return Case("cudnn", {"weights": (size,)}, peer, told)


LIVE: dict[str, Case] = {
    "linen_rnn": _linen_case(_linen_rnn("SimpleCell"), activation="tanh"),
    "linen_lstm": _linen_case(_linen_rnn("LSTMCell")),
    "linen_gru": _linen_case(_linen_rnn("GRUCell")),
    "linen_lstm_bidirectional": _linen_case(
        lambda l: l.Bidirectional(
            l.RNN(l.OptimizedLSTMCell(HIDDEN)), l.RNN(l.OptimizedLSTMCell(HIDDEN))
        )
    ),
    "nnx_rnn": _nnx_case(_nnx_rnn("SimpleCell"), activation="tanh"),
    "nnx_lstm": _nnx_case(_nnx_rnn("LSTMCell"), dump={"optimized": False}),
    "nnx_gru": _nnx_case(_nnx_rnn("GRUCell")),
    "nnx_lstm_bidirectional": _nnx_case(
        lambda l: l.Bidirectional(
            _nnx_rnn("OptimizedLSTMCell")(l), _nnx_rnn("OptimizedLSTMCell")(l), rngs=l.Rngs(0)
        )
    ),
    "cudnn_lstm": _cudnn_case(1),
}
CASES = GOLDEN | LIVE
