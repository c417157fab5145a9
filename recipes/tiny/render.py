"""Draw scenes of the tiny world as clips of pixels (pure NumPy, no files)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from wanjax.tiny.shapes import coverage
from wanjax.tiny.world import BACKGROUND_RGB, COLOR_RGB, Scene, caption, sample_scene


def render(scene: Scene, frames: int = 17, size: int = 64) -> UInt8[np.ndarray, "frames h w 3"]:
    """The clip of `scene`: `frames` RGB images of `size` × `size` pixels."""
    x, y, radius = scene.trajectory(np.linspace(0, 1, frames)) * size
    alpha = coverage(scene.shape, x, y, radius, size, size)
    top, bottom = np.array(BACKGROUND_RGB[scene.background], np.float32)
    height = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    background = (top + (bottom - top) * height)[:, None, :]
    contrast = np.array(COLOR_RGB[scene.color], np.float32) - background
    clip = np.empty((frames, size, size, 3), np.uint8)
    for channel in range(3):
        # The half makes the cast to integers round.
        clip[..., channel] = alpha * contrast[..., channel] + (background[..., channel] + 0.5)
    return clip


def render_scenes(
    scenes: Sequence[Scene], frames: int = 17, size: int = 64
) -> UInt8[np.ndarray, "batch frames h w 3"]:
    """The clips of several scenes."""
    return np.stack([render(scene, frames, size) for scene in scenes])


def render_clips(
    rng: np.random.Generator, batch: int, *, frames: int = 17, size: int = 64
) -> tuple[UInt8[np.ndarray, "batch frames h w 3"], list[str]]:
    """`batch` training clips with their captions; `rng` alone determines both."""
    scenes = [sample_scene(rng) for _ in range(batch)]
    captions = [caption(scene, rng) for scene in scenes]
    return render_scenes(scenes, frames, size), captions
