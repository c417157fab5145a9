"""`wanjax` on a device that is slower than this machine, and always as slow.

    python benchmarks/paced.py GFLOPS serve tiny-t2v port=8000

Every program is run here, and its results are held back until a device of so many GFLOP/s would
have them: by the operations that XLA counts, however busy this machine is, as long as that is the
faster of the two. So what is told of a run beforehand can be judged apart from how much a machine's
own times differ. Compiling, files and the host's own work take what they take.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import jax
from serving import LATE

from wanjax.checkpoints.configs import model_configs
from wanjax.cli.main import main
from wanjax.sampling.programs import Programs
from wanjax.sampling.step import run_step

TIMED = 0.01  # seconds; what is less is the host's own


class Paced:
    """A compiled program that takes its time, and says where this machine took longer."""

    def __init__(self, program: Any, seconds: float):
        self._program, self.seconds = program, seconds

    def __call__(self, *args: Any) -> Any:
        until = time.monotonic() + self.seconds
        results = jax.block_until_ready(self._program(*args))
        left = until - time.monotonic()
        if left > 0:
            time.sleep(left)
        elif self.seconds > TIMED:
            print(f"{LATE} by {-left:.3f} of {self.seconds:.3f} s", file=sys.stderr, flush=True)
        return results

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)


def pace(rate: float) -> None:
    """Have all programs of this process take their operations over `rate` (a second)."""
    compiled: Callable[..., Any] = Programs._compile
    # XLA counts the body of a loop over an expert's layers once
    model = model_configs("wanjax/tiny/t2v").components["transformer"]
    layers = model["num_layers"]

    def compiled_and_paced(self: Programs, function: Any, args: tuple[Any, ...]) -> Paced:
        program = compiled(self, function, args)
        operations = program.cost_analysis().get("flops", 0.0)
        return Paced(program, operations * (layers if function is run_step else 1) / rate)

    Programs._compile = compiled_and_paced  # type: ignore[method-assign]


if __name__ == "__main__":
    pace(1e9 * float(sys.argv[1]))
    del sys.argv[1]
    sys.exit(main())
