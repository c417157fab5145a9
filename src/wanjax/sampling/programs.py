"""Programs compiled ahead of time, so that no timed run contains a compilation."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, SingleDeviceSharding

from wanjax.errors import UsageError


class Compilation(NamedTuple):
    """What compiling one program took."""

    name: str  # the function's
    seconds: float


class Programs:
    """Programs compiled for one mesh, by function, static arguments and the arguments' layout.

    Everything is compiled under `jax.set_mesh(mesh)`, which is how models know it; without a
    mesh everything is compiled for none, whatever mesh the caller has set. Raises
    `UsageError` for a mesh whose axes are not automatic.

    `compilations` are those so far, `len()` is the number of programs kept. `watch`, if set,
    is told of each use: function, arguments and compiled program.
    """

    def __init__(self, mesh: Mesh | None = None) -> None:
        if mesh is not None and set(mesh.axis_types) - {AxisType.Auto}:
            raise UsageError(
                "mesh: the models need automatic axes; make the mesh with "
                "wanjax.parallel.sharding.make_mesh, or with axis_types of AxisType.Auto"
            )
        self.mesh = mesh
        self.compilations: list[Compilation] = []
        self.watch: Callable[[Any, tuple[Any, ...], Any], None] | None = None
        self._compiled: dict[Hashable, Callable[..., Any]] = {}

    def __len__(self) -> int:
        return len(self._compiled)

    @property
    def seconds(self) -> float:
        """Time spent compiling so far."""
        return sum(compilation.seconds for compilation in self.compilations)

    def get(
        self, function: Any, static: tuple[Hashable, ...], args: tuple[Any, ...]
    ) -> Callable[..., Any]:
        """The program of a `jax.jit` function whose static arguments come first.

        It takes `args`-like arguments, without the static ones: of the same shapes, and lying
        where these lie. `args` may be abstract (`jax.ShapeDtypeStruct`).
        """
        leaves, structure = jax.tree.flatten(args)
        key = (function, static, structure, tuple(map(_signature, leaves)))
        program = self._compiled.get(key)  # hashing the key takes long: once only
        if program is None:
            program = self._compiled[key] = self._compile(function, (*static, *args))
        if self.watch is not None:
            self.watch(function, args, program)
        return program

    def clear(self) -> None:
        """Forget all programs, so that those which nobody holds give their memory back."""
        self._compiled.clear()

    def _compile(self, function: Any, args: tuple[Any, ...]) -> Callable[..., Any]:
        began = time.perf_counter()
        with self._meshed():
            program: Callable[..., Any] = function.lower(*args).compile()
        name = function.__name__.strip("_")
        self.compilations.append(Compilation(name, time.perf_counter() - began))
        return program

    def _meshed(self) -> AbstractContextManager[Any]:
        """The mesh as models know it."""
        return jax.set_mesh(_NO_MESH if self.mesh is None else self.mesh)


_NO_MESH = Mesh(np.empty((), object), ())


def _signature(x: Any) -> Hashable:
    return (x.shape, str(x.dtype), _placed(x))


def _placed(x: Any) -> Hashable:
    """Where an array was put, and how it lies there if that was asked for.

    None for one that goes wherever the program wants it.
    """
    sharding = getattr(x, "sharding", None)
    if sharding is None or (isinstance(x, jax.Array) and not x.committed):
        return None
    if sharding == SingleDeviceSharding(jax.devices()[0]):  # where it goes of itself
        return None
    layout = getattr(getattr(x, "format", None), "layout", None)
    return sharding, getattr(layout, "tiling", None) or None
