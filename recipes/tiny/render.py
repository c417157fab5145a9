"""Draw scenes of the tiny world as clips of pixels (pure NumPy).

    python recipes/tiny/render.py work/tiny/clips.npy --clips 24000

draws those that the models learn from, on all cores.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from wanjax.files import atomic_path
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


def training_scenes(clips: int, seed: int = 0) -> list[Scene]:
    """The scenes from which the models learn; more of them begin with the same ones."""
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(clips)]


_CHUNK = 250


def render_file(file: Path, scenes: Sequence[Scene]) -> None:
    """The clips of `scenes` into a NumPy file, by as many processes as there are cores.

    The processes import no JAX, and the file does not depend on their number.
    """
    with atomic_path(file) as partial:
        shape = (len(scenes), *render(scenes[0]).shape)
        np.lib.format.open_memmap(partial, "w+", np.uint8, shape).flush()
        starts = range(0, len(scenes), _CHUNK)
        parts = [scenes[i : i + _CHUNK] for i in starts]
        with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
            list(pool.map(_render_part, [partial] * len(parts), starts, parts))


def _render_part(file: Path, start: int, scenes: Sequence[Scene]) -> None:
    clips = np.lib.format.open_memmap(file, "r+")
    clips[start : start + len(scenes)] = render_scenes(scenes)
    clips.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--clips", type=int, default=24_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    render_file(args.file, training_scenes(args.clips, args.seed))
    print(f"{args.clips} clips in {args.file}, {args.file.stat().st_size / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
