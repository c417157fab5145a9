"""Programs compiled and measured, never run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax

from wanjax.errors import UsageError
from wanjax.parallel.hlo import Collective, collectives, kernels
from wanjax.sampling.programs import Compilation, Programs

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NEEDED = re.compile(r"(?:required|Used)[^\d]*\(?([\d.]+)([KMGT])")


@dataclass(frozen=True)
class Figures:
    """Bytes are those of one device.

    `temporary_bytes` are held while the program runs, besides its arguments and results;
    `donated_bytes` are those of arguments that make room for results.
    """

    name: str
    argument_bytes: int = 0
    temporary_bytes: int = 0
    output_bytes: int = 0
    donated_bytes: int = 0
    code_bytes: int = 0
    collectives: dict[str, Collective] = field(default_factory=dict)
    kernels: tuple[str, ...] = ()
    compile_seconds: float = 0.0
    refused: str | None = None  # what the compiler said where it found no room

    @property
    def added_bytes(self) -> int:
        """What a device holds besides the arguments at the program's peak."""
        return self.temporary_bytes + self.output_bytes - self.donated_bytes


class AbstractPrograms(Programs):
    """Programs whose call gives the shapes, dtypes and places of the results, and no arrays.

    `made` are all programs compiled so far. One that the compiler has no room for has figures,
    too: that is an answer here, no failure. Arguments are `jax.ShapeDtypeStruct`.
    """

    def __init__(self, mesh: Any = None, tell: Callable[[str], None] = lambda line: None):
        super().__init__(mesh)
        self.made: list[AbstractProgram] = []
        self._tell = tell

    def _compile(self, function: Any, args: tuple[Any, ...]) -> Callable[..., Any]:
        began = time.perf_counter()
        name = function.__name__.strip("_").removesuffix("_impl")
        self._tell(f"compiling {name} ...")
        with self._meshed():
            lowered = function.lower(*args)
            try:
                compiled = lowered.compile()
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise _failed(name, error) from error
                compiled, refused = None, str(error)
        seconds = time.perf_counter() - began
        self.compilations.append(Compilation(name, seconds))
        if compiled is None:
            figures, results = _refused(name, refused, seconds), lowered.out_info
        else:
            figures, results = _measured(name, compiled, seconds), compiled.out_info
        program = AbstractProgram(figures, results)
        self.made.append(program)
        return program


@dataclass(frozen=True)
class AbstractProgram:
    """Gives its abstract results to whoever calls it."""

    figures: Figures
    results: Any

    def __call__(self, *args: Any) -> Any:
        return self.results


def _measured(name: str, compiled: Any, seconds: float) -> Figures:
    try:
        memory, text = compiled.memory_analysis(), compiled.as_text()
    except jax.errors.JaxRuntimeError as error:  # of a compiler that is not of JAX's age
        raise _failed(name, error) from error
    return Figures(
        name,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
        memory.generated_code_size_in_bytes,
        collectives(text),
        kernels(text),
        seconds,
    )


def _failed(name: str, error: Exception) -> UsageError:
    return UsageError(
        f"compiling {name}: the target's compiler fails: {str(error).strip().splitlines()[0]}; "
        "the one that `pip install -U 'wanjax[tpu]'` (or `[cuda13]`) brings goes with this JAX"
    )


def _refused(name: str, error: str, seconds: float) -> Figures:
    """The compiler states what it would need; without that it needs more than there is."""
    needed = _NEEDED.search(error)
    size = int(float(needed[1]) * _UNITS[needed[2]]) if needed else 0
    line = error.strip().splitlines()[0]
    return Figures(name, temporary_bytes=size, compile_seconds=seconds, refused=line)
