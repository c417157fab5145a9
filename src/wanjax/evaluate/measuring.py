"""The metrics of one run of a comparison, as its record has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from wanjax.evaluate.metrics import closeness, flicker
from wanjax.evaluate.perceptual import Lpips
from wanjax.evaluate.store import Record
from wanjax.tiny.score import score_video

Frames = Float[np.ndarray, "frames height width 3"]


def measure_alone(frames: Frames, prompt: str | None) -> Record:
    """What needs no reference: flicker and, with a prompt of the tiny world, the task score."""
    record: Record = {"flicker": flicker(frames)}
    if prompt is not None:
        verdict = score_video(to_uint8(frames), prompt)
        record["score"] = float(np.mean(list(verdict.values())))
        record["right"] = verdict
    return record


def measure_against(frames: Frames, reference: Frames, lpips: Lpips | None) -> Record:
    """How near the video is to the reference, frame by frame."""
    near = closeness(frames, reference)
    record: dict[str, Any] = {
        "psnr": near.psnr,
        "ssim": near.ssim,
        "temporal_ssim": near.temporal_ssim,
        "added_flicker": near.added_flicker,
    }
    if lpips is not None:
        record["lpips"] = lpips(frames, reference)
    return record


def to_uint8(frames: Frames) -> UInt8[np.ndarray, "frames height width 3"]:
    return np.round(frames * 255).astype(np.uint8)


def is_measured(found: Mapping[str, Any] | None, mark: str, lpips: Lpips | None) -> bool:
    """Whether `found` has all metrics against the reference with this fingerprint.

    A folder of an earlier version may lack some.
    """
    wanted = {"psnr", "ssim", "temporal_ssim", "added_flicker", *(["lpips"] if lpips else [])}
    return found is not None and found["fingerprint"] == mark and wanted <= set(found)
