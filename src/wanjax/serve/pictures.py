"""Small pictures of a video: one frame, and a sheet of many."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_SIDE, _TILES = 512, 16  # pixels of a thumbnail's longer side; pictures in a sheet
_QUALITY = 85


def save_thumbnail(frames: UInt8[np.ndarray, "frames height width 3"], path: Path) -> None:
    """The middle frame."""
    image = Image.fromarray(frames[len(frames) // 2])
    image.thumbnail((_SIDE, _SIDE))
    image.save(path, quality=_QUALITY)


def save_spritesheet(frames: UInt8[np.ndarray, "frames height width 3"], path: Path) -> None:
    """Frames spread evenly over the video, row by row."""
    count = min(_TILES, len(frames))
    chosen = [frames[round(i)] for i in np.linspace(0, len(frames) - 1, count)]
    columns = math.ceil(math.sqrt(count))
    tiles = [Image.fromarray(frame) for frame in chosen]
    for tile in tiles:
        tile.thumbnail((_SIDE // 2, _SIDE // 2))
    width, height = tiles[0].size
    sheet = Image.new("RGB", (columns * width, math.ceil(count / columns) * height))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % columns * width, i // columns * height))
    sheet.save(path, quality=_QUALITY)
