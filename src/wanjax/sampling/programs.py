"""Programs compiled ahead of time, so that no timed run contains a compilation."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any

import jax


class Programs:
    """Compiled programs by function, static arguments and argument shapes.

    `seconds` is the time spent compiling so far, `len()` the number of programs. `watch`, if
    set, is told of each use: function, arguments and compiled program.
    """

    def __init__(self) -> None:
        self._compiled: dict[Hashable, Callable[..., Any]] = {}
        self.seconds = 0.0
        self.watch: Callable[[Any, tuple[Any, ...], Any], None] | None = None

    def __len__(self) -> int:
        return len(self._compiled)

    def get(
        self, function: Any, static: tuple[Hashable, ...], args: tuple[Any, ...]
    ) -> Callable[..., Any]:
        """The program of a `jax.jit` function whose static arguments come first.

        It takes `args`-like arguments, without the static ones.
        """
        leaves, structure = jax.tree.flatten(args)
        key = (function, static, structure, tuple(map(_signature, leaves)))
        program = self._compiled.get(key)  # hashing the key takes long: once only
        if program is None:
            began = time.perf_counter()
            program = self._compiled[key] = function.lower(*static, *args).compile()
            self.seconds += time.perf_counter() - began
        if self.watch is not None:
            self.watch(function, args, program)
        return program


def _signature(x: Any) -> Hashable:
    return (x.shape, str(x.dtype))
