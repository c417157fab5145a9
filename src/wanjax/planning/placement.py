"""Where each part of a model is in each stage of a run, so that a device is never too full.

Everything stays on the device where it fits with some room. Else both experts stay, if that fits,
and else neither. A part that does not stay is on the device until a run has used it for the last
time; before, it waits in the host's memory (`pinned_host`, from which devices fetch by
themselves) where a stage has no room for it, the largest first. An expert that waits arrives
while the other's last step runs, as far as there is room for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Place = Literal["device", "pinned_host", "files"]

# Of a device's memory, where there is a choice: estimates err, and allocators leave gaps.
USABLE = 0.95

EXPERTS = ("transformer", "transformer_2")
_DENOISE = "denoise"


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
    """A stage with each component's place and, in bytes of one device, what it comes to.

    `arriving` bytes of the next stage's expert have room beside the peak, and come ahead.
    """

    name: str
    places: Mapping[str, Place]
    resident: int
    peak: int
    arriving: int = 0


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

    @property
    def waiting(self) -> set[str]:
        """Components that are on the host in some stage, and keep their place there."""
        places = (stage.places.items() for stage in self.stages)
        return {name for of in places for name, place in of if place == "pinned_host"}

    def __getitem__(self, name: str) -> PlacedStage:
        return next(stage for stage in self.stages if stage.name == name)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """By stage."""
        return {
            stage.name: {
                "resident_bytes": stage.resident,
                "peak_bytes": stage.peak,
                "arriving_bytes": stage.arriving,
                "components": dict(stage.places),
            }
            for stage in self.stages
        }


def stage_names(phases: int) -> tuple[str, ...]:
    """The stages of denoising, one for each expert that has steps."""
    return (_DENOISE,) if phases == 1 else (f"{_DENOISE}_high", f"{_DENOISE}_low")


def place(weights: Mapping[str, int], stages: Sequence[Stage], limit: int | None) -> Placement:
    """Place components with weights of so many bytes a device.

    A component that no stage uses stays in its files. Without a limit everything else is on
    the device throughout. What has been sent to the host stays there until a stage uses it.
    """
    used = frozenset[str]().union(*(stage.uses for stage in stages))
    for staying in (used, used & frozenset(EXPERTS), frozenset[str]()):
        placement = _place(weights, stages, limit, used, staying)
        if limit is None or placement.peak <= USABLE * limit:
            break
    return placement


def _place(
    weights: Mapping[str, int],
    stages: Sequence[Stage],
    limit: int | None,
    used: frozenset[str],
    staying: frozenset[str],
) -> Placement:
    places: dict[str, Place] = {name: "device" if name in used else "files" for name in weights}
    placed = []
    for number, stage in enumerate(stages):
        places |= dict.fromkeys(stage.uses, "device")
        placed.append(_placed(weights, places, stages[number:], limit, staying))
        places = dict(placed[-1].places)
    ahead = [_with_arriving(*two, weights, limit) for two in itertools.pairwise(placed)]
    return Placement((*ahead, placed[-1]), limit)


def _placed(
    weights: Mapping[str, int],
    before: Mapping[str, Place],
    stages: Sequence[Stage],
    limit: int | None,
    staying: frozenset[str],
) -> PlacedStage:
    """The first of `stages`: what no stage uses any more leaves, then what finds no room.

    Of that the largest leaves first, and of equals the one that is used last.
    """
    stage, places = stages[0], dict(before)

    def resident() -> int:
        return stage.held + sum(weights[c] for c, where in places.items() if where == "device")

    def next_use(name: str) -> int:
        return next((i for i, s in enumerate(stages) if name in s.uses), len(stages))

    here = {name for name, where in places.items() if where == "device"}
    idle = here - stage.uses - staying
    done = {name for name in idle if next_use(name) == len(stages)}
    places |= dict.fromkeys(done, "pinned_host")
    for name in sorted(idle - done, key=lambda name: (-weights[name], -next_use(name))):
        if limit is None or resident() + stage.added <= USABLE * limit:
            break
        places[name] = "pinned_host"
    return PlacedStage(stage.name, places, resident(), resident() + stage.added)


def _with_arriving(
    stage: PlacedStage, following: PlacedStage, weights: Mapping[str, int], limit: int | None
) -> PlacedStage:
    """`stage` with what has room of the expert that waits for the `following` one."""
    coming = [
        name
        for name in EXPERTS
        if stage.places.get(name) == "pinned_host" and following.places.get(name) == "device"
    ]
    if limit is None or not coming or not stage.name.startswith(_DENOISE):
        return stage
    room = max(int(USABLE * limit) - stage.peak, 0)
    return replace(stage, arriving=min(room, weights[coming[0]]))
