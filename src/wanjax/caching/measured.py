"""What a calibration was made with, and the numbers that it left: common to all its files."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from pydantic import AfterValidator, BeforeValidator, Field, GetPydanticSchema

from wanjax.errors import UsageError
from wanjax.validation import Fraction, Number, Positive, Size, Whole, checked


def array_of(kind: Any) -> GetPydanticSchema:
    """A field of NumPy float64, given as an array or as what `kind` allows; nobody writes to it."""
    values = Annotated[kind, BeforeValidator(_listed), AfterValidator(_frozen)]
    return GetPydanticSchema(lambda _, handler: handler.generate_schema(values))


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _frozen(values: Any) -> np.ndarray:
    array = np.array(values, np.float64)
    array.flags.writeable = False
    return array


Sigmas = Annotated[
    Float[np.ndarray, " steps+1"],
    array_of(list[Annotated[Number, Field(ge=0, le=1)]]),
]


@checked(UsageError, kw_only=True)
class Measured:
    """What was measured, and how; what is not known is None.

    `model` is a preset's name where there is one, else a folder or Hub id. `boundary_step` is
    the index of the first low-noise step, None with one expert.
    """

    model: str | None = None
    sampler: str | None = None
    flow_shift: Positive | None = None
    boundary_ratio: Fraction | None = None
    boundary_step: Annotated[Whole, Field(ge=1)] | None = None
    guidance_scales: tuple[Number, ...] | None = None
    height: Size | None = None
    width: Size | None = None
    num_frames: Size | None = None
    dtype: str | None = None
    attention: str | None = None
    prompts: tuple[str, ...] | None = None
    seeds: tuple[Whole, ...] | None = None
    package_version: str | None = None
    source: str | None = None
    notes: str | None = None

    def __post_init__(self) -> None:
        if (self.boundary_step is None) != (self.boundary_ratio is None):
            raise ValueError(
                "boundary_step and boundary_ratio belong together: both for two experts, else "
                f"neither; got {self.boundary_step} and {self.boundary_ratio}"
            )
