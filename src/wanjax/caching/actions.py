"""What a guidance branch does in a step, and what a run has to keep for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

Source = Literal["blocks", "residual", "output", "offset", "branch", "nothing"]


@dataclass(frozen=True)
class Action:
    """What a guidance branch does in a step: it computes, or its output is estimated.

    `source` is what the output comes from, `weights` how much of each, the newest first:

    - `blocks`: the transformer blocks run;
    - `residual`: what the blocks added to the tokens in the branch's last computed steps, added
      once more; embedding and head run;
    - `output`: the guided outputs of the last computed steps; the model does not run;
    - `offset`: those outputs minus the samples they were computed at, added to the sample;
    - `branch`: the unconditional output from the conditional one and the difference of the two
      in the last step that computed both, weighted by its (low, high) frequencies;
    - `nothing`: there is none, as the sampler's step before goes past this one.

    "Computed" means by the same expert: nothing crosses the boundary.
    """

    name: str
    source: Source
    weights: tuple[float, ...] = ()

    @property
    def computes(self) -> bool:
        return self.source == "blocks"


COMPUTE = Action("compute", "blocks")
REUSE = Action("reuse", "residual", (1.0,))
PASS = Action("pass", "nothing")
REUSE_OUTPUT = Action("reuse_output", "output", (1.0,))
REUSE_OFFSET = Action("reuse_offset", "offset", (1.0,))


def predict(low: float, high: float) -> Action:
    """The unconditional output from the conditional one; see `Action`, source `branch`."""
    return Action("predict", "branch", (low, high))


class Keeps(NamedTuple):
    """How many of its last computed steps' values a run keeps, by what they are.

    `residuals` of the blocks (per branch), guided `outputs`, `samples` at which they were
    computed, `branches`: the outputs before guidance; `previous`: 1 for the sample of the step
    before, computed or not.
    """

    residuals: int = 0
    outputs: int = 0
    samples: int = 0
    branches: int = 0
    previous: int = 0

    def and_also(self, other: Keeps) -> Keeps:
        """What serves both."""
        return Keeps(*map(max, self, other))


# Sources that stand for the guided output, or for none.
WITHOUT_MODEL: tuple[Source, ...] = ("output", "offset", "nothing")

# What an estimate from each source needs, times its number of weights.
NEEDS: Mapping[Source, Keeps] = {
    "blocks": Keeps(),
    "nothing": Keeps(),
    "residual": Keeps(residuals=1),
    "output": Keeps(outputs=1),
    "offset": Keeps(outputs=1, samples=1),
    "branch": Keeps(branches=1),
}
