"""A cell that acts as another and shows what goes on in it; models whose layers run such cells."""

import collections
import dataclasses
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import get_opaque_trace_state

from seqjax import checks
from seqjax._arguments import floating_inputs, layout
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
    """A layer ran inside a JAX transformation, out of which its values cannot be taken."""


def with_plain_loops(run: Callable[[], Result]) -> Result:
    """Calls a function; where layers are inside `jax.jit` or a loop, again without compiling those.

    Raises:
      TransformedError: a layer is inside another transformation of the model's own.
    """
    try:
        return run()
    except TransformedError:
        pass
    with jax.disable_jit():
        return run()


@dataclasses.dataclass(frozen=True)
class Probe(Cell[Any, Any]):
    """A cell that acts as another and adds a nudge to each new state.

    The gradient with respect to step t's nudge (which is zero) is ∂loss/∂s_t. Going through
    `unroll` like any cell, it has masks, resets and directions from there.
    """

    cell: Cell[Any, Any]
    zoneout: float = 0.0

    @classmethod
    def of(cls, cell: Cell[Any, Any], zoneout: float = 0.0) -> "Probe":
        """The probe of a cell, with a layer's zoneout."""
        return cls(cell.input_size, cell.hidden_size, cell, zoneout)

    @property
    def input_shape(self) -> PyTree:
        return (self.cell.input_shape, self.nudge_shapes)

    @property
    def nudge_shapes(self) -> tuple[Shape, ...]:
        """The shapes of the floating-point leaves of a state."""
        leaves = jax.tree.leaves(jax.eval_shape(lambda: self.cell.initial_state()))
        return tuple(leaf.shape for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating))

    @property
    def output_shape(self) -> Shape:
        return self.cell.output_shape

    def init(self, key: Any, dtype: Any = jnp.float32) -> Any:
        return self.cell.init(key, dtype)

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
        if self.zoneout:  # as `unroll` has it, before the nudge
            hold = jnp.float32(self.zoneout)
            new = jax.tree.map(
                lambda role, old, new: held(hold, old, new) if role.held else new,
                self.cell.state_roles(), state, new,
                is_leaf=lambda role: isinstance(role, Role),
            )  # fmt: skip
        nudges: Any = iter(gates[len(self._own(gates)) :])
        return jax.tree.map(
            lambda s: s + next(nudges).astype(s.dtype) if _is_floating(s) else s, new
        )

    def output(self, p: Any, gates: Slots, state: Any) -> PyTree:
        return self.cell.output(p, self._own(gates), state)

    def gate_values(self, p: Any, gates: Slots, state: Any) -> dict[str, Array]:
        # JAX sorts a dict by its keys, while the gates' order is that of the equations.
        return collections.OrderedDict(self.cell.gate_values(p, self._own(gates), state))

    def _own(self, slots: Slots) -> Slots:
        """The slots of the cell, without the nudges."""
        return slots[: len(slots) - len(self.nudge_shapes)]


SHOWING = Kernel("scan", scan, options=(("with_gates", True),))
"""The kernel that runs probes: its outputs are pairs of an output and the gates."""


def cell_probe(
    caller: str, cell: Cell[Any, Any], xs: PyTree, options: Mapping[str, Any]
) -> tuple[Probe, Any, int]:
    """The probe of a cell, its inputs with nudges of zero, and how many leading axes they have."""
    checks.require_options(caller, options, unroll)
    if options.get("zoneout") is not None:
        raise ValueError("zoneout: expected None for a cell; a layer may have it")
    xs = floating_inputs(cell, xs)
    batch_shape, steps = layout(cell, xs, time_major=options.get("time_major", False))
    lead = (steps, *batch_shape) if options.get("time_major") else (*batch_shape, steps)
    probe = Probe.of(cell)
    return probe, (xs, _zeros(probe, lead, compute_dtype(xs))), len(lead)


def probed(
    model: Model,
    watch: Callable[[str, Any, PyTree], None],
    *,
    given: Mapping[str, PyTree] | None = None,
    leads: dict[str, int] | None = None,
) -> Model:
    """A copy of a model whose layers run probes.

    Args:
      model: the model.
      watch: is given each run's path, its outputs with the gates, and the nudges.
      given: the nudges by path; zeros if None.
      leads: filled with how many leading axes each run's outputs have.

    Its call raises `TransformedError` where a layer runs inside a transformation that began later
    than this call.
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
                f"model: {path} runs inside a JAX transformation of the model's own, such as "
                "jax.vmap or jax.checkpoint, out of which no values can be taken. Call it there "
                "without: a layer takes any number of batch axes, and no checkpoint is needed here."
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
        # The probe does the zoneout.
        layer: Any = SimpleNamespace(options=dataclasses.replace(call.module.options, zoneout=0.0))
        plain = dataclasses.replace(sequence, execution=Execution(SHOWING))
        with jax.disable_jit(False):  # whatever is around: see `with_plain_loops`
            args: Any = (layer, stand_in, (xs, nudges), state, plain, key)
            ran = Layer.run_direction(*args, **call.kwargs)
        watch(path, ran.outputs, nudges)
        return ran._replace(outputs=ran.outputs[0])

    return hooked(model, hook)


def _zeros(probe: Probe, lead: Shape, dtype: Any) -> tuple[Array, ...]:
    return tuple(jnp.zeros((*lead, *shape), dtype) for shape in probe.nudge_shapes)


def _is_floating(leaf: Array) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))
