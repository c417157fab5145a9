"""The outlines of the tiny world, which the renderer draws and the scorer looks for.

Each outline is the signed distance, in the units of its arguments, of points (x, y) from
the edge of a shape of a given radius centred at the origin: negative inside, y down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Field = Float[np.ndarray, "*#points"]  # broadcast against one another

_SQUARE = 0.88  # half the side of the square, in radii
_TRIANGLE = 1.1  # half the side of the triangle
_BAR_LENGTH, _BAR_WIDTH = 1.05, 0.4  # half the length and width of the bars of the cross
_SIN_60 = 0.75**0.5


def _ball(x: Field, y: Field, radius: Field) -> Field:
    distance: Field = np.sqrt(x * x + y * y) - radius
    return distance


def _square(x: Field, y: Field, radius: Field) -> Field:
    distance: Field = np.maximum(np.abs(x), np.abs(y)) - _SQUARE * radius
    return distance


def _triangle(x: Field, y: Field, radius: Field) -> Field:
    """Equilateral and upright, centred on its bounding box."""
    half_height = _TRIANGLE * _SIN_60 * radius
    # The two slanted edges fall from the apex (0, -half_height) at 60 degrees.
    slanted = _SIN_60 * np.abs(x) - 0.5 * (y + half_height)
    distance: Field = np.maximum(slanted, y - half_height)
    return distance


def _cross(x: Field, y: Field, radius: Field) -> Field:
    """A plus: the union of an upright and a level bar."""
    x, y = np.abs(x), np.abs(y)
    length, width = _BAR_LENGTH * radius, _BAR_WIDTH * radius
    distance: Field = np.maximum(np.maximum(x, y) - length, np.minimum(x, y) - width)
    return distance


@dataclass(frozen=True)
class Outline:
    """`area` in squared radii; `centroid`, in radii, is how far the mean lies below the centre."""

    distance: Callable[[Field, Field, Field], Field]
    area: float
    centroid: float = 0.0


OUTLINES: dict[str, Outline] = {
    "ball": Outline(_ball, np.pi),
    "square": Outline(_square, 4 * _SQUARE**2),
    "triangle": Outline(_triangle, 2 * _SIN_60 * _TRIANGLE**2, _SIN_60 * _TRIANGLE / 3),
    "cross": Outline(_cross, 8 * _BAR_LENGTH * _BAR_WIDTH - 4 * _BAR_WIDTH**2),
}


def coverage(
    shape: str,
    x: Float[np.ndarray, " frames"],
    y: Float[np.ndarray, " frames"],
    radius: Float[np.ndarray, " frames"],
    height: int,
    width: int,
) -> Float[np.ndarray, "frames height width"]:
    """Share of each pixel, 0 to 1, which `shape` covers; arguments in pixels.

    clip(1/2 - distance, 0, 1): exact for edges along an axis, close for all others.
    """
    x, y, radius = np.stack([x, y, radius]).astype(np.float32)[:, :, None, None]
    columns = np.arange(width, dtype=np.float32) + 0.5
    rows = np.arange(height, dtype=np.float32)[:, None] + 0.5
    return np.clip(0.5 - OUTLINES[shape].distance(columns - x, rows - y, radius), 0, 1)
