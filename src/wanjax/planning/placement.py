"""Where each part of a model is in each stage of a run, so that a device is never too full.

Everything stays on the device where it fits. Where it does not, what a stage does not use waits
in the host's memory (`pinned_host`, from which devices fetch by themselves), the largest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Place = Literal["device", "pinned_host", "files"]


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
    the device throughout.
    """
    return Placement(tuple(_placed(weights, stages, stage, limit) for stage in stages), limit)


def _placed(
    weights: Mapping[str, int], stages: Sequence[Stage], stage: Stage, limit: int | None
) -> PlacedStage:
    used = frozenset[str]().union(*(s.uses for s in stages))
    places: dict[str, Place] = {c: "device" if c in used else "files" for c in weights}

    def resident() -> int:
        return stage.held + sum(weights[c] for c, where in places.items() if where == "device")

    for name in sorted(used - stage.uses, key=lambda c: -weights[c]):
        if limit is None or resident() + stage.added <= limit:
            break
        places[name] = "pinned_host"
    return PlacedStage(stage.name, places, resident(), resident() + stage.added)
