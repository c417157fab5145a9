"""Finished runs of a comparison, each in files of its own, so that a killed one goes on."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from wanjax.checkpoints.digest import content_digest
from wanjax.errors import UsageError, notify
from wanjax.files import atomic_path, read_json, without_home, write_json
from wanjax.media.video_files import save_video
from wanjax.parallel.hosts import array_from_first, from_first, is_first

Record = dict[str, Any]


class Store:
    """The folder of a comparison.

    `runs/VARIANT/CLIP.json` is the record of a run with its metrics, `.npz` beside it the
    latents, `videos/VARIANT/CLIP.mp4` the video. The record is written last: where it is and
    says of both what they are, the run is whole. Of several processes the first one alone reads
    and writes, and tells the others.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, variant: str, clip: str, fingerprint: str) -> Record | None:
        """The record of a finished run; None where there is none of this fingerprint.

        What is there and is not taken, for what it is or for what became of its video, is told of
        by a `Notice`.
        """
        return from_first(lambda: self._read(variant, clip, fingerprint))

    def _read(self, variant: str, clip: str, fingerprint: str) -> Record | None:
        path = self._record(variant, clip)
        if not os.path.lexists(path):
            return None
        try:
            record = read_json(path, UsageError)
            fault = self._fault(variant, clip, record, fingerprint)
        except UsageError as error:
            record, fault = {}, str(error)
        if fault is None:
            return record
        notify(f"{fault}: this run is made again", stacklevel=2)
        return None

    def _fault(self, variant: str, clip: str, record: Record, fingerprint: str) -> str | None:
        path = self._record(variant, clip)
        if record.get("digest") != _digest(record):
            return f"{path} is no record of a run, or was changed"
        if record.get("fingerprint") != fingerprint:
            return f"{path} was made with other settings, inputs, weights or packages"
        for file, digest in record["files"].items():
            if not (self.folder / file).is_file():
                return f"{self.folder / file} is no longer there"
            if content_digest(self.folder / file) != digest:
                return f"{self.folder / file} was cut or changed"
        return None

    def write(self, variant: str, clip: str, record: Record) -> Record:
        """Returns the record as `read` will; it knows the latents and video that it belongs to."""
        told: Record = from_first(lambda: self._signed(variant, clip, record))
        if is_first():
            write_json(self._record(variant, clip), told)
        return told

    def _signed(self, variant: str, clip: str, record: Record) -> Record:
        if "files" not in record:
            files = (self._record(variant, clip).with_suffix(".npz"), self.video(variant, clip))
            names = {f.relative_to(self.folder).as_posix(): f for f in files if f.exists()}
            record = {**record, "files": {n: content_digest(f) for n, f in names.items()}}
        told: Record = plain(record)
        return {**told, "digest": _digest(told)}

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


def _digest(record: Record) -> str:
    signed = {name: value for name, value in record.items() if name != "digest"}
    return hashlib.sha256(json.dumps(signed, sort_keys=True).encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """`value` as JSON can say it: arrays as lists, infinity (of a PSNR) as the text "inf".

    The home folder is `~`: others may read it.
    """
    if isinstance(value, str):
        return without_home(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value
