"""Draw docs/images/tiny-t2v.webp: clips of the bundled model, dense and by forecast at 4x."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import wanjax

PROMPTS = (
    "a red ball moving right on a dark background",
    "a blue square growing on a light background",
    "a green triangle moving up on a gray background",
    "a yellow cross moving left on a dark background",
)
SCALE, GAP = 2, 8  # of the clips' pixels, and between them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, nargs="?", default="docs/images/tiny-t2v.webp")
    output = parser.parse_args().output
    pipe = wanjax.WanPipeline.from_pretrained("tiny-t2v")
    rows = [
        pipe(list(PROMPTS), seed=[0] * len(PROMPTS), cache=cache).array()
        for cache in (None, wanjax.Forecast(target_speedup=4.0))
    ]
    frames = [tiled([row[:, time] for row in rows]) for time in range(rows[0].shape[1])]
    first, *rest = frames
    pause = [125] * len(rest) + [900]  # 8 a second, and the last one to look at
    first.save(
        output, save_all=True, append_images=rest, duration=pause, loop=0, quality=80, method=6
    )
    print(f"{output}: {output.stat().st_size / 1000:.0f} kB, {first.width}x{first.height}")


def tiled(rows: list[np.ndarray]) -> Image.Image:
    """Pictures in a grid, on white."""
    pad = GAP // SCALE // 2
    margins = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    padded = [np.pad(row, margins, constant_values=255) for row in rows]
    grid = np.concatenate([np.concatenate(list(row), axis=1) for row in padded])
    return Image.fromarray(grid.repeat(SCALE, axis=0).repeat(SCALE, axis=1))


if __name__ == "__main__":
    main()
