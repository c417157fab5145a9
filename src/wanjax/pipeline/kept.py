"""What a run computed is kept where its video cannot be written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from wanjax.errors import RunError
from wanjax.files import atomic_path
from wanjax.pipeline.video import Video


@contextmanager
def kept_on_failure(video: Video, output: str) -> Iterator[None]:
    """Keep the latents, from which frames can be made again, if writing fails within.

    Raises `RunError` for a full or read-only disk, naming where they are.
    """
    try:
        yield
    except OSError as error:
        place = _keep(video, Path(output).expanduser())
        where = f"its latents are kept in {place}: pipe.decode(numpy.load(FILE)) makes the frames"
        raise RunError(
            f"{output} cannot be written: {error.strerror or error}; "
            + (where if place else "nor can its latents anywhere: make room, and run it again")
        ) from error


def _keep(video: Video, output: Path) -> Path | None:
    """Where there is room: beside the output, in this folder, in that for temporary files."""
    for folder in (output.parent, Path.cwd(), Path(tempfile.gettempdir())):
        path = folder / f"{output.stem or output.name}-latents.npy"
        try:
            with atomic_path(path) as partial:
                np.save(partial, video.latents)
        except OSError:  # there as well: the next one
            continue
        return path
    return None
