"""A folder of frames: 00000.png, 00001.png, ..., every pixel as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from wanjax.files import atomic_path

_NAMES = "[0-9]" * 5 + ".png"


def write_frames(frames: UInt8[np.ndarray, "frames height width 3"], folder: Path) -> int:
    """Write all frames or none, in place of those that are there; returns their bytes."""
    with atomic_path(folder, moved=False) as partial:
        partial.mkdir()
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(partial / f"{number:05}.png")
        size = sum(file.stat().st_size for file in partial.iterdir())
        folder.mkdir(exist_ok=True)
        for old in folder.glob(_NAMES):
            old.unlink()
        for file in partial.iterdir():
            file.replace(folder / file.name)
    return size


def read_frames(folder: Path) -> UInt8[np.ndarray, "frames height width 3"]:
    """The frames of a folder that `write_frames` wrote. Raises `ValueError` if it has none."""
    pictures = []
    for path in sorted(folder.glob(_NAMES)):
        with Image.open(path) as image:
            pictures.append(np.asarray(image.convert("RGB")))
    return np.stack(pictures)
