"""Finished runs of a comparison, each in files of its own, so that a killed one goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from wanjax.files import atomic_path, write_json
from wanjax.media.video_files import save_video
from wanjax.parallel.hosts import array_from_first, from_first, is_first

Record = dict[str, Any]


class Store:
    """The folder of a comparison.

    `runs/VARIANT/CLIP.json` is the record of a run with its metrics, `.npz` beside it the
    latents, `videos/VARIANT/CLIP.mp4` the video. The record is written last: where it is, the
    run is whole. Of several processes the first one alone reads and writes, and tells the others.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, variant: str, clip: str, fingerprint: str) -> Record | None:
        """The record of a finished run; None where there is none of this fingerprint."""
        return from_first(lambda: self._read(variant, clip, fingerprint))

    def _read(self, variant: str, clip: str, fingerprint: str) -> Record | None:
        try:
            record = json.loads(self._record(variant, clip).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if record.get("fingerprint") == fingerprint else None

    def write(self, variant: str, clip: str, record: Record) -> Record:
        """Returns the record as `read` will."""
        told: Record = from_first(lambda: plain(record))
        if is_first():
            write_json(self._record(variant, clip), told)
        return told

    def write_video(
        self,
        variant: str,
        clip: str,
        latents: Float[np.ndarray, "z t h w"],
        frames: UInt8[np.ndarray, "frames height width 3"],
        fps: int,
    ) -> None:
        """Latents and video of a run; its record comes after them."""
        if not is_first():
            return
        with atomic_path(self._record(variant, clip).with_suffix(".npz")) as path:
            np.savez(path, latents=latents)
        save_video(frames, self.video(variant, clip), fps)

    def latents(self, variant: str, clip: str) -> Float[np.ndarray, "z t h w"]:
        return array_from_first(lambda: self._latents(variant, clip))

    def _latents(self, variant: str, clip: str) -> Float[np.ndarray, "z t h w"]:
        with np.load(self._record(variant, clip).with_suffix(".npz")) as file:
            latents: Float[np.ndarray, "z t h w"] = file["latents"]
            return latents

    def video(self, variant: str, clip: str) -> Path:
        return self.folder / "videos" / variant / f"{clip}.mp4"

    def _record(self, variant: str, clip: str) -> Path:
        return self.folder / "runs" / variant / f"{clip}.json"


def plain(value: Any) -> Any:
    """`value` as JSON can say it: arrays as lists, infinity (of a PSNR) as the text "inf"."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value
