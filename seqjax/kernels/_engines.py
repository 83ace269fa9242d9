"""The frame of the engines, which run the whole time loop in compiled code outside of JAX's loops.

The frame is three JAX primitives, which are the run of a cell over time, the tangent of the run,
and the gradient, which is the transpose of the tangent. On the platform of an engine, JAX compiles
the run and the gradient to the code of the engine. The `fused` kernel computes everything else: the
tangent, derivatives of the gradient, programs for other platforms, and exported programs, which
must run on machines without the engine.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.interpreters import ad, batching, mlir, partial_eval, xla

from seqjax.cells._base import Cell
from seqjax.kernels._engine_forms import DIFFERENTIABLE, FORMS, Engine, Setting
from seqjax.kernels._engine_sharding import divided, needs_devices, place
from seqjax.kernels._engine_vmap import mapped
from seqjax.kernels._fused import fused
from seqjax.kernels._problem import Problem
from seqjax.kernels._scan import varying_like
from seqjax.types import Array, Unrolled

__all__ = ["engine_primitive", "is_divided", "parted", "result_like", "run_on", "stands_for"]


def run_on(engine: Engine, cell: Cell[Any, Any], problem: Problem, reverse: bool) -> Unrolled:
    """Run a cell whose class is a key of `FORMS` on an engine.

    Args:
      engine: the engine.
      cell: the cell.
      problem: the time-major arrays of the call; see `Problem`.
      reverse: whether to process the steps in the order t = T-1 … 0.

    Returns:
      `Unrolled` with time-major outputs, `[T, ..., H]` for a cell.
    """
    form = FORMS[type(cell)]
    arrays = form.operands(cell, varying_like(problem, problem))
    setting = Setting(cell, reverse, tuple(arrays), engine)
    found = _run.bind(*arrays.values(), setting=setting, store=False)
    return form.unrolled(problem, dict(zip(setting.shown, found, strict=True)), reverse)


def is_divided(problem: Any) -> bool:
    """Return whether arrays have explicit shardings, which the engine's results cannot have."""
    meshes = [jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(problem)]
    return any(mesh.explicit_axes for mesh in (*meshes, jax.sharding.get_abstract_mesh()))


# The three functions that the primitives compute, written with `fused`.


def _run_by_fused(*operands: Array, setting: Setting, store: bool) -> list[Array]:
    """Return the outputs, the final state and, if `store` is True, zeros.

    The zeros replace the arrays that the engine would store for the gradient.
    """
    arrays = dict(zip(setting.names, operands, strict=True))
    cell, problem = setting.form.problem(setting.cell, arrays)
    results = setting.form.shown(fused(cell, problem, setting.reverse))
    shown = [results[name] for name in setting.shown]
    if not store:
        return shown
    shapes = setting.engine.shapes(operands, setting)
    return shown + [jnp.zeros(shapes[name], jnp.float32) for name in setting.kept]


def _of_moving(
    operands: Sequence[Array], setting: Setting, moving: tuple[str, ...]
) -> tuple[Callable[..., list[Array]], list[Array]]:
    """Return a function of the operands `moving`, and their values in `operands`.

    The function runs the cell. All other operands have their values in `operands`.
    """
    arrays = dict(zip(setting.names, operands, strict=True))

    def run(*moved: Array) -> list[Array]:
        given = arrays | dict(zip(moving, moved, strict=True))
        return _run_by_fused(*given.values(), setting=setting, store=False)

    return run, [arrays[name] for name in moving]


def _tangent_by_fused(*arrays: Array, setting: Setting, moving: tuple[str, ...]) -> list[Array]:
    """Return the tangents of the outputs and the final state. `arrays` is as for `parted`."""
    operands, _, tangents = parted(arrays, setting)
    run, primals = _of_moving(operands, setting, moving)
    return jax.jvp(run, tuple(primals), tuple(tangents))[1]


def _gradient_by_fused(*arrays: Array, setting: Setting, moving: tuple[str, ...]) -> list[Array]:
    """Return the gradients of the operands `moving`. `arrays` is as for `parted`."""
    operands, _, cotangents = parted(arrays, setting)
    run, primals = _of_moving(operands, setting, moving)
    return list(jax.vjp(run, *primals)[1](list(cotangents)))


def parted(arrays: Sequence[Any], setting: Setting) -> tuple[Any, Any, Any]:
    """Split arrays into operands, results that the gradient reads, and tangents or cotangents."""
    n, read = len(setting.names), len(setting.read)
    return arrays[:n], arrays[n : n + read], arrays[n + read :]


# The engine on each device of a mesh.


