"""Folders of existing mp4 files, made by anything, compared by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Float

from wanjax.errors import UsageError
from wanjax.evaluate.comparison import Comparison
from wanjax.evaluate.measuring import measure_against, measure_alone
from wanjax.evaluate.perceptual import Lpips
from wanjax.evaluate.store import Record, plain
from wanjax.media.video_files import read_video


def compare_folders(
    videos: str,
    output: Path,
    lpips: Lpips | None,
    about: Mapping[str, Any],
    notes: Sequence[str],
) -> Comparison:
    """Compare `videos`, folders with commas between, on the file names that all have.

    The first folder is the reference. Raises `UsageError` where the folders share no file, or
    where two videos differ in size or length.
    """
    folders = _folders(videos)
    names, missing = _shared_names(folders)
    reference, *_ = folders
    runs: dict[str, dict[str, Record]] = {variant: {} for variant in folders}
    for name in names:
        frames = {variant: _read(folder / name) for variant, folder in folders.items()}
        for variant in folders:
            record: Record = measure_alone(frames[variant], None) | {"against": {}}
            if variant != reference:
                try:
                    found = measure_against(frames[variant], frames[reference], lpips)
                except UsageError as error:
                    raise UsageError(f"{name} in {variant} and {reference}: {error}") from error
                record["against"][reference] = found
            runs[variant][name] = plain(record)
    return Comparison(
        about={**about, "title": " / ".join(folders), "settings": {}, "environment": {}},
        references=(reference,),
        changes={variant: str(folder) for variant, folder in folders.items()},
        clips=[{"name": name, "prompt": Path(name).stem, "seed": None} for name in names],
        runs=runs,
        videos={v: {name: folder / name for name in names} for v, folder in folders.items()},
        folder=output,
        fps=_fps(folders[reference] / names[0]),
        notes=[*notes, *missing, "measured on decoded mp4 files, with the codec's loss"],
    )


def _folders(videos: str) -> dict[str, Path]:
    """By a short name: the last part of each path, or the whole where those are equal."""
    paths = [Path(part.strip()).expanduser() for part in videos.split(",") if part.strip()]
    if len(paths) < 2:
        raise UsageError(f"videos={videos}: name two folders or more, as videos=dense,magcache")
    for path in paths:
        if not path.is_dir():
            raise UsageError(f"videos={videos}: there is no folder {path}")
    short = [path.resolve().name for path in paths]
    names = short if len(set(short)) == len(short) else list(map(str, paths))
    if len(set(names)) < len(names):
        raise UsageError(f"videos={videos}: the same folder is named twice")
    return dict(zip(names, paths, strict=True))


def _shared_names(folders: Mapping[str, Path]) -> tuple[list[str], list[str]]:
    """File names that all folders have, and a note on those that only some have."""
    found = [{file.name for file in folder.glob("*.mp4")} for folder in folders.values()]
    shared, some = set.intersection(*found), set.union(*found)
    if not shared:
        raise UsageError(f"videos: {', '.join(folders)} have no mp4 files of equal name")
    left_out = sorted(some - shared)
    notes = [f"left out, for not all folders have them: {', '.join(left_out)}"] if left_out else []
    return sorted(shared), notes


def _read(path: Path) -> Float[np.ndarray, "frames height width 3"]:
    return read_video(path).astype(np.float32) / 255


def _fps(path: Path) -> int:
    with av.open(str(path)) as file:
        return max(1, round(float(file.streams.video[0].average_rate or 16)))
