"""Programs compiled ahead of time, so that no timed run contains a compilation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
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

    At most `most` programs are kept: of sizes that come and go, those compiled first are forgotten.
    `compilations` are those so far, `len()` is the number of programs kept. `watch`, if set,
    is told of each use: function, arguments and compiled program. Threads may ask at once: what
    one compiles the others wait for. What is compiled, by name, happens inside `compiling(name)`,
    such as a progress bar's.
    """

    def __init__(self, mesh: Mesh | None = None, most: int = 256) -> None:
        if mesh is not None and set(mesh.axis_types) - {AxisType.Auto}:
            raise UsageError(
                "mesh: the models need automatic axes; make the mesh with "
                "wanjax.parallel.sharding.make_mesh, or with axis_types of AxisType.Auto"
            )
        self.mesh, self.most = mesh, most
        self.compilations: list[Compilation] = []
        self.watch: Callable[[Any, tuple[Any, ...], Any], None] | None = None
        self.waited = 0.0  # seconds that callers of `get` have spent on compilations
        self._compiled: dict[Hashable, Future[Callable[..., Any]]] = {}
        self._lock = threading.Lock()
        self.compiling: Callable[[str], AbstractContextManager[Any]] = nullcontext

    def __len__(self) -> int:
        return len(self._compiled)

    @property
    def seconds(self) -> float:
        """Time spent compiling so far, by all threads together."""
        return sum(compilation.seconds for compilation in self.compilations)

    def get(
        self, function: Any, static: tuple[Hashable, ...], args: tuple[Any, ...]
    ) -> Callable[..., Any]:
        """The program of a `jax.jit` function whose static arguments come first.

        It takes `args`-like arguments, without the static ones: of the same shapes, and lying
        where these lie. `args` may be abstract (`jax.ShapeDtypeStruct`).
        """
        began = time.perf_counter()
        program, compiled = self._find(function, static, args)
        if compiled:
            self.waited += time.perf_counter() - began
        if self.watch is not None:
            self.watch(function, args, program)
        return program

    def ahead(
        self, function: Any, static: tuple[Hashable, ...], args: tuple[Any, ...]
    ) -> Callable[..., Any]:
        """As `get`, before anyone waits for the program."""
        return self._find(function, static, args)[0]

    def _find(
        self, function: Any, static: tuple[Hashable, ...], args: tuple[Any, ...]
    ) -> tuple[Callable[..., Any], bool]:
        """The program, and whether it was not there yet."""
        leaves, structure = jax.tree.flatten(args)
        key = (function, static, structure, tuple(map(_signature, leaves)))
        with self._lock:
            mine: Future[Callable[..., Any]] = Future()
            program = self._compiled.setdefault(key, mine)  # hashing it takes long: once only
            if len(self._compiled) > self.most:
                del self._compiled[next(iter(self._compiled))]
        if program is not mine:
            there = program.done()
            return program.result(), not there
        try:
            mine.set_result(self._compile(function, (*static, *args)))
        except BaseException as error:
            self._compiled.pop(key, None)  # whoever asks next tries again
            mine.set_exception(error)
        return mine.result(), True

    def clear(self) -> None:
        """Forget all programs, so that those which nobody holds give their memory back."""
        self._compiled.clear()

    def _compile(self, function: Any, args: tuple[Any, ...]) -> Callable[..., Any]:
        name = function.__name__.strip("_")
        began = time.perf_counter()
        with self.compiling(name), self._meshed():
            program: Callable[..., Any] = function.lower(*args).compile()
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