def _run_by_engines(*operands: Array, setting: Setting, store: bool) -> list[Array]:
    """Run the engine on each device's part of the operands."""
    run = functools.partial(setting.engine.run, setting=setting, store=store)
    return divided(run, setting.names, setting.results(store))(*operands)


def _gradient_by_engines(*arrays: Array, setting: Setting, moving: tuple[str, ...]) -> list[Array]:
    """Compute the gradient by the engine on each device's part of the operands."""
    run = functools.partial(setting.engine.gradient, setting=setting, moving=moving)
    return divided(run, setting.of_gradient, moving)(*arrays)


# The primitives.

_PROGRAMS: dict[core.Primitive, Callable[..., list[Array]]] = {}


def stands_for(equation: core.JaxprEqn) -> core.Jaxpr | None:
    """Return the program that an equation of an engine replaces, to count its FLOPs.

    Args:
      equation: an equation of any jaxpr.

    Returns:
      The jaxpr of the same function written with `fused`, or None for any other primitive.

    Example:
      >>> equation, *_ = jax.make_jaxpr(jnp.sin)(1.0).eqns
      >>> stands_for(equation) is None
      True
    """
    if equation.primitive not in _PROGRAMS:
        return None
    program = functools.partial(_PROGRAMS[equation.primitive], **equation.params)
    return jax.make_jaxpr(program)(*(variable.aval for variable in equation.invars)).jaxpr


def engine_primitive(
    name: str,
    by_fused: Callable[..., list[Array]],
    by_engine: Callable[..., list[Array]] | None = None,
    by_engines: Callable[..., list[Array]] | None = None,
) -> core.Primitive:
    """Return a primitive that computes `by_fused`, or `by_engine` on the engine's platform.

    Args:
      name: the name of the primitive, without its prefix.
      by_fused: the function of arrays and parameters that the primitive computes. One of the
        parameters is `setting`, which has an attribute `engine`.
      by_engine: the same function, computed by the engine on one device.
      by_engines: the same function, if XLA divides the arrays among several devices.
    """
    primitive = core.Primitive(f"seqjax_engine_{name}")
    _PROGRAMS[primitive] = by_fused
    primitive.multiple_results = True
    primitive.def_impl(functools.partial(xla.apply_primitive, primitive))
    elsewhere = mlir.lower_fun(by_fused, multiple_results=True)
    mlir.register_lowering(primitive, elsewhere)
    if by_engine is not None and by_engines is not None:
        needs_devices(primitive)
        rules = {
            "one": mlir.lower_fun(by_engine, multiple_results=True),
            "several": mlir.lower_fun(by_engines, multiple_results=True),
            "unknown": elsewhere,
        }

        def lower(platform: str, context: Any, *operands: Any, **params: Any) -> Any:
            module, engine = context.module_context, params["setting"].engine
            rule = elsewhere
            if engine.platform == platform and not module.lowering_parameters.for_export:
                where = place(module.axis_context)
                rule = rules["unknown" if where == "several" and not engine.divides else where]
            return rule(context, *operands, **params)

        for platform in ("cpu", "cuda"):
            rule = functools.partial(lower, platform)
            mlir.register_lowering(primitive, rule, platform=platform)

    def jvp(primals: Any, tangents: Any, **params: Any) -> Any:
        filled = [_filled(p, t) for p, t in zip(primals, tangents, strict=True)]
        return jax.jvp(functools.partial(by_fused, **params), tuple(primals), tuple(filled))

    ad.primitive_jvps[primitive] = jvp

    def batched(operands: Any, axes: Any, **params: Any) -> Any:
        results = jax.vmap(functools.partial(by_fused, **params), axes)(*operands)
        return results, [0] * len(results)

    batching.primitive_batchers[primitive] = batched
    return primitive


def _filled(primal: Array, tangent: Any) -> Any:
    """Return a tangent for `jax.jvp`, which needs arrays of zeros instead of symbolic zeros."""
    if not isinstance(tangent, ad.Zero):
        return tangent
    if jnp.issubdtype(primal.dtype, jnp.inexact):
        return jnp.zeros_like(primal)
    return np.zeros(primal.shape, jax.dtypes.float0)


def _engine_run(*operands: Array, setting: Setting, store: bool) -> list[Array]:
    return setting.engine.run(*operands, setting=setting, store=store)


def _engine_gradient(*arrays: Array, setting: Setting, moving: tuple[str, ...]) -> list[Array]:
    return setting.engine.gradient(*arrays, setting=setting, moving=moving)


_run = engine_primitive("run", _run_by_fused, _engine_run, _run_by_engines)
_tangent = engine_primitive("tangent", _tangent_by_fused)
_gradient = engine_primitive("gradient", _gradient_by_fused, _engine_gradient, _gradient_by_engines)


