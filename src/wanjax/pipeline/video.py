"""What a pipeline call returns: frames, latents, the plan as executed, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from wanjax.caching.plan import Plan
from wanjax.errors import UsageError
from wanjax.media.formats import Quality
from wanjax.media.names import numbered
from wanjax.media.video_files import VideoFile, save_video
from wanjax.pipeline.timings import Timings
from wanjax.planning.memory import Memory


@dataclass(frozen=True)
class Video:
    """What a pipeline call returns: plain data, which can be kept and pickled.

    `frames` is None with output_type "latent".
    """

    frames: UInt8[np.ndarray, "batch frames height width 3"] | None
    latents: Float[np.ndarray, "batch z t h w"]
    plan: Plan
    timings: Timings
    fps: int
    memory: Memory

    def save(
        self,
        path: str | Path,
        quality: Quality = "standard",
        tags: Mapping[str, str] | None = None,
    ) -> list[VideoFile]:
        """Write .mp4, .webm, .webp or .gif, as `path` ends; NAME-0.mp4, ... for a batch.

        Text that ends in a slash is a folder, which has a .png for each frame.
        Returns what was written, with what its codec lost. For `quality` and `tags` see
        `wanjax.media.video_files.save_video`. Raises `UsageError` for another suffix, or a
        quality or size that the format cannot have.
        """
        if self.frames is None:
            raise UsageError('this call returned latents (output_type="latent"), no frames')
        names = [str(path)]
        if len(self.frames) > 1:
            names = [numbered(path, i) for i in range(len(self.frames))]
        return [
            save_video(frames, name, self.fps, quality, tags)
            for frames, name in zip(self.frames, names, strict=True)
        ]
