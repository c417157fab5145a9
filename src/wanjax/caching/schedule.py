"""The steps of a run before any caching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from wanjax.errors import PlanError

EXPERT_NAMES = ("high", "low")

Rows = Sequence[Sequence[float]] | Float[np.ndarray, "steps _"]


@dataclass(frozen=True)
class Schedule:
    """The steps of a run before any caching: noise levels, experts, guidance.

    `timesteps` and `experts` have one entry per step, `sigmas` one more (the last is 0).
    Expert 0 is `transformer` (high noise), expert 1 `transformer_2` (low noise). `corrector` and
    `predictor` are the sampler's weights in each step (see `schedulers.SamplerTable`), for
    methods that have to know what a change of the output does to later samples.
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]
    experts: tuple[int, ...]
    guidance_scales: tuple[float, ...]
    num_experts: int = 1
    flow_shift: float | None = None
    boundary_ratio: float | None = None
    corrector: tuple[tuple[float, ...], ...] = ()
    predictor: tuple[tuple[float, ...], ...] = ()
    placed: bool = True  # False: the noise levels stand for those of any run

    def __repr__(self) -> str:
        """In a line; the fields are as long as the run."""
        parts = [f"{self.num_steps} steps"]
        for name in ("flow_shift", "boundary_ratio", "boundary_step"):
            value = getattr(self, name)
            if value is not None:
                parts.append(f"{name}={value:g}")
        scales = " / ".join(f"{scale:g}" for scale in dict.fromkeys(self.guidance_scales))
        return f"Schedule({', '.join(parts)}, guidance {scales})"

    @classmethod
    def unplaced(cls, num_steps: int, boundary_step: int | None = None) -> Schedule:
        """So many steps of a run that is not known yet, with guidance; see `Plan.on`."""
        return cls(
            timesteps=tuple(float(num_steps - i) for i in range(num_steps)),
            sigmas=tuple(1 - i / num_steps for i in range(num_steps + 1)),
            experts=tuple(
                int(boundary_step is not None and i >= boundary_step) for i in range(num_steps)
            ),
            guidance_scales=(2.0,) * num_steps,
            num_experts=1 if boundary_step is None else 2,
            placed=False,
        )

    def __post_init__(self) -> None:
        n = len(self.timesteps)
        if not n == len(self.experts) == len(self.guidance_scales) == len(self.sigmas) - 1:
            raise PlanError(
                f"{n} timesteps need {n} experts, {n} guidance scales and {n + 1} sigmas; got "
                f"{len(self.experts)}, {len(self.guidance_scales)} and {len(self.sigmas)}"
            )

    @property
    def num_steps(self) -> int:
        return len(self.timesteps)

    @property
    def boundary_step(self) -> int | None:
        """Index of the first low-noise step (`num_steps` if none is); None with one expert."""
        if self.num_experts == 1:
            return None
        return self.experts.index(1) if 1 in self.experts else self.num_steps

    @property
    def phases(self) -> tuple[range, ...]:
        """The steps of each expert that has any, in order."""
        if self.boundary_step is None:
            return (range(self.num_steps),)
        halves = (range(self.boundary_step), range(self.boundary_step, self.num_steps))
        return tuple(half for half in halves if len(half))

    @cached_property
    def maps(self) -> Float[np.ndarray, "steps 4 5"]:
        """The sampler's steps as matrices; see `sampler_maps`."""
        return sampler_maps(self.corrector, self.predictor, self.sigmas)

    def num_branches(self, step: int) -> int:
        """2 (conditional, unconditional) where guidance acts, else 1."""
        return 2 if self.guidance_scales[step] > 1 else 1


def sampler_maps(
    corrector: Rows, predictor: Rows, sigmas: Sequence[float] | Float[np.ndarray, " levels"]
) -> Float[np.ndarray, "steps 4 5"]:
    """Each step of a sampler as a matrix: from (x, x', m', m'', v) to the next (x, x', m', m'').

    See `schedulers.SamplerTable` for the step; v is the model's output.
    """
    c, p = np.asarray(corrector, np.float64), np.asarray(predictor, np.float64)
    steps = np.arange(len(c))
    denoised, before = np.zeros((2, len(c), 5))
    denoised[:, 0], denoised[steps, 4] = 1.0, -np.asarray(sigmas, np.float64)[steps]
    before[:, 2] = 1.0
    corrected = np.insert(c[:, [0, 1, 3, 4]], 4, 0.0, axis=1) + c[:, 2:3] * denoised
    sample = p[:, 0:1] * corrected + p[:, 1:2] * denoised + p[:, 2:3] * before
    return np.stack([sample, corrected, denoised, before], axis=1)
