"""What a pipeline call returns: frames, latents, the plan as executed, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from wanjax.caching.plan import Plan
from wanjax.errors import UsageError
from wanjax.media.formats import Quality
from wanjax.media.names import numbered
from wanjax.media.video_files import VideoFile, save_video
from wanjax.pipeline.display import players
from wanjax.pipeline.timings import Timings
from wanjax.planning.memory import Memory

Frames = UInt8[np.ndarray, "batch frames height width 3"]
Images = list[list[Image.Image]]


@dataclass(frozen=True)
class Video:
    """What a pipeline call returns: plain data, which can be kept and pickled.

    `frames` are an array, with output_type "pil" a list of images for each video, and None with
    "latent". `prompts` has one for each video, or none where embeddings took their place. In a
    notebook a video shows itself.
    """

    frames: Frames | Images | None
    latents: Float[np.ndarray, "batch z t h w"]
    plan: Plan
    timings: Timings
    fps: int
    memory: Memory
    prompts: tuple[str, ...] = ()

    def __repr__(self) -> str:
        if self.frames is None:
            what = f"{count(len(self.latents), 'video')} as latents {self.latents.shape[1:]}"
        else:
            number, frames, height, width, _ = self.array().shape
            what = f"{count(number, 'video')} of {frames} frames, {width}x{height}, {self.fps} fps"
        seconds = sum(self.timings.stages.values())
        return f"Video({what}; {self.plan!r}; {seconds:.1f} s)"

    def _repr_html_(self) -> str:
        strip = self.plan._repr_svg_()
        if self.frames is None:
            return f"<p>{escape(repr(self))}</p>{strip}"
        videos = self.array()
        shown = players(videos, self.fps, self.prompts or [""] * len(videos))
        spent = escape(repr(self.timings).removeprefix("Timings(").removesuffix(")"))
        return f"<div>{shown}{strip}<p><small>{spent}</small></p></div>"

    def array(self) -> Frames:
        """The frames as uint8 [batch, frames, height, width, 3], in whatever form they are.

        Raises `UsageError` where there are none (output_type "latent").
        """
        if self.frames is None:
            raise UsageError('this call returned latents (output_type="latent"), no frames')
        if isinstance(self.frames, np.ndarray):
            return self.frames
        return np.stack([np.stack([np.asarray(image) for image in v]) for v in self.frames])

    def as_images(self) -> Video:
        """The same with `frames` as a list of PIL images for each video."""
        videos = [[Image.fromarray(frame) for frame in video] for video in self.array()]
        return replace(self, frames=videos)

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
        videos = self.array()
        names = [str(path)]
        if len(videos) > 1:
            names = [numbered(path, i) for i in range(len(videos))]
        return [
            save_video(frames, name, self.fps, quality, tags)
            for frames, name in zip(videos, names, strict=True)
        ]


def count(number: int, what: str) -> str:
    """`1 video`, `2 videos`."""
    return f"{number} {what}{'s' * (number != 1)}"
