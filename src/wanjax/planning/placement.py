"""Where each part of a model is in each stage of a run, so that a device is never too full.

Everything stays on the device where it fits with some room. Where it does not, what a stage does
not use waits in the host's memory (`pinned_host`, from which devices fetch by themselves), the
largest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Place = Literal["device", "pinned_host", "files"]

# Of a device's memory, where there is a choice: estimates err, and allocators leave gaps.
USABLE = 0.95


@dataclass(frozen=True)
class Stage:
    """A part of a run: the components that it uses, and what it holds besides weights.

    Both in bytes of one device: `held` throughout, `added` more at its peak.
    """

    name: str
    uses: frozenset[str]
    held: int = 0
    added: int = 0


@dataclass(frozen=True)
class PlacedStage:
    """A stage with each component's place and, in bytes of one device, what it comes to."""

    name: str
    places: Mapping[str, Place]
    resident: int
    peak: int


@dataclass(frozen=True)
class Placement:
    """All stages, in the order in which they run."""

    stages: tuple[PlacedStage, ...]
    limit: int | None

    @property
    def peak(self) -> int:
        return max(stage.peak for stage in self.stages)

    @property
    def fits(self) -> bool:
        return self.limit is None or self.peak <= self.limit

    def __getitem__(self, name: str) -> PlacedStage:
        return next(stage for stage in self.stages if stage.name == name)


def stage_names(phases: int) -> tuple[str, ...]:
    """The stages of denoising, one for each expert that has steps."""
    return ("denoise",) if phases == 1 else ("denoise_high", "denoise_low")


def place(weights: Mapping[str, int], stages: Sequence[Stage], limit: int | None) -> Placement:
    """Place components with weights of so many bytes a device.

    A component that no stage uses stays in its files. Without a limit everything else is on
    the device throughout. What has been sent to the host stays there until a stage uses it.
    """
    used = frozenset[str]().union(*(stage.uses for stage in stages))
    places: dict[str, Place] = {name: "device" if name in used else "files" for name in weights}
    placed = []
    for number, stage in enumerate(stages):
        places |= dict.fromkeys(stage.uses, "device")
        placed.append(_placed(weights, places, stages[number:], limit))
        places = dict(placed[-1].places)
    return Placement(tuple(placed), limit)


def _placed(
    weights: Mapping[str, int],
    before: Mapping[str, Place],
    stages: Sequence[Stage],
    limit: int | None,
) -> PlacedStage:
    """The first of `stages`: of what it does not use the largest leaves first, the last used."""
    stage, places = stages[0], dict(before)

    def resident() -> int:
        return stage.held + sum(weights[c] for c, where in places.items() if where == "device")

    def next_use(name: str) -> int:
        return next((i for i, s in enumerate(stages) if name in s.uses), len(stages))

    idle = [name for name, where in places.items() if where == "device" and name not in stage.uses]
    for name in sorted(idle, key=lambda name: (-weights[name], -next_use(name))):
        if limit is None or resident() + stage.added <= USABLE * limit:
            break
        places[name] = "pinned_host"
    return PlacedStage(stage.name, places, resident(), resident() + stage.added)
