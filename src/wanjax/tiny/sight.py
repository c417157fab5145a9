"""What the bundled models do not know of a prompt or a picture, told before they run."""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np
from jaxtyping import UInt8

from wanjax.tiny.world import BACKGROUNDS, COLORS, SHAPES, parse

WORLD = (
    f"one flat shape ({', '.join(SHAPES)}; {', '.join(COLORS)}) that moves left, right, up or "
    f"down, grows or shrinks on a plain background ({', '.join(BACKGROUNDS)})"
)

_LEAST_CHROMA = 60  # of 255; the backgrounds have less
_NEAR = 24  # of 255, from one colour to the same one, on a curve of light or a JPEG's noise
_LEAST_DRAWN = 0.9  # share of pixels; the rest are edges


def about_prompt(prompt: str, vocabulary: Collection[str]) -> str | None:
    """What to say of a prompt that names no shape, or has words that were never learnt."""
    words = re.findall(r"[^\W_]+", prompt.lower())
    strange = list(dict.fromkeys(word for word in words if word not in vocabulary))
    unknown = f"it does not know {', '.join(map(repr, strange))}"
    if "shape" not in parse(prompt):
        why = unknown if strange else "no shape is named"
        return f"outside the bundled model's world: {why}; it draws {WORLD}"
    if strange:
        return f"in part outside the bundled model's world: {unknown}; it draws {WORLD}"
    return None


def is_drawing(picture: UInt8[np.ndarray, "height width 3"]) -> bool:
    """Whether a picture is as those of the training: one flat, saturated shape on a plain ground.

    Nearly all pixels have the shape's one colour, or are grey as the rest of their row.
    """
    pixels = picture.astype(np.float32)
    saturated = pixels.max(axis=2) - pixels.min(axis=2) > _LEAST_CHROMA
    if not 0.005 < saturated.mean() < 0.6:
        return False
    shape = np.abs(pixels - np.median(pixels[saturated], axis=0)).max(axis=2) < 2 * _NEAR
    grey = np.where(saturated[..., None], np.nan, pixels)
    rows = ~saturated.all(axis=1)
    ground = np.full(saturated.shape, False)
    level = np.nanmedian(grey[rows], axis=(1, 2))[:, None, None]
    ground[rows] = np.abs(pixels[rows] - level).max(axis=2) < _NEAR
    return bool(np.mean((saturated & shape) | (~saturated & ground)) > _LEAST_DRAWN)
