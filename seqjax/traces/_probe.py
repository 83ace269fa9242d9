"""Probes, which are cells that expose the gates and states of another cell, and probed models."""

import collections
import dataclasses
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import get_opaque_trace_state

from seqjax import checks, sequences
from seqjax._arguments import floating_inputs, layout
from seqjax._elapsed import turned, with_elapsed
from seqjax._hooks import Call, hooked
from seqjax._unroll import unroll
from seqjax.cells._base import Cell, Role, compute_dtype
from seqjax.cells.stepping import held
from seqjax.kernels import Execution, Kernel, scan
from seqjax.nn._layer import Layer
from seqjax.types import Array, PyTree, Shape, Slots

__all__ = ["Probe", "TransformedError", "cell_probe", "probed", "with_plain_loops"]

Model = TypeVar("Model", bound=nnx.Module)
Result = TypeVar("Result")


class TransformedError(RuntimeError):
    """Raised if a layer runs inside a JAX transformation, from which values cannot be extracted."""


def with_plain_loops(run: Callable[[], Result]) -> Result:
    """Call a function; if layers run inside `jax.jit` or a loop, call it again without compilation.

    Raises:
      TransformedError: if a layer runs inside another transformation within the model.
    """
    try:
        return run()
    except TransformedError:
        pass
    with jax.disable_jit():
        return run()


@dataclasses.dataclass(frozen=True)
class Probe(Cell[Any, Any]):
    """A cell that wraps another cell and adds an input, the nudge, to each new state.

    All nudges are zero, and the gradient of the loss with respect to the nudge of step t is
    ∂loss/∂s_t. `unroll` runs a probe like any other cell, and handles masks, resets and directions.
    """

    cell: Cell[Any, Any]
    zoneout: float = 0.0

    @classmethod
    def of(cls, cell: Cell[Any, Any], zoneout: float = 0.0) -> "Probe":
        """Return the probe of a cell, with the zoneout of its layer."""
        return cls(cell.input_size, cell.hidden_size, cell, zoneout)

    @property
    def input_shape(self) -> PyTree:
        return (self.cell.input_shape, self.nudge_shapes)

    @property
    def nudge_shapes(self) -> tuple[Shape, ...]:
        """The shapes of the nudges, one for each floating-point or complex leaf of a state.

        The nudge of a complex leaf has one more axis, for its real and its imaginary part.
        """
        leaves = jax.tree.leaves(jax.eval_shape(lambda: self.cell.initial_state()))
        return tuple(
            (*leaf.shape, 2) if jnp.iscomplexobj(leaf) else leaf.shape
            for leaf in leaves
            if jnp.issubdtype(leaf.dtype, jnp.inexact)
        )

    @property
    def output_shape(self) -> Shape:
        return self.cell.output_shape

    def init(self, key: Any, dtype: Any = jnp.float32) -> Any:
        return self.cell.init(key, dtype)

    def param_specs(self) -> Any:
        return self.cell.param_specs()

    def initial_state(self, batch_shape: Shape = (), dtype: Any = jnp.float32) -> Any:
        return self.cell.initial_state(batch_shape, dtype)

    def prepare(self, params: Any) -> Any:
        return self.cell.prepare(params)

    def project(self, p: Any, x: Any) -> Slots:
        inputs, nudges = x
        return (*self.cell.project(p, inputs), *nudges)

    def arrive(self, p: Any, projected: Slots, state: Any) -> Any:
        return self.cell.arrive(p, self._own(projected), state)

    def recurrent_input(self, state: Any) -> PyTree | None:
        return self.cell.recurrent_input(state)

    def recur(self, p: Any, r: PyTree) -> Slots:
        return (*self.cell.recur(p, r), *[None] * len(self.nudge_shapes))

    def update(self, p: Any, gates: Slots, state: Any) -> Any:
        new = self.cell.update(p, self._own(gates), state)
        if self.zoneout:  # the rule of `unroll` in evaluation, applied before the nudge
            hold = jnp.float32(self.zoneout)
            new = jax.tree.map(
                lambda role, old, new: held(hold, old, new) if role.held else new,
                self.cell.state_roles(), state, new,
                is_leaf=lambda role: isinstance(role, Role),
            )  # fmt: skip
        nudges: Any = iter(gates[len(self._own(gates)) :])
        return jax.tree.map(
            lambda s: _nudged(s, next(nudges)) if jnp.issubdtype(s.dtype, jnp.inexact) else s, new
        )

    def output(self, p: Any, gates: Slots, state: Any) -> PyTree:
        return self.cell.output(p, self._own(gates), state)

    def gate_values(self, p: Any, gates: Slots, state: Any) -> dict[str, Array]:
        # JAX sorts the keys of a dict, but the gates must stay in the order of the equations.
        return collections.OrderedDict(self.cell.gate_values(p, self._own(gates), state))

    def _own(self, slots: Slots) -> Slots:
        """Return the gates of the cell itself, without the nudges."""
        return slots[: len(slots) - len(self.nudge_shapes)]