def result_like(aval: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return the type of an array that varies over the same mesh axes as `aval`."""
    sharding = aval.sharding.update(spec=jax.sharding.PartitionSpec(*[None] * len(shape)))
    return aval.update(shape=shape, dtype=jnp.dtype(dtype), weak_type=False, sharding=sharding)


def _results(operands: Sequence[Any], setting: Setting, names: Sequence[str]) -> list[Any]:
    """Return the types of the results of a run with the given names."""
    shapes = setting.engine.shapes(operands, setting)
    of = dict(zip(setting.names, operands, strict=True))
    same = {"ys": of["xs"], "h": of["h0"], "c": of.get("c0")}
    dtypes = {name: aval.dtype for name, aval in same.items() if aval is not None}
    return [result_like(operands[0], shapes[name], dtypes.get(name, jnp.float32)) for name in names]


@_run.def_abstract_eval
def _of_run(*operands: Any, setting: Setting, store: bool) -> list[Any]:
    return _results(operands, setting, setting.results(store))


@_tangent.def_abstract_eval
def _of_tangent(*arrays: Any, setting: Setting, moving: tuple[str, ...]) -> list[Any]:
    operands, _, _ = parted(arrays, setting)
    return _results(operands, setting, setting.shown)


@_gradient.def_abstract_eval
def _of_gradient(*arrays: Any, setting: Setting, moving: tuple[str, ...]) -> list[Any]:
    operands, _, _ = parted(arrays, setting)
    of = dict(zip(setting.names, operands, strict=True))
    return [result_like(operands[0], of[name].shape, of[name].dtype) for name in moving]


def _run_jvp(primals: Any, tangents: Any, *, setting: Setting, store: bool) -> Any:
    """Run the cell, store the arrays that the gradient needs, and bind the tangent primitive."""
    results = _run.bind(*primals, setting=setting, store=True)
    named = dict(zip(setting.results(True), results, strict=True))
    moved = {
        name: tangent
        for name, tangent in zip(setting.names, tangents, strict=True)
        if not isinstance(tangent, ad.Zero)
    }
    read = [named[name] for name in setting.read]
    d_shown = _tangent.bind(*primals, *read, *moved.values(), setting=setting, moving=tuple(moved))
    if not store:
        return [named[name] for name in setting.shown], d_shown
    # Only the gradient reads the kept arrays, and its own derivative does not read them.
    return results, d_shown + [ad.Zero(jax.typeof(named[name])) for name in setting.kept]


ad.primitive_jvps[_run] = _run_jvp


def _tangent_transpose(
    cotangents: Any, *arrays: Any, setting: Setting, moving: tuple[str, ...]
) -> Any:
    """Return the gradient, from `fused` if the engine cannot differentiate one of the operands."""
    operands, read, tangents = parted(arrays, setting)
    filled = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    if set(moving) <= DIFFERENTIABLE:
        found = _gradient.bind(*operands, *read, *filled, setting=setting, moving=moving)
    else:
        found = _gradient_by_fused(*operands, *read, *filled, setting=setting, moving=moving)
    linear = [
        d if ad.is_undefined_primal(t) else None for d, t in zip(found, tangents, strict=True)
    ]
    return [None] * (len(operands) + len(read)) + linear


ad.primitive_transposes[_tangent] = _tangent_transpose


def _forget(used: list[bool], *live_and_equation: Any) -> Any:
    """Remove the arrays stored for the gradient from a run if nothing reads them.

    This happens under `jax.checkpoint`, which runs the cell again for the gradient.
    """
    equation = live_and_equation[-1]  # JAX 0.12 passes the live operands before it
    setting, store = equation.params["setting"], equation.params["store"]
    if not any(used):
        return [False] * len(equation.invars), None
    if store and not any(used[len(setting.shown) :]):
        equation = equation.replace(
            outvars=equation.outvars[: len(setting.shown)],
            params={"setting": setting, "store": False},
        )
    return [True] * len(equation.invars), equation


partial_eval.dce_rules[_run] = _forget


def _run_batched(operands: Any, axes: Any, *, setting: Setting, store: bool) -> Any:
    """Apply `vmap` to a run."""
    call = functools.partial(_run.bind, setting=setting, store=store)
    return mapped(call, setting.names, setting.results(store))(operands, axes)


def _gradient_batched(arrays: Any, axes: Any, *, setting: Setting, moving: tuple[str, ...]) -> Any:
    """Apply `vmap` to a gradient."""
    call = functools.partial(_gradient.bind, setting=setting, moving=moving)
    return mapped(call, setting.of_gradient, moving)(arrays, axes)


batching.primitive_batchers[_run] = _run_batched
batching.primitive_batchers[_gradient] = _gradient_batched