SHOWING = Kernel("scan", scan, options=(("with_gates", True),))
"""The kernel that runs probes and returns pairs of an output and the gates."""


def cell_probe(
    caller: str, cell: Cell[Any, Any], xs: PyTree, options: Mapping[str, Any]
) -> tuple[Probe, Any, int, dict[str, Any]]:
    """Return the probe of a cell, its inputs with zero nudges, and the number of leading axes.

    The fourth result has the options for `unroll` with the probe, which does not read the time.
    """
    checks.require_options(caller, options, unroll)
    if options.get("zoneout") is not None:
        raise ValueError(
            f"zoneout: expected None for a cell, got {checks.brief(options['zoneout'])}; use a "
            "layer with zoneout"
        )
    options = dict(options)
    xs = with_elapsed(cell, floating_inputs(cell, xs), options.pop("elapsed", None))
    time_major = options.get("time_major", False)
    batch_shape, steps = layout(cell, xs, time_major=time_major)
    lead = (steps, *batch_shape) if time_major else (*batch_shape, steps)
    if cell.reads_elapsed and options.get("reverse"):
        given = {name: options.get(name) for name in ("lengths", "mask")}
        mask = sequences.step_mask(batch_shape, steps, **given, time_major=time_major)
        axis = 0 if time_major else len(batch_shape)
        xs = turned(xs, mask=mask, resets=options.get("resets"), axis=axis)
    probe = Probe.of(cell)
    return probe, (xs, _zeros(probe, lead, compute_dtype(xs))), len(lead), options


def probed(
    model: Model,
    watch: Callable[[str, Any, PyTree], None],
    *,
    given: Mapping[str, PyTree] | None = None,
    leads: dict[str, int] | None = None,
) -> Model:
    """Return a copy of a model whose layers run probes.

    Args:
      model: the model.
      watch: a function that is called for each run of a layer. Its arguments are the path of the
        layer, a pair of the layer's outputs and gates, and the nudges.
      given: a dict from the paths of layers to nudges. If `given` is None, all nudges are zero.
      leads: a dict that is filled with the number of leading axes of the outputs of each run.

    A call of the copy raises `TransformedError` if a layer runs inside a JAX transformation that
    began after the call of `probed`.
    """
    calls: dict[str, int] = {}
    outside = get_opaque_trace_state(convention="flax")

    def hook(call: Call) -> Any:
        if not (isinstance(call.module, Layer) and call.name == "run_direction"):
            return call.proceed()
        direction, xs, state, sequence, key = call.args
        side = "backward" if call.kwargs["reverse"] else "forward"
        path = f"{call.path}.{side}".lstrip(".")
        calls[path] = calls.get(path, 0) + 1
        path = path if calls[path] == 1 else f"{path}#{calls[path]}"
        if get_opaque_trace_state(convention="flax") != outside:
            raise TransformedError(
                f"model: expected {path} outside of JAX transformations, got it inside one such as "
                "jax.vmap or jax.checkpoint, from which values cannot be extracted; call the layer "
                "directly: it takes any number of batch axes, and needs no checkpoint here"
            )
        probe = Probe.of(direction.cell, call.module.options.zoneout)
        stand_in = SimpleNamespace(
            cell=probe, params=direction.params, start=direction.start,
            learns_its_state=direction.learns_its_state,
        )  # fmt: skip
        lead = sequence.step_shape
        zeros = _zeros(probe, lead, compute_dtype(xs))
        nudges = zeros if given is None else given[path]
        if leads is not None:
            leads[path] = len(lead)
        # The probe applies the zoneout.
        layer: Any = SimpleNamespace(options=dataclasses.replace(call.module.options, zoneout=0.0))
        plain = dataclasses.replace(sequence, execution=Execution(SHOWING))
        with jax.disable_jit(False):  # compile here, even inside `with_plain_loops`
            args: Any = (layer, stand_in, (xs, nudges), state, plain, key)
            ran = Layer.run_direction(*args, **call.kwargs)
        watch(path, ran.outputs, nudges)
        return ran._replace(outputs=ran.outputs[0])

    return hooked(model, hook)


def _zeros(probe: Probe, lead: Shape, dtype: Any) -> tuple[Array, ...]:
    return tuple(jnp.zeros((*lead, *shape), dtype) for shape in probe.nudge_shapes)


def _nudged(leaf: Array, nudge: Array) -> Array:
    """Add a nudge to a leaf of the state."""
    if jnp.iscomplexobj(leaf):
        parts = nudge.astype(leaf.real.dtype)
        return leaf + jax.lax.complex(parts[..., 0], parts[..., 1])
    return leaf + nudge.astype(leaf.dtype)
